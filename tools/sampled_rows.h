// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Runs of rows from all over the queries, on which errors are measured: a reference of all rows
// would take minutes.
#pragma once

#include <cstdint>
#include <vector>

#include "attention_inputs.h"
#include "call.h"

namespace intflash {

// Rows [first, first + rows) of all heads.
struct RowRun {
  std::int64_t first, rows;
};

// Runs of the rows from first on, in their order, that have no row in common.
std::vector<RowRun> sample_of(std::int64_t first, std::int64_t query_len);
std::int64_t num_rows(const std::vector<RowRun>& runs);

// The outs of runs, by query head: to each, [batch][rows][head_dim_v] of run after run.
using HeadOuts = std::vector<std::vector<float>>;

// By a dense call.
HeadOuts attend_runs(const Context& context, const intflash_attend_desc& desc,
                     const AttentionInputs& inputs, const std::vector<RowRun>& runs);

// Relative L1, of each head and of all.
struct HeadErrors {
  double rel_l1;
  std::vector<double> by_head;
};
HeadErrors head_errors(const HeadOuts& outs, const HeadOuts& reference);

}  // namespace intflash
