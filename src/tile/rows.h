// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Rows of dense tensors: summed, quantized to INT8, and written back. Every loop is elementwise or
// an integer reduction, so the bits do not depend on how wide a port vectorizes it.
#pragma once

#include <cstdint>

#include "tile/float_math.h"
#include "tile/rope.h"
#include "tile/rotation.h"
#include "tile/types.h"
#include "tile/widen.h"

namespace intflash {
namespace {

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

// codes = round(row * inverse) over a run of channels whose length the compiler knows.
template <std::int64_t kCount>
INTFLASH_INLINE void quantize_run(const float* row, float inverse,
                                  std::int8_t* INTFLASH_RESTRICT codes) {
  for (std::int64_t c = 0; c < kCount; ++c) {
    codes[c] = static_cast<std::int8_t>(round_to_int(row[c] * inverse));
  }
}

// The row in the buffer, to be changed there.
INTFLASH_INLINE const float* copied_row(const float* row, std::int64_t dim, float* buffer) {
  if (row != buffer) {
    __builtin_memcpy(buffer, row, static_cast<std::size_t>(dim) * sizeof(float));
  }
  return buffer;
}

// Of f16 rows of 128 channels 2 KiB, twice what a core has line fill buffers for.
constexpr std::int64_t kRowsAhead = 8;

// Asks for a row some rows ahead: a head's rows in a cache that has tokens first lie pages apart,
// where no hardware prefetcher follows. May lie beyond the tensor, which is only asked for.
INTFLASH_INLINE void prefetch_row(const RowSource& source, std::int64_t row, std::int64_t dim) {
  const char* bytes = static_cast<const char*>(row_of(source, row));
  for (std::int64_t i = 0; i < bytes_of(source.dtype, dim); i += 64) __builtin_prefetch(bytes + i);
}

// Symmetric per token: scale = max|x| / 127, code = round(x * (127 / max|x|)), to nearest even.
// Returns the bits of the largest magnitude met, at least 0x7f800000 where one is NaN or infinite.
std::uint32_t quantize_rows(const QuantizeTask& task) {
  alignas(64) float buffer[kMaxHeadDim];
  const std::int64_t dim = task.dim;
  std::uint32_t largest_of_all = 0;
  for (std::int32_t r = 0; r < task.rows; ++r) {
    prefetch_row(task.source, r + kRowsAhead, dim);
    const float* row = widen_row(row_of(task.source, r), task.source.dtype, dim, buffer);
    if (task.rope.cos != nullptr) {
      row = copied_row(row, dim, buffer);
      embed_row(task.rope, r, buffer);
    }
    if (task.center != nullptr) {
      for (std::int64_t c = 0; c < dim; ++c) buffer[c] = row[c] - task.center[c];
      row = buffer;
    }
    if (task.rotate != 0) {
      row = copied_row(row, dim, buffer);
      rotate_row(buffer, dim);
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
