// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Attention in double precision from the definition (mode exact), and INT-FlashAttention's
// Algorithm 1 as published (mode intfa). Readable first; speed is no aim.
#pragma once

#include <cstddef>
#include <cstdint>

#include "api/problem.h"
#include "intflash/intflash.h"

namespace intflash::internal {

// Bytes of scratch that one call of attend_reference_row uses: 64-byte aligned, O(kv_len +
// head_dim).
std::size_t reference_scratch_bytes(const Problem& problem);

// Computes one row of out (and lse): batch b, query head h, query i. problem.mode is
// INTFLASH_MODE_EXACT or INTFLASH_MODE_INTFA.
void attend_reference_row(const Problem& problem, const intflash_attend_args& args, std::int64_t b,
                          std::int64_t h, std::int64_t i, void* scratch);

// Element (b, h, token, c) of an input tensor of the given dtype, as a double (codes times scale
// for INT8).
double tensor_element(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                      std::int64_t h, std::int64_t token, std::int64_t c);
// Its first dim elements from c = 0 on.
void tensor_row(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b, std::int64_t h,
                std::int64_t token, std::int64_t dim, double* row);
// Rounds value to dtype (to nearest even) and stores it at (b, h, token, c) of an output tensor.
void store_element(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                   std::int64_t h, std::int64_t token, std::int64_t c, float value);

}  // namespace intflash::internal
