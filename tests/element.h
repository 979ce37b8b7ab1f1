// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Elements as intflash.h defines them, read by nothing of the library's: what oracles see.
#pragma once

#include <cstdint>

#include "intflash/intflash.h"

namespace intflash::internal {

// The number that the bits of an INTFLASH_F16 or INTFLASH_BF16 stand for.
double sixteen_bit_value(intflash_dtype dtype, std::uint16_t bits);

// The same of a byte of INTFLASH_F8_E4M3 or INTFLASH_F8_E5M2, and the byte of the finite number
// nearest to value, of two the even one.
double eight_bit_value(intflash_dtype dtype, std::uint8_t code);
std::uint8_t eight_bit_code(intflash_dtype dtype, float value);

// Element (b, h, token, c) of a tensor.
double element_of(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                  std::int64_t h, std::int64_t token, std::int64_t c);

// What so many elements of a dtype take; of ggml's types they are whole blocks.
std::int64_t bytes_of(intflash_dtype dtype, std::int64_t elements);

}  // namespace intflash::internal
