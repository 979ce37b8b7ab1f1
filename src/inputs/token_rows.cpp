// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "inputs/token_rows.h"

#include <cmath>
#include <cstring>

#include "inputs/problem.h"
#include "tile/widen.h"

namespace intflash::internal {

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
  return scale >= kTinyMagnitude / 127 && std::isfinite(scale) ? scale : 0.0f;
}

std::uint32_t quantize_tokens(const KernelTable& kernels, const intflash_tensor& tensor,
                              intflash_dtype dtype, std::int64_t b, std::int64_t h,
                              std::int64_t token, std::int32_t rows, std::int64_t dim,
                              const float* center, bool rotate, std::int64_t code_stride,
                              std::int8_t* codes, float* scale, const RopeRows& rope) {
  const RowSource source = rows_of(tensor, dtype, b, h, token);
  if (dtype != INTFLASH_INT8) {
    return kernels.quantize_rows({source, rows, static_cast<std::int32_t>(dim), center,
                                  rotate ? 1 : 0, codes, code_stride, scale, rope});
  }
  for (std::int32_t r = 0; r < rows; ++r) {
    std::memcpy(codes + r * code_stride,
                static_cast<const std::int8_t*>(source.data) + r * source.stride,
                static_cast<std::size_t>(dim));
    std::memset(codes + r * code_stride + dim, 0, static_cast<std::size_t>(code_stride - dim));
    scale[r] = scale_of(tensor, b, h, token + r);
  }
  return kernels.max_magnitude(source, rows, dim);
}

}  // namespace intflash::internal
