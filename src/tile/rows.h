// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Rows of dense tensors: widened to f32, summed, rotated, quantized to INT8, and written back.
// Every loop is elementwise or an integer reduction, so the bits do not depend on how wide a port
// vectorizes it.
#pragma once

#include <cstdint>

#include "tile/float_math.h"
#include "tile/types.h"

namespace intflash {
namespace {

INTFLASH_INLINE float widen_f16(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000u) << 16;
  const std::uint32_t magnitude = (half & 0x7fffu) << 13;
  // Read with f32's exponent bias the value is 2^112 too small; the product is exact for normal and
  // subnormal halves.
  const std::uint32_t finite = bits_as<std::uint32_t>(bits_as<float>(magnitude) * 0x1p112f);
  return bits_as<float>(sign | (magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : finite));
}
INTFLASH_INLINE float widen_bf16(std::uint16_t half) {
  return bits_as<float>(static_cast<std::uint32_t>(half) << 16);
}

// To nearest even; beyond 65504 infinity.
INTFLASH_INLINE std::uint16_t narrow_f16(float value) {
  const std::uint32_t bits = bits_as<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  // Below 2^-14 the sum with 0.5 leaves the subnormal half in the low bits, rounded by the
  // addition.
  const std::uint32_t subnormal =
      bits_as<std::uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000u;
  const std::uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const std::uint32_t overflow = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const std::uint32_t half =
      magnitude >= 0x47800000u ? overflow : (magnitude < 0x38800000u ? subnormal : normal);
  return static_cast<std::uint16_t>(sign | half);
}
INTFLASH_INLINE std::uint16_t narrow_bf16(float value) {
  const std::uint32_t bits = bits_as<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u
                                                                       : rounded);
}

INTFLASH_INLINE const void* row_of(const RowSource& source, std::int64_t row) {
  const std::int64_t bytes = source.dtype == Dtype::kF32 ? 4 : source.dtype == Dtype::kInt8 ? 1 : 2;
  return static_cast<const char*>(source.data) + row * source.stride * bytes;
}

// One row in f32: the row itself where it is f32 already, else the buffer.
INTFLASH_INLINE const float* widen_row(const void* row, Dtype dtype, std::int64_t dim,
                                       float* INTFLASH_RESTRICT buffer) {
  const std::uint16_t* halves = static_cast<const std::uint16_t*>(row);
  switch (dtype) {
    case Dtype::kF16:
      for (std::int64_t c = 0; c < dim; ++c) buffer[c] = widen_f16(halves[c]);
      return buffer;
    case Dtype::kBf16:
      for (std::int64_t c = 0; c < dim; ++c) buffer[c] = widen_bf16(halves[c]);
      return buffer;
    case Dtype::kInt8:
      for (std::int64_t c = 0; c < dim; ++c)
        buffer[c] = static_cast<float>(static_cast<const std::int8_t*>(row)[c]);
      return buffer;
    case Dtype::kF32:
      break;
  }
  return static_cast<const float*>(row);
}

INTFLASH_INLINE std::uint32_t max_magnitude_of(const float* row, std::int64_t dim,
                                               std::uint32_t magnitude) {
  for (std::int64_t c = 0; c < dim; ++c) {
    magnitude = max_of(magnitude, bits_as<std::uint32_t>(row[c]) & 0x7fffffffu);
  }
  return magnitude;
}

std::uint32_t max_magnitude(const RowSource& source, std::int64_t rows, std::int64_t dim) {
  alignas(64) float buffer[kMaxHeadDim];
  std::uint32_t magnitude = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    magnitude =
        max_magnitude_of(widen_row(row_of(source, r), source.dtype, dim, buffer), dim, magnitude);
  }
  return magnitude;
}

std::uint32_t sum_rows(const RowSource& source, std::int64_t rows, std::int64_t dim,
                       float* INTFLASH_RESTRICT sum) {
  alignas(64) float buffer[kMaxHeadDim];
  std::uint32_t magnitude = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* row = widen_row(row_of(source, r), source.dtype, dim, buffer);
    for (std::int64_t c = 0; c < dim; ++c) {
      magnitude = max_of(magnitude, bits_as<std::uint32_t>(row[c]) & 0x7fffffffu);
      sum[c] += row[c];
    }
  }
  return magnitude;
}

// The sign that rotation gives channel c: bit 31 of a multiplicative hash, so that no natural
// pattern of channels (all equal, alternating) turns into one large coefficient.
INTFLASH_INLINE float rotation_sign(std::int64_t c) {
  const std::uint32_t hash = (static_cast<std::uint32_t>(c) + 1u) * 0x9e3779b1u;
  return bits_as<float>(0x3f800000u | ((hash ^ (hash << 7)) & 0x80000000u));
}

