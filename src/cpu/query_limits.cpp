// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/query_limits.h"

#include <algorithm>

#include "engine/row_group.h"
#include "inputs/token_rows.h"
#include "tile/score_block.h"

namespace intflash::internal {
namespace {

std::int64_t limits_per_query_head(const Problem& problem) {
  return ceil_div(problem.query_len, kMaxTileRows);
}

}  // namespace

std::int64_t limits_per_head(const Problem& problem) {
  const bool may_do_without = problem.has_digits() && !problem.all_take_digits();
  // To rotate and quantize a query once more costs about what second digits of two keys do.
  const bool are_few = 2 * problem.group_size * problem.query_len < problem.kv_len;
  return may_do_without && are_few ? problem.group_size * limits_per_query_head(problem) : 0;
}

void limit_queries(const DenseRun& run, const Worker& worker, std::int64_t index) {
  const Problem& p = run.problem();
  const std::int64_t head = index / run.dense_plan().limits_per_head;
  const std::int64_t part = index % run.dense_plan().limits_per_head;
  const std::int64_t query_head =
      head % p.num_kv_heads * p.group_size + part / limits_per_query_head(p);
  const std::int64_t first = part % limits_per_query_head(p) * kMaxTileRows;
  QueryTile query;
  query.rows = static_cast<std::int32_t>(std::min<std::int64_t>(p.query_len - first, kMaxTileRows));
  query.head_dim = static_cast<std::int32_t>(p.head_dim);
  query.code_stride = static_cast<std::int32_t>(round_up(p.head_dim, 64));
  query.codes = worker.codes;
  float scale[kMaxTileRows];
  quantize_tokens(run.kernels(), run.args.query, p.query_dtype, head / p.num_kv_heads, query_head,
                  first, query.rows, p.head_dim, {nullptr, p.rotation.keys, false},
                  query.code_stride, worker.codes, nullptr, scale);
  set_row_scales(run.kernels(), p.softmax_scale, scale, 0, query);
  run.query_limits(head)[part] = unit_limit(query);
}

float query_limit(const DenseRun& run, std::int64_t head) {
  const std::int64_t count = run.dense_plan().limits_per_head;
  if (run.part != RunPart::kAll || count == 0) return kNoQueryLimit;
  const float* const limits = run.query_limits(head);
  return *std::max_element(limits, limits + count);
}

}  // namespace intflash::internal
