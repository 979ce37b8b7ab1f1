// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "engine/plan.h"

#include <algorithm>

namespace intflash::internal {
namespace {

// Tiles that pass over a super-block of keys before the next one is read: each super-block is read
// from memory once per item, so with 16 tiles of 24 rows the reading costs 2 bytes per 48 products.
constexpr std::int64_t kTilesPerItem = 16;
// Items per worker below which items are made smaller, so that the last ones end together.
constexpr std::int64_t kItemsPerWorker = 8;

class Layout {
 public:
  std::size_t take(std::int64_t bytes) {
    const std::size_t offset = used_;
    used_ += static_cast<std::size_t>(round_up(bytes, 64));
    return offset;
  }
  std::size_t used() const { return used_; }

 private:
  std::size_t used_ = 0;
};

std::int64_t choose_tiles_per_item(const Problem& problem, const Plan& plan) {
  const std::int64_t heads = problem.batch * problem.num_kv_heads;
  const std::int64_t wanted = ceil_div(plan.num_workers * kItemsPerWorker, heads);
  return std::clamp<std::int64_t>(plan.tiles_per_head / wanted, 1, kTilesPerItem);
}

// One tile of each head at most: packed keys are then read once, and need not be kept. Means of all
// keys come first, and workers without a head would not pack.
std::int64_t choose_heads_at_once(const Problem& problem, const Plan& plan) {
  const std::int64_t heads = problem.batch * problem.num_kv_heads;
  if (plan.tiles_per_head > 1 || plan.num_workers > heads) return 0;
  if (problem.center_key || problem.center_value) return 0;
  // Codes of INT8 are scaled by numbers that are looked at in the end alone.
  if (problem.key_dtype == INTFLASH_INT8 || problem.value_dtype == INTFLASH_INT8) return 0;
  const std::int64_t share = ceil_div(heads, plan.num_workers);
  return share <= kMaxHeadsAtOnce ? share : 0;
}

}  // namespace

Plan make_plan(const Problem& problem, const KernelTable& kernels, std::int32_t num_workers,
               std::int64_t l2_bytes) {
  Plan plan{};
  const std::int64_t heads = problem.batch * problem.num_kv_heads;
  plan.num_workers = num_workers;
  plan.rows_per_head = problem.group_size * problem.query_len;
  plan.tile = tile_shape(std::min<std::int64_t>(kernels.tile_rows, plan.rows_per_head),
                         problem.head_dim, problem.head_dim_v);
  plan.tiles_per_head = ceil_div(plan.rows_per_head, plan.tile.rows);
  plan.tiles_per_item = num_workers == 1 ? std::min(plan.tiles_per_head, kTilesPerItem)
                                         : choose_tiles_per_item(problem, plan);
  plan.num_items = heads * ceil_div(plan.tiles_per_head, plan.tiles_per_item);

  plan.num_blocks = ceil_div(problem.kv_len, kScoreBlock);
  plan.page = {problem.head_dim, problem.head_dim_v, kBlockTokens};
  const std::int64_t span_bytes = plan.page.bytes() * (kSpanTokens / kBlockTokens);
  plan.superblock_spans = std::max<std::int64_t>(1, l2_bytes * 5 / 8 / span_bytes);
  plan.heads_at_once = choose_heads_at_once(problem, plan);
  plan.worker = worker_layout(kernels, plan.tile, std::max(plan.tiles_per_item, plan.heads_at_once),
                              std::max<std::int64_t>(1, plan.heads_at_once), problem.head_dim,
                              problem.head_dim_v);

  Layout layout;
  const std::int64_t spans = ceil_div(problem.kv_len, kSpanTokens);
  const std::int64_t dims = problem.head_dim + problem.head_dim_v;
  const bool centered = problem.center_key || problem.center_value;
  plan.status_offset = layout.take(sizeof(CallStatus));
  plan.mask_offset =
      layout.take(problem.batch * problem.query_len * static_cast<std::int64_t>(sizeof(KeyRange)));
  plan.center_offset = layout.take(centered ? heads * dims * 4 : 0);
  plan.partial_offset = layout.take(centered ? heads * spans * dims * 8 : 0);
  plan.blocks_offset =
      layout.take(heads * plan.num_blocks * static_cast<std::int64_t>(sizeof(ScoreBlock)));
  plan.pages_offset = layout.take(heads * plan.num_blocks * 2 * plan.page.bytes());
  plan.workers_offset = layout.used();
  layout.take(plan.worker.bytes * num_workers);
  plan.total_bytes = layout.used();
  return plan;
}

WorkItem work_item(const Problem& problem, const Plan& plan, std::int64_t index) {
  const std::int64_t heads = problem.batch * problem.num_kv_heads;
  const std::int64_t groups = ceil_div(plan.tiles_per_head, plan.tiles_per_item);
  const std::int64_t group = groups - 1 - index / heads;
  const std::int64_t head = index % heads;
  const std::int64_t first = group * plan.tiles_per_item;
  return {head / problem.num_kv_heads, head % problem.num_kv_heads, first,
          std::min(plan.tiles_per_item, plan.tiles_per_head - first)};
}

}  // namespace intflash::internal
