// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A row of queries, keys or values on its way to INT8, by a warp: turned, centred, rotated, and
// quantized. docs/numerics.md, section 1.
#pragma once

#include <cstdint>

#include "cuda/call.h"
#include "cuda/simt.h"
#include "cuda/tensor_row.h"
#include "cuda/transform.h"
#include "tile/float_math.h"
#include "tile/hadamard.h"
#include "tile/rope.h"
#include "tile/scale_grid.h"

namespace intflash::internal {
namespace {

INTFLASH_DEVICE_TABLE ScaleGrid kDeviceScaleGrid = scale_grid();

// What is done to a row before it is quantized.
struct RowChange {
  CudaRope rope;
  std::int64_t position;  // of the row, for rope
  const float* center;    // nullptr: none
  bool rotates;
  bool on_grid;  // the scale is rounded up to a power of 2^(1/64)
};

// What a row is quantized by, and what it held.
struct RowQuantum {
  float scale, inverse;
  std::uint32_t raw_magnitude, magnitude;  // bits of the largest |x|, as it came and as it is

  INTFLASH_DEVICE bool is_finite() const { return raw_magnitude < 0x7f800000u; }
};

INTFLASH_DEVICE std::int32_t magnitude_bits(float x) {
  return bits_as<std::int32_t>(x) & 0x7fffffff;
}

// The smallest 2^(k/64) that is not below the scale.
INTFLASH_DEVICE float scale_on_grid(float scale) {
  const float log2 = log2_of_mantissa(mantissa_of(scale));
  const std::int32_t nearest = kScaleSteps + round_to_int(log2 * static_cast<float>(kScaleSteps));
  const float below = kDeviceScaleGrid.mantissa[nearest];
  const float above = kDeviceScaleGrid.mantissa[nearest + 1];
  const float mantissa = below < mantissa_of(scale) ? above : below;
  return mantissa * power_of_two(exponent_of(scale));
}

// Of a row in shared memory.
INTFLASH_DEVICE void turn_row(const CudaRope& rope, std::int64_t position, Shared<float> row,
                              std::int32_t lane) {
  const std::int32_t pairs = rope.dim / 2;
  sync_warp();
  for (std::int32_t i = lane; i < pairs; i += kWarpThreads) {
    const std::int32_t first = rope.halves ? i : 2 * i;
    const std::int32_t second = rope.halves ? i + pairs : 2 * i + 1;
    float x = row.load(first);
    float y = row.load(second);
    turn_pair(x, y, rope.cos[position * pairs + i], rope.sin[position * pairs + i]);
    row.store(first, x);
    row.store(second, y);
  }
  sync_warp();
}

// Leaves a row as it comes, but turned, in buffer; returns bits of its largest |x| before.
INTFLASH_DEVICE std::uint32_t load_row(const TensorRow& from, std::int32_t dim,
                                       const RowChange& change, Shared<float> buffer,
                                       std::int32_t lane) {
  std::int32_t raw = 0;
  for (std::int32_t c = lane; c < dim; c += kWarpThreads) {
    const float x = from.load(c);
    raw = max_of(raw, magnitude_bits(x));
    buffer.store(c, x);
  }
  if (change.rope.cos != nullptr) turn_row(change.rope, change.position, buffer, lane);
  return static_cast<std::uint32_t>(warp_max(raw));
}

// Makes it what is to be coded.
INTFLASH_DEVICE RowQuantum prepare_row(std::uint32_t raw_magnitude, std::int32_t dim,
                                       const RowChange& change, Shared<float> buffer,
                                       std::int32_t lane) {
  if (change.center != nullptr || change.rotates) {
    for (std::int32_t c = lane; c < dim; c += kWarpThreads) {
      float x = buffer.load(c);
      if (change.center != nullptr) x -= change.center[c];
      const std::uint32_t flip = change.rotates ? rotation_sign(static_cast<std::uint32_t>(c)) : 0u;
      buffer.store(c, bits_as<float>(bits_as<std::uint32_t>(x) ^ flip));
    }
  }
  if (change.rotates) transform_rows(buffer, 1, dim, lane);
  const float times = change.rotates ? transform_factor(dim) : 1.0f;
  std::int32_t magnitude = 0;
  for (std::int32_t c = lane; c < dim; c += kWarpThreads) {
    const float x = buffer.load(c) * times;
    magnitude = max_of(magnitude, magnitude_bits(x));
    buffer.store(c, x);
  }
  RowQuantum row{};
  row.raw_magnitude = raw_magnitude;
  row.magnitude = static_cast<std::uint32_t>(warp_max(magnitude));
  const float largest = bits_as<float>(row.magnitude);
  // What is not finite is an error, and gets codes of 0 until it is reported.
  if (largest < kTinyMagnitude || row.magnitude >= 0x7f800000u) return row;
  row.scale = largest / 127.0f;
  row.inverse = 127.0f / largest;
  if (change.on_grid) {
    row.scale = scale_on_grid(row.scale);
    row.inverse = 1.0f / row.scale;
  }
  return row;
}

INTFLASH_DEVICE void note_row(CudaFinding* finding, const RowQuantum& row, std::uint32_t magnitude,
                              std::int64_t index, std::int32_t lane) {
  if (lane != 0) return;
  if (row.is_finite()) {
    raise_to(&finding->magnitude, magnitude);
  } else {
    lower_to(&finding->first_bad, index);
  }
}

// Whether the tables' elements for a row are out of range, of which the lowest pair is noted.
INTFLASH_DEVICE void check_rope(const CudaRope& rope, std::int64_t position, std::int64_t row,
                                std::int64_t* first_bad, std::int32_t lane) {
  if (rope.cos == nullptr) return;
  const std::int32_t pairs = rope.dim / 2;
  const std::int32_t most = bits_as<std::int32_t>(kCudaMaxRope);
  for (std::int32_t i = lane; i < pairs; i += kWarpThreads) {
    const std::int64_t at = position * pairs + i;
    if (magnitude_bits(rope.cos[at]) > most || magnitude_bits(rope.sin[at]) > most)
      lower_to(first_bad, row * pairs + i);
  }
}

INTFLASH_DEVICE std::int8_t code_of(float x, float inverse) {
  return static_cast<std::int8_t>(round_to_int(x * inverse));
}

// What a code leaves of x, in 1/256 of a step.
INTFLASH_DEVICE std::int8_t digit_of(float x, float inverse) {
  const float steps = x * inverse;
  const float rest = steps - static_cast<float>(round_to_int(steps));
  return static_cast<std::int8_t>(min_of(max_of(round_to_int(rest * 256.0f), -127), 127));
}

}  // namespace
}  // namespace intflash::internal
