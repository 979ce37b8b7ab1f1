// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Rows of the caller's tensors: where they lie, and as codes and scales.
#pragma once

#include <cstdint>

#include "intflash/intflash.h"
#include "tile/types.h"

namespace intflash::internal {

// The rows of one head of a tensor from a token on.
RowSource rows_of(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                  std::int64_t h, std::int64_t token);

// One of those rows in f32: the row itself where it is f32 already, else the buffer [dim]. Codes of
// INT8 are widened as numbers.
const float* widened_token(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                           std::int64_t h, std::int64_t token, std::int64_t dim, float* buffer);

// The scale of a token of an INT8 tensor; 0 where its products would be denormal.
float scale_of(const intflash_tensor& tensor, std::int64_t b, std::int64_t h, std::int64_t token);

// What becomes of rows before they are quantized, and of their scales.
struct QuantizeForm {
  const float* center;  // [dim]; nullptr = none
  bool rotate;
  bool on_grid;  // scales are powers of 2^(1/64)
};

// Rows of dim elements as codes and scales, quantized, or of the codes that the caller gave.
// Returns the bits of the largest magnitude met. digits: as codes, 0 of INT8; nullptr = not asked
// for. rope: of those rows; not for INT8.
std::uint32_t quantize_tokens(const KernelTable& kernels, const intflash_tensor& tensor,
                              intflash_dtype dtype, std::int64_t b, std::int64_t h,
                              std::int64_t token, std::int32_t rows, std::int64_t dim,
                              const QuantizeForm& form, std::int64_t code_stride,
                              std::int8_t* codes, std::int8_t* digits, float* scale,
                              const RopeRows& rope = {});

// The same of values in f16, by scales that are powers of two. stride: of rows, in bytes.
std::uint32_t halve_tokens(const KernelTable& kernels, const intflash_tensor& tensor,
                           intflash_dtype dtype, std::int64_t b, std::int64_t h, std::int64_t token,
                           std::int32_t rows, std::int64_t dim, const QuantizeForm& form,
                           std::int64_t stride, std::int8_t* halves, float* scale);

}  // namespace intflash::internal