// Walsh-Hadamard transform of each run of `block` channels (the largest power of two that divides
// dim), orthonormal.
INTFLASH_INLINE void rotate_row(float* row, std::int64_t dim) {
  const std::int64_t block = dim & -dim;
  for (std::int64_t c = 0; c < dim; ++c) row[c] *= rotation_sign(c);
  for (std::int64_t half = 1; half < block; half *= 2) {
    for (std::int64_t first = 0; first < dim; first += 2 * half) {
      for (std::int64_t c = first; c < first + half; ++c) {
        const float a = row[c];
        const float b = row[c + half];
        row[c] = a + b;
        row[c + half] = a - b;
      }
    }
  }
  std::int32_t log2_block = 0;
  while ((std::int64_t{1} << log2_block) < block) ++log2_block;
  const float root = log2_block % 2 != 0 ? 0.70710678f : 1.0f;
  const float norm = root * power_of_two(-(log2_block / 2));
  for (std::int64_t c = 0; c < dim; ++c) row[c] *= norm;
}

// codes = round(row * inverse) over a run of channels whose length the compiler knows.
template <std::int64_t kCount>
INTFLASH_INLINE void quantize_run(const float* row, float inverse,
                                  std::int8_t* INTFLASH_RESTRICT codes) {
  for (std::int64_t c = 0; c < kCount; ++c) {
    codes[c] = static_cast<std::int8_t>(round_to_int(row[c] * inverse));
  }
}

// Symmetric per token: scale = max|x| / 127, code = round(x * (127 / max|x|)), to nearest even.
// Returns the bits of the largest magnitude met, at least 0x7f800000 where one is NaN or infinite.
std::uint32_t quantize_rows(const QuantizeTask& task) {
  alignas(64) float buffer[kMaxHeadDim];
  const std::int64_t dim = task.dim;
  std::uint32_t largest_of_all = 0;
  for (std::int32_t r = 0; r < task.rows; ++r) {
    const float* row = widen_row(row_of(task.source, r), task.source.dtype, dim, buffer);
    if (task.center != nullptr) {
      for (std::int64_t c = 0; c < dim; ++c) buffer[c] = row[c] - task.center[c];
      row = buffer;
    }
    if (task.rotate != 0) {
      if (row != buffer) {
        __builtin_memcpy(buffer, row, static_cast<std::size_t>(dim) * sizeof(float));
      }
      rotate_row(buffer, dim);
      row = buffer;
    }
    const std::uint32_t magnitude = max_magnitude_of(row, dim, 0);
    largest_of_all = max_of(largest_of_all, magnitude);
    const float largest = bits_as<float>(magnitude);
    // What is not finite is an error, and gets codes of 0 until it is reported.
    const bool none = largest < kTinyMagnitude || magnitude >= 0x7f800000u;
    const float inverse = none ? 0.0f : 127.0f / largest;
    task.scale[r] = none ? 0.0f : largest / 127.0f;
    std::int8_t* codes = task.codes + r * task.code_stride;
    if (magnitude >= 0x7f800000u) {
      __builtin_memset(codes, 0, static_cast<std::size_t>(task.code_stride));
      continue;
    }
    std::int64_t c = 0;
    for (; c + 64 <= dim; c += 64) quantize_run<64>(row + c, inverse, codes + c);
    for (; c < dim; c += 8) quantize_run<8>(row + c, inverse, codes + c);
    for (; c < task.code_stride; ++c) codes[c] = 0;
  }
  return largest_of_all;
}

std::int32_t sum_magnitudes(const std::int8_t* codes, std::int64_t dim) {
  std::int32_t sum = 0;
  for (std::int64_t c = 0; c < dim; ++c) sum += codes[c] < 0 ? -codes[c] : codes[c];
  return sum;
}

void write_row(const float* accumulators, float row_sum, std::int32_t dim, const float* center,
               Dtype dtype, void* out) {
  alignas(64) float buffer[kMaxHeadDim];
  float* INTFLASH_RESTRICT row = dtype == Dtype::kF32 ? static_cast<float*>(out) : buffer;
  // P counts 255 to one and the row sum 16 * 255 * 256: their quotient is 4096. A row that saw no
  // key has row_sum 0: its out is 0, where dividing would give NaN.
  const float factor = row_sum > 0.0f ? 4096.0f / row_sum : 0.0f;
  if (center != nullptr && row_sum > 0.0f) {
    for (std::int32_t c = 0; c < dim; ++c) row[c] = fused(accumulators[c], factor, center[c]);
  } else {
    for (std::int32_t c = 0; c < dim; ++c) row[c] = accumulators[c] * factor;
  }
  std::uint16_t* halves = static_cast<std::uint16_t*>(out);
  if (dtype == Dtype::kF16) {
    for (std::int32_t c = 0; c < dim; ++c) halves[c] = narrow_f16(buffer[c]);
  } else if (dtype == Dtype::kBf16) {
    for (std::int32_t c = 0; c < dim; ++c) halves[c] = narrow_bf16(buffer[c]);
  }
}

}  // namespace
}  // namespace intflash
