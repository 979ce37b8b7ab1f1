// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Mode int8_qk: values in f16, and P V in f32. docs/numerics.md, section 4, "Values in f16".
#pragma once

#include <cstdint>

#include "tile/fetch_line.h"
#include "tile/halves.h"
#include "tile/panels.h"
#include "tile/rows.h"
#include "tile/types.h"
#include "tile/weights.h"

namespace intflash::internal {
namespace {

// ---- Rows of values ----

// The largest element of a row is of this exponent once it is scaled, as INT8's largest code is.
constexpr std::int32_t kF16Exponent = 7;

// RowKernels::halve_rows.
template <class Ops>
std::uint32_t halve_rows(const QuantizeTask& task) {
  alignas(64) float buffer[kMaxHeadDim];
  std::uint32_t largest_of_all = 0;
  for (std::int32_t r = 0; r < task.rows; ++r) {
    auto* const halves = reinterpret_cast<std::uint16_t*>(task.codes + r * task.code_stride);
    const PreparedRow row = prepare_row<Ops>(task, r, buffer);
    const float largest = bits_as<float>(row.magnitude);
    largest_of_all = max_of(largest_of_all, row.magnitude);
    __builtin_memset(halves, 0, static_cast<std::size_t>(task.code_stride));
    task.scale[r] = 0;
    // What is not finite is an error, and gets zeros until it is reported.
    if (largest < kTinyMagnitude || row.magnitude >= 0x7f800000u) continue;
    const std::int32_t exponent = exponent_of(largest) - kF16Exponent;
    const float inverse = power_of_two(-exponent);
    for (std::int64_t c = 0; c < task.dim; ++c) halves[c] = narrow_f16(row.channels[c] * inverse);
    task.scale[r] = power_of_two(exponent);
  }
  return largest_of_all;
}

// ---- P V ----

// Channels that a panel takes, in vectors: as many sums as hide the latency of an addition, or as
// registers hold.
template <class Ops>
constexpr std::int32_t f16_vectors(std::int32_t rows) {
  constexpr std::int32_t kLeast = 16 / Ops::kLanes;  // the channels that lie together
  if (Ops::kLanes == 8) return rows == 1 ? 8 : rows == 2 ? 4 : kLeast;
  if (Ops::kLanes == 16) return rows == 1 ? 8 : 4;
  return kLeast;
}

// accumulators += gain * (P V) for kVectors * kLanes channels of kRows rows, of which channel is
// the first. Each sum is over the keys in their order.
template <class Ops, std::int32_t kRows, std::int32_t kVectors>
INTFLASH_INLINE void f16_panel(const F16ValuesTask& task, std::int32_t row, std::int64_t channel) {
  using F32 = typename Ops::F32;
  constexpr std::int32_t kPerGroup = 16 / Ops::kLanes;
  constexpr std::int64_t kGroup = 16 * kBlockTokens;
  F32 sum[kRows][kVectors];
  INTFLASH_UNROLL
  for (std::int32_t r = 0; r < kRows; ++r) {
    INTFLASH_UNROLL
    for (std::int32_t v = 0; v < kVectors; ++v) sum[r][v] = Ops::broadcast_f32(0.0f);
  }
  const float* weights = task.weights + row * kScoreBlock;
  const std::int64_t first = channel / 16 * kGroup;
  for (std::int32_t half = 0; half < 2; ++half) {
    const auto* block = reinterpret_cast<const std::uint16_t*>(task.half[half].value_codes) + first;
    const auto* next = reinterpret_cast<const char*>(
        task.next == nullptr ? nullptr : task.next[half].value_codes + 2 * first);
    for (std::int32_t i = 0; i < task.keys->count[half]; ++i) {
      if (kRows <= kFewRows && next != nullptr && i % 2 == 0) {
        INTFLASH_UNROLL
        for (std::int32_t g = 0; g < kVectors / kPerGroup; ++g)
          fetch_line(next + 2 * g * kGroup + i * 32);
      }
      const std::int32_t key = task.keys->keys[half][i];
      const std::uint16_t* values = block + 16 * key;
      // What is fewer is held, so that sums stay in registers.
      const auto value = [&](std::int32_t v) {
        return Ops::load_halves(values + v / kPerGroup * kGroup + v % kPerGroup * Ops::kLanes);
      };
      const auto weight = [&](std::int32_t r) {
        return Ops::broadcast_f32(weights[r * kScoreBlock + key]);
      };
      if constexpr (kRows < kVectors) {
        F32 held[kRows];
        INTFLASH_UNROLL
        for (std::int32_t r = 0; r < kRows; ++r) held[r] = weight(r);
        INTFLASH_UNROLL
        for (std::int32_t v = 0; v < kVectors; ++v) {
          const F32 of_key = value(v);
          INTFLASH_UNROLL
          for (std::int32_t r = 0; r < kRows; ++r) sum[r][v] = Ops::fma(held[r], of_key, sum[r][v]);
        }
      } else {
        F32 held[kVectors];
        INTFLASH_UNROLL
        for (std::int32_t v = 0; v < kVectors; ++v) held[v] = value(v);
        INTFLASH_UNROLL
        for (std::int32_t r = 0; r < kRows; ++r) {
          const F32 of_row = weight(r);
          INTFLASH_UNROLL
          for (std::int32_t v = 0; v < kVectors; ++v)
            sum[r][v] = Ops::fma(of_row, held[v], sum[r][v]);
        }
      }
    }
    weights += kBlockTokens;
  }
  INTFLASH_UNROLL
  for (std::int32_t r = 0; r < kRows; ++r) {
    const F32 gain = Ops::broadcast_f32(task.gain[row + r]);
    float* const lanes = task.accumulators[row + r] + channel;
    INTFLASH_UNROLL
    for (std::int32_t v = 0; v < kVectors; ++v) {
      float* const at = lanes + v * Ops::kLanes;
      Ops::store_any_f32(at, Ops::fma(sum[r][v], gain, Ops::load_any_f32(at)));
    }
  }
}

// The channels of rows that are one panel.
template <class Ops, std::int32_t kRows>
void add_f16_panel(const F16ValuesTask& task) {
  constexpr std::int32_t kVectors = f16_vectors<Ops>(kRows);
  const std::int32_t padded = round_up(task.head_dim_v, 16);
  std::int32_t c = 0;
  for (; c + kVectors * Ops::kLanes <= padded; c += kVectors * Ops::kLanes)
    f16_panel<Ops, kRows, kVectors>(task, 0, c);
  for (; c < padded; c += 16) f16_panel<Ops, kRows, 16 / Ops::kLanes>(task, 0, c);
}

// kVectors of channels, of all rows in turn, so that they stay in L1.
template <class Ops, std::int32_t kVectors>
void add_f16_channels(const F16ValuesTask& task, std::int32_t channel) {
  for_each_panel<6, 4, 2, 1>(task.rows, [&](auto panel, std::int32_t row) {
    f16_panel<Ops, decltype(panel)::kRows, kVectors>(task, row, channel);
  });
}

// RowKernels::add_f16_values.
template <class Ops>
void add_f16_values(const F16ValuesTask& task) {
  constexpr std::int32_t kVectors = f16_vectors<Ops>(kMaxTileRows);
  if constexpr (f16_vectors<Ops>(1) != kVectors) {
    if (task.rows == 1) return add_f16_panel<Ops, 1>(task);
    if (task.rows == 2) return add_f16_panel<Ops, 2>(task);
  }
  const std::int32_t padded = round_up(task.head_dim_v, 16);
  std::int32_t c = 0;
  for (; c + kVectors * Ops::kLanes <= padded; c += kVectors * Ops::kLanes)
    add_f16_channels<Ops, kVectors>(task, c);
  for (; c < padded; c += 16) add_f16_channels<Ops, 16 / Ops::kLanes>(task, c);
}

}  // namespace
}  // namespace intflash::internal
