// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Rows of dense tensors: summed, quantized to INT8, and written back. Every loop is elementwise or
// an integer reduction, so the bits do not depend on how wide a port vectorizes it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tile/float_math.h"
#include "tile/rope.h"
#include "tile/rotation.h"
#include "tile/scale_grid.h"
#include "tile/types.h"
#include "tile/widen.h"

namespace intflash::internal {
namespace {

// Bits of the largest magnitude of a row. Four vectors of them: each step of one waits for the one
// before.
template <class Ops>
INTFLASH_INLINE std::uint32_t max_magnitude_of(const float* row, std::int64_t dim) {
  LargestLanes<Ops> largest[4];
  std::int64_t c = 0;
  for (; c + 4 * Ops::kLanes <= dim; c += 4 * Ops::kLanes) {
    INTFLASH_UNROLL
    for (std::int64_t i = 0; i < 4; ++i)
      largest[i].meet(Ops::load_any_f32(row + c + i * Ops::kLanes));
  }
  INTFLASH_UNROLL
  for (std::int64_t i = 1; i < 4; ++i)
    largest[0].bits = Ops::max32(largest[0].bits, largest[i].bits);
  std::uint32_t magnitude = largest[0].largest();
  for (; c < dim; ++c) magnitude = max_of(magnitude, bits_as<std::uint32_t>(row[c]) & 0x7fffffffu);
  return magnitude;
}

template <class Ops>
std::uint32_t max_magnitude(const RowSource& source, std::int64_t rows, std::int64_t dim) {
  alignas(64) float buffer[kMaxHeadDim];
  std::uint32_t magnitude = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* row = widen_row<Ops>(row_of(source, r), source.dtype, dim, buffer);
    magnitude = max_of(magnitude, max_magnitude_of<Ops>(row, dim));
  }
  return magnitude;
}

template <class Ops>
std::uint32_t sum_rows(const RowSource& source, std::int64_t rows, std::int64_t dim,
                       float* INTFLASH_RESTRICT sum) {
  alignas(64) float buffer[kMaxHeadDim];
  std::uint32_t magnitude = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* row = widen_row<Ops>(row_of(source, r), source.dtype, dim, buffer);
    for (std::int64_t c = 0; c < dim; ++c) {
      magnitude = max_of(magnitude, bits_as<std::uint32_t>(row[c]) & 0x7fffffffu);
      sum[c] += row[c];
    }
  }
  return magnitude;
}

// The row in the buffer, to be changed there.
INTFLASH_INLINE const float* copied_row(const float* row, std::int64_t dim, float* buffer) {
  if (row != buffer) {
    __builtin_memcpy(buffer, row, static_cast<std::size_t>(dim) * sizeof(float));
  }
  return buffer;
}

// Rows that are asked for before they are read: a head's rows in a cache that has tokens first lie
// pages apart, where no hardware prefetcher follows. The best of 4, 8, 16 and 32 for 8 heads side
// by side in f16 (AVX-512, 2026-11).
constexpr std::int64_t kRowsAhead = 16;

// Asks for bytes at an address, which may lie beyond the tensor.
INTFLASH_INLINE void prefetch_row(std::uintptr_t address, std::int64_t bytes) {
  for (std::int64_t i = 0; i < bytes; i += 64)
    __builtin_prefetch(reinterpret_cast<const void*>(address + static_cast<std::uintptr_t>(i)));
}

// A row to be quantized, and the bits of its largest magnitude.
struct PreparedRow {
  const float* channels;
  std::uint32_t magnitude;
};

template <class Ops>
INTFLASH_INLINE PreparedRow prepare_widened(const float* row, const std::uint32_t* signs,
                                            std::int64_t dim, float* buffer) {
  if (signs != nullptr) return {buffer, rotate_row<Ops>(row, signs, buffer, dim)};
  return {row, max_magnitude_of<Ops>(row, dim)};
}

// The same of a row of kDtype and whole runs of 64 channels, which are widened on their way.
template <class Ops, Dtype kDtype>
INTFLASH_NOINLINE PreparedRow prepare_narrow(const void* row, const std::uint32_t* signs,
                                             std::int64_t dim, float* buffer) {
  const auto load = [row](std::int64_t first, std::int64_t i) {
    return widened<Ops, kDtype>(row, first, i);
  };
  INTFLASH_ASSUME((dim & -dim) >= 64);
  if (signs != nullptr) return {buffer, rotate_channels<Ops>(load, signs, buffer, dim)};
  constexpr std::int64_t kVectors = 64 / Ops::kLanes;
  LargestLanes<Ops> largest;
  for (std::int64_t first = 0; first < dim; first += 64) {
    // All are loaded before the first is stored: blocks' scales once.
    typename Ops::F32 x[kVectors];
    INTFLASH_UNROLL
    for (std::int64_t i = 0; i < kVectors; ++i) x[i] = load(first, i * Ops::kLanes);
    INTFLASH_UNROLL
    for (std::int64_t i = 0; i < kVectors; ++i) {
      Ops::store_any_f32(buffer + first + i * Ops::kLanes, x[i]);
      largest.meet(x[i]);
    }
  }
  return {buffer, largest.largest()};
}

