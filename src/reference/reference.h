// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Attention in double precision from the definition (mode exact), and INT-FlashAttention's
// Algorithm 1 as published (mode intfa). Readable first; speed is no aim.
#pragma once

#include <cstddef>
#include <cstdint>

#include "inputs/problem.h"
#include "intflash/intflash.h"

namespace intflash::internal {

// Bytes of scratch that one call of attend_reference_row uses: 64-byte aligned, O(kv_len +
// head_dim).
std::size_t reference_scratch_bytes(const Problem& problem);

// One row of a problem, and where it lies.
struct ReferenceRow {
  std::int64_t batch, query_head, query;
  KeyRange keys;         // that are attended as far as masks let it
  std::int64_t kv_head;  // of the tensors key and value, whose token 0 is at keys.begin
  std::int64_t token;    // of the tensors query and out
  float* lse;            // nullptr: not asked for
};

// Computes one row of out (and lse). problem.mode is INTFLASH_MODE_EXACT or INTFLASH_MODE_INTFA.
void attend_reference_row(const Problem& problem, const intflash_attend_args& args,
                          const ReferenceRow& row, void* scratch);

}  // namespace intflash::internal
