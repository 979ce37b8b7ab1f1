// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// States that callers have, of the same rows: checked, and merged row by row.
#pragma once

#include <cstdint>

#include "intflash/cache.h"
#include "tile/types.h"

namespace intflash::internal {

// The keys and pointers of a state, which may be NULL where it has no rows. name: of the argument;
// index: in that array, or -1.
intflash_status check_state(const char* name, std::int64_t index, const intflash_state& state,
                            bool has_rows);
// Shape, order and all numbers of a set.
intflash_status check_state_set(const KernelTable& kernels, const intflash_state_set& set);

// One row of a set's states, merged.
struct MergedRow {
  float reference;
  float row_sum;
  double center_score;
  alignas(64) float accumulators[kMaxHeadDim];

  AttentionState state() { return {&reference, &row_sum, accumulators, kMaxHeadDim}; }
};
void merge_row(const KernelTable& kernels, const intflash_state_set& set, std::int64_t row,
               MergedRow& merged);

}  // namespace intflash::internal