// Row r of a task, turned, centred and rotated; in the buffer, unless it is taken as it lies.
template <class Ops>
INTFLASH_NOINLINE PreparedRow prepare_row(const QuantizeTask& task, std::int32_t r, float* buffer) {
  const std::int64_t dim = task.dim;
  const void* const source = row_of(task.source, r);
  const bool is_changed = task.rope.cos != nullptr || task.center != nullptr;
  if constexpr (requires { &Ops::load_nibbles; }) {
    if (dim % 64 == 0 && !is_changed) {
      switch (task.source.dtype) {
        case Dtype::kF16:
          return prepare_narrow<Ops, Dtype::kF16>(source, task.signs, dim, buffer);
        case Dtype::kBf16:
          return prepare_narrow<Ops, Dtype::kBf16>(source, task.signs, dim, buffer);
        case Dtype::kQ8_0:
          return prepare_narrow<Ops, Dtype::kQ8_0>(source, task.signs, dim, buffer);
        case Dtype::kQ4_0:
          return prepare_narrow<Ops, Dtype::kQ4_0>(source, task.signs, dim, buffer);
        default:
          break;
      }
    }
  }
  const float* row = widen_row<Ops>(source, task.source.dtype, dim, buffer);
  if (task.rope.cos != nullptr) {
    row = copied_row(row, dim, buffer);
    embed_row(task.rope, r, buffer);
  }
  if (task.center != nullptr) {
    for (std::int64_t c = 0; c < dim; ++c) buffer[c] = row[c] - task.center[c];
    row = buffer;
  }
  return prepare_widened<Ops>(row, task.signs, dim, buffer);
}

// codes = round(row * inverse), and zeros up to the stride.
template <class Ops>
INTFLASH_INLINE void write_codes(const float* row, std::int64_t dim, float inverse,
                                 std::int8_t* INTFLASH_RESTRICT codes, std::int64_t stride) {
  std::int64_t c = 0;
  for (; c + 64 <= dim; c += 64) Ops::quantize_64(row + c, inverse, codes + c);
  for (; c < dim; ++c) codes[c] = static_cast<std::int8_t>(round_to_int(row[c] * inverse));
  for (; c < stride; ++c) codes[c] = 0;
}

// digits = round((row * inverse - code) * 256), at most 127 in magnitude, and zeros up to the
// stride.
INTFLASH_NOINLINE void write_digits(const float* INTFLASH_RESTRICT row, std::int64_t dim,
                                    float inverse, std::int8_t* INTFLASH_RESTRICT digits,
                                    std::int64_t stride) {
  for (std::int64_t c = 0; c < dim; ++c) {
    const float steps = row[c] * inverse;
    const float rest = steps - static_cast<float>(round_to_int(steps));
    digits[c] = static_cast<std::int8_t>(min_of(max_of(round_to_int(rest * 256.0f), -127), 127));
  }
  for (std::int64_t c = dim; c < stride; ++c) digits[c] = 0;
}

// ---- Scales on a grid ----

// Rows whose largest magnitudes are found before the first is divided by its own: each step of a
// row waits for the one before. Sixteen gain 1 %, and would take 64 KiB of stack.
constexpr std::int32_t kRowsAtOnce = 8;

// The smallest 2^(k/64) that are not below the scales: their log2 is exact in fixed point. Loops
// of their own around the look-ups, so that they vectorize.
INTFLASH_INLINE void put_on_grid(float* scale, float* inverse) {
  std::int32_t nearest[kRowsAtOnce];
  float below[kRowsAtOnce], above[kRowsAtOnce];
  for (std::int32_t i = 0; i < kRowsAtOnce; ++i) {
    const float log2 = log2_of_mantissa(mantissa_of(scale[i]));
    nearest[i] = kScaleSteps + round_to_int(log2 * static_cast<float>(kScaleSteps));
  }
  for (std::int32_t i = 0; i < kRowsAtOnce; ++i) {
    below[i] = kScaleGrid.mantissa[nearest[i]];
    above[i] = kScaleGrid.mantissa[nearest[i] + 1];
  }
  for (std::int32_t i = 0; i < kRowsAtOnce; ++i) {
    const float mantissa = select_float(below[i] < mantissa_of(scale[i]), above[i], below[i]);
    const float on_grid = mantissa * power_of_two(exponent_of(scale[i]));
    inverse[i] = select_float(scale[i] == 0.0f, 0.0f, 1.0f / on_grid);
    scale[i] = select_float(scale[i] == 0.0f, 0.0f, on_grid);
  }
}

