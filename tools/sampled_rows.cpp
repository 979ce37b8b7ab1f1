// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "sampled_rows.h"

#include <algorithm>
#include <cstddef>
#include <span>

#include "error_metrics.h"
#include "inputs/token_rows.h"

namespace intflash {
namespace {

constexpr std::int64_t kRunRows = 16;
constexpr std::int64_t kRuns = 8;

void attend_run(const Context& context, intflash_attend_desc desc, const AttentionInputs& inputs,
                const RowRun& run, HeadOuts& outs) {
  intflash_attend_args args = inputs.args();
  args.query.data =
      const_cast<void*>(internal::rows_of(args.query, desc.query_dtype, 0, 0, run.first).data);
  // The last of the rows sees the last of the keys.
  if (desc.mask == INTFLASH_MASK_CAUSAL)
    desc.kv_len = std::max<std::int64_t>(desc.kv_len - desc.query_len + run.first + run.rows, 0);
  desc.query_len = run.rows;
  const std::int64_t size = run.rows * desc.head_dim_v;
  std::vector<float> out(static_cast<std::size_t>(desc.batch * desc.num_query_heads * size));
  args.out = contiguous(out.data(), desc.num_query_heads, run.rows, desc.head_dim_v);
  context.attend(desc, args);
  for (std::int64_t i = 0; i < desc.batch * desc.num_query_heads; ++i) {
    std::vector<float>& of_head = outs[static_cast<std::size_t>(i % desc.num_query_heads)];
    of_head.insert(of_head.end(), out.begin() + i * size, out.begin() + (i + 1) * size);
  }
}

double rel_l1_of(const std::vector<float>& out, const std::vector<float>& reference) {
  return measure_error(std::span<const float>(out), std::span<const float>(reference)).rel_l1;
}

}  // namespace

std::vector<RowRun> sample_of(std::int64_t first, std::int64_t query_len) {
  const std::int64_t rows = query_len - first;
  if (rows <= kRuns * kRunRows) return {{first, rows}};
  std::vector<RowRun> runs;
  for (std::int64_t i = 0; i < kRuns; ++i)
    runs.push_back({first + (rows - kRunRows) * i / (kRuns - 1), kRunRows});
  return runs;
}

std::int64_t num_rows(const std::vector<RowRun>& runs) {
  std::int64_t rows = 0;
  for (const RowRun& run : runs) rows += run.rows;
  return rows;
}

HeadOuts attend_runs(const Context& context, const intflash_attend_desc& desc,
                     const AttentionInputs& inputs, const std::vector<RowRun>& runs) {
  HeadOuts outs(static_cast<std::size_t>(desc.num_query_heads));
  for (const RowRun& run : runs) attend_run(context, desc, inputs, run, outs);
  return outs;
}

HeadErrors head_errors(const HeadOuts& outs, const HeadOuts& reference) {
  HeadErrors errors{};
  std::vector<float> all, all_reference;
  for (std::size_t h = 0; h < outs.size(); ++h) {
    errors.by_head.push_back(rel_l1_of(outs[h], reference[h]));
    all.insert(all.end(), outs[h].begin(), outs[h].end());
    all_reference.insert(all_reference.end(), reference[h].begin(), reference[h].end());
  }
  errors.rel_l1 = rel_l1_of(all, all_reference);
  return errors;
}

}  // namespace intflash
