// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Elements of the caller's tensors as numbers, bit by bit and without any port: for the reference,
// and for what is looked at once.
#pragma once

#include <cstdint>

#include "intflash/intflash.h"

namespace intflash::internal {

// The factor between the codes of an INT8 row and its values.
float token_scale(const intflash_tensor& tensor, std::int64_t b, std::int64_t h,
                  std::int64_t token);

// Row (b, h, token) as doubles; every dtype is exact in them, and so is a code times its scale.
void tensor_row(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b, std::int64_t h,
                std::int64_t token, std::int64_t dim, double* row);
// One element of it.
double tensor_element(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                      std::int64_t h, std::int64_t token, std::int64_t c);
// Rounds value to dtype (to nearest even) and stores it at (b, h, token, c) of an output tensor.
void store_element(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                   std::int64_t h, std::int64_t token, std::int64_t c, float value);

}  // namespace intflash::internal
