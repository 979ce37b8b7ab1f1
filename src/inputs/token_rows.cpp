// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "inputs/token_rows.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/rotation.h"
#include "inputs/problem.h"
#include "tile/float_math.h"
#include "tile/halves.h"
#include "tile/widen.h"

namespace intflash::internal {
namespace {

constexpr float kTinyScale = kTinyMagnitude / 127;

// Codes of a row as a cache has them: doubled, and the scale halved, while they stay within 127, so
// that it is the scale that says how large the row is; zeros where there is no scale.
// Returns the scale. largest: of the codes, in magnitude.
float fit_codes(std::int8_t* codes, std::int64_t dim, float largest, float scale) {
  if (largest == 0 || scale == 0) {
    std::memset(codes, 0, static_cast<std::size_t>(dim));
    return 0;
  }
  int factor = 1;
  for (; largest < 64 && scale >= 2 * kTinyScale; largest *= 2) {
    factor *= 2;
    scale /= 2;
  }
  for (std::int64_t c = 0; factor > 1 && c < dim; ++c)
    codes[c] = static_cast<std::int8_t>(codes[c] * factor);
  return scale;
}

}  // namespace

RowSource rows_of(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                  std::int64_t h, std::int64_t token) {
  const std::int64_t offset =
      b * tensor.stride_batch + h * tensor.stride_head + token * tensor.stride_token;
  const Dtype type = static_cast<Dtype>(dtype);
  return {static_cast<const char*>(tensor.data) + bytes_of(type, offset), type,
          tensor.stride_token};
}

const float* widened_token(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                           std::int64_t h, std::int64_t token, std::int64_t dim, float* buffer) {
  const RowSource row = rows_of(tensor, dtype, b, h, token);
  return widen_row(row.data, row.dtype, dim, buffer);
}

float scale_of(const intflash_tensor& tensor, std::int64_t b, std::int64_t h, std::int64_t token) {
  const std::int64_t block = tensor.scale_block == 0 ? 0 : token / tensor.scale_block;
  const float scale =
      tensor.scale[b * tensor.scale_stride_batch + h * tensor.scale_stride_head + block];
  // What is not finite is an error, or not seen.
  return scale >= kTinyScale && std::isfinite(scale) ? scale : 0.0f;
}

std::uint32_t quantize_tokens(const KernelTable& kernels, const intflash_tensor& tensor,
                              intflash_dtype dtype, std::int64_t b, std::int64_t h,
                              std::int64_t token, std::int32_t rows, std::int64_t dim,
                              const QuantizeForm& form, std::int64_t code_stride,
                              std::int8_t* codes, std::int8_t* digits, float* scale,
                              const RopeRows& rope) {
  const RowSource source = rows_of(tensor, dtype, b, h, token);
  if (dtype != INTFLASH_INT8) {
    return kernels.rows->quantize_rows({source, rows, static_cast<std::int32_t>(dim), form.center,
                                        rotation_signs(form.rotate), codes, digits, code_stride,
                                        scale, form.on_grid, rope});
  }
  if (digits != nullptr) std::memset(digits, 0, static_cast<std::size_t>(rows * code_stride));
  std::uint32_t magnitude = 0;
  for (std::int32_t r = 0; r < rows; ++r) {
    const RowSource row = rows_of(tensor, dtype, b, h, token + r);
    std::int8_t* const to = codes + r * code_stride;
    std::memcpy(to, row.data, static_cast<std::size_t>(dim));
    std::memset(to + dim, 0, static_cast<std::size_t>(code_stride - dim));
    const std::uint32_t of_row = kernels.rows->max_magnitude(row, 1, dim);
    scale[r] = fit_codes(to, dim, std::bit_cast<float>(of_row), scale_of(tensor, b, h, token + r));
    magnitude = std::max(magnitude, of_row);
  }
  return magnitude;
}

std::uint32_t halve_tokens(const KernelTable& kernels, const intflash_tensor& tensor,
                           intflash_dtype dtype, std::int64_t b, std::int64_t h, std::int64_t token,
                           std::int32_t rows, std::int64_t dim, const QuantizeForm& form,
                           std::int64_t stride, std::int8_t* halves, float* scale) {
  if (dtype != INTFLASH_INT8) {
    return kernels.rows->halve_rows(
        {rows_of(tensor, dtype, b, h, token), rows, static_cast<std::int32_t>(dim), form.center,
         rotation_signs(form.rotate), halves, nullptr, stride, scale, false, RopeRows{}});
  }
  // What the scale has beside its power of two goes into the codes.
  std::uint32_t magnitude = 0;
  std::int8_t codes[kMaxHeadDim];
  for (std::int32_t r = 0; r < rows; ++r) {
    const std::uint32_t of_row = quantize_tokens(kernels, tensor, dtype, b, h, token + r, 1, dim,
                                                 form, dim, codes, nullptr, scale + r);
    magnitude = std::max(magnitude, of_row);
    auto* const to = reinterpret_cast<std::uint16_t*>(halves + r * stride);
    const float mantissa = scale[r] == 0 ? 0 : mantissa_of(scale[r]);
    for (std::int64_t c = 0; c < dim; ++c)
      to[c] = narrow_f16(static_cast<float>(codes[c]) * mantissa);
    if (scale[r] > 0) scale[r] = power_of_two(exponent_of(scale[r]));
  }
  return magnitude;
}

}  // namespace intflash::internal