// Symmetric per token: scale = max|x| / 127, code = round(x * (127 / max|x|)), to nearest even; on
// the grid code = round(x * (1 / scale)).
// Returns the bits of the largest magnitude met, at least 0x7f800000 where one is NaN or infinite.
template <class Ops>
std::uint32_t quantize_rows(const QuantizeTask& task) {
  alignas(64) float buffer[kRowsAtOnce * kMaxHeadDim];
  const std::int64_t dim = task.dim;
  const std::int64_t row_bytes = bytes_of(task.source.dtype, dim);
  // The stride of a single row may be anything.
  const std::uintptr_t step =
      task.rows > 1 ? static_cast<std::uintptr_t>(bytes_of(task.source.dtype, task.source.stride))
                    : 0;
  const std::uintptr_t ahead =
      reinterpret_cast<std::uintptr_t>(task.source.data) + kRowsAhead * step;
  const std::int64_t stride = round_up(dim, 16);
  std::uint32_t largest_of_all = 0;
  for (std::int32_t first = 0; first < task.rows; first += kRowsAtOnce) {
    const std::int32_t rows = min_of(kRowsAtOnce, task.rows - first);
    const float* row[kRowsAtOnce];
    std::uint32_t magnitude[kRowsAtOnce] = {};
    for (std::int32_t i = 0; i < rows; ++i) {
      prefetch_row(ahead + static_cast<std::uintptr_t>(first + i) * step, row_bytes);
      const PreparedRow prepared = prepare_row<Ops>(task, first + i, buffer + i * stride);
      row[i] = prepared.channels;
      magnitude[i] = prepared.magnitude;
    }
    float scale[kRowsAtOnce];
    float inverse[kRowsAtOnce];
    for (std::int32_t i = 0; i < kRowsAtOnce; ++i) {
      const float largest = bits_as<float>(magnitude[i]);
      // What is not finite is an error, and gets codes of 0 until it is reported.
      const bool none = (largest < kTinyMagnitude) | (magnitude[i] >= 0x7f800000u);
      inverse[i] = select_float(none, 0.0f, 127.0f / largest);
      scale[i] = select_float(none, 0.0f, largest / 127.0f);
      largest_of_all = max_of(largest_of_all, magnitude[i]);
    }
    if (task.on_grid) put_on_grid(scale, inverse);
    for (std::int32_t i = 0; i < rows; ++i) {
      std::int8_t* codes = task.codes + (first + i) * task.code_stride;
      task.scale[first + i] = scale[i];
      if (magnitude[i] < 0x7f800000u) {
        write_codes<Ops>(row[i], dim, inverse[i], codes, task.code_stride);
      } else {
        __builtin_memset(codes, 0, static_cast<std::size_t>(task.code_stride));
      }
      if (task.digits == nullptr) continue;
      // Of what is not finite, zeros.
      const bool is_finite = magnitude[i] < 0x7f800000u;
      write_digits(row[i], is_finite ? dim : 0, inverse[i],
                   task.digits + (first + i) * task.code_stride, task.code_stride);
    }
  }
  return largest_of_all;
}

std::int32_t sum_magnitudes(const std::int8_t* codes, std::int64_t dim) {
  std::int32_t sum = 0;
  for (std::int64_t c = 0; c < dim; ++c) sum += codes[c] < 0 ? -codes[c] : codes[c];
  return sum;
}

template <class Ops>
void write_row(const float* accumulators, float row_sum, std::int32_t dim,
               const std::uint32_t* signs, const float* center, Dtype dtype, void* out) {
  alignas(64) float buffer[kMaxHeadDim];
  float* INTFLASH_RESTRICT row = dtype == Dtype::kF32 ? static_cast<float*>(out) : buffer;
  // A row that saw no key has row_sum 0: its out is 0, where dividing would give NaN.
  const float factor = row_sum > 0.0f ? kRowSumOfOut / row_sum : 0.0f;
  const bool is_centered = center != nullptr && row_sum > 0.0f;
  if (signs != nullptr && row_sum > 0.0f) {
    unrotate_row<Ops>(accumulators, factor, signs, row, dim);
    for (std::int32_t c = 0; is_centered && c < dim; ++c) row[c] += center[c];
  } else if (is_centered) {
    for (std::int32_t c = 0; c < dim; ++c) row[c] = fused(accumulators[c], factor, center[c]);
  } else {
    for (std::int32_t c = 0; c < dim; ++c) row[c] = accumulators[c] * factor;
  }
  std::uint16_t* halves = static_cast<std::uint16_t*>(out);
  if (dtype == Dtype::kF16) {
    // The weights' rounding may lift out above the values, and the largest of them to infinity.
    for (std::int32_t c = 0; c < dim; ++c)
      halves[c] = narrow_f16(min_of(max_of(buffer[c], -65504.0f), 65504.0f));
  } else if (dtype == Dtype::kBf16) {
    for (std::int32_t c = 0; c < dim; ++c) halves[c] = narrow_bf16(buffer[c]);
  }
}

}  // namespace
}  // namespace intflash::internal
