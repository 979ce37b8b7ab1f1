// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/dense_plan.h"

#include <algorithm>
#include <cstdio>

#include "core/arena.h"
#include "core/checks.h"
#include "cpu/query_limits.h"
#include "engine/attention.h"
#include "pages/codec.h"

namespace intflash::internal {
namespace {

// One tile of each head: packed keys are then read once, and need not be kept.
bool may_pack_as_it_attends(const Problem& problem, const KernelTable& kernels) {
  if (problem.kv_len == 0 || problem.group_size * problem.query_len > kernels.tile_rows)
    return false;
  // Means of all keys come first.
  if (problem.center_key || problem.center_value) return false;
  // Codes of INT8 are scaled by numbers that are looked at in the end alone.
  return problem.key_dtype != INTFLASH_INT8 && problem.value_dtype != INTFLASH_INT8;
}

// 64 tokens as they are packed.
PageLayout packed_page(const Problem& problem, bool has_digits) {
  PageLayout page = page_layout(has_digits ? kInt8WideCodec : kInt8Codec, problem.head_dim,
                                problem.head_dim_v, kBlockTokens);
  if (problem.has_f16_values())
    page.value_block_bytes = kK8v16Codec.value_block_bytes(problem.head_dim_v);
  return page;
}

void lay_out(const KernelTable& kernels, std::int64_t run_bytes, DensePlan& plan) {
  const Problem& problem = plan.problem;
  const std::int64_t heads = problem.batch * problem.num_kv_heads;
  const std::int64_t spans = ceil_div(problem.kv_len, kSpanTokens);
  const std::int64_t dims = problem.head_dim + problem.head_dim_v;
  const bool centered = problem.center_key || problem.center_value;
  plan.page = packed_page(problem, problem.has_digits());
  plan.blocks_per_head = ceil_div(problem.kv_len, kScoreBlock);
  plan.limits_per_head = plan.packs_as_it_attends ? 0 : limits_per_head(problem);
  plan.pages_per_head = plan.blocks_per_head * (kScoreBlock / kBlockTokens);
  // Second digits are rarely read, unless all are.
  plan.spans_at_once =
      spans_in_cache(packed_page(problem, problem.all_take_digits()), plan.context->l2_bytes);
  plan.tile = tile_shape(plan.schedule.tile_rows, problem.head_dim, problem.head_dim_v,
                         problem.digits_above);
  plan.worker = worker_layout(
      kernels, plan.tile,
      {std::max(plan.schedule.most_tiles, plan.schedule.most_heads),
       Attention::worker_state_bytes(plan.schedule, plan.tile),
       std::min(plan.spans_at_once, std::max<std::int64_t>(spans, 1)), problem.head_dim,
       problem.head_dim_v, std::max(problem.head_dim, problem.value_row_bytes()),
       plan.packs_as_it_attends ? kScoreBlock / kBlockTokens * plan.page.bytes() : 0, 0, false});

  Arena arena;
  arena.take(run_bytes);
  plan.mask_offset =
      arena.take(problem.batch * problem.query_len * static_cast<std::int64_t>(sizeof(KeyRange)));
  plan.center_offset = arena.take(centered ? heads * dims * 4 : 0);
  plan.partial_offset = arena.take(centered ? heads * spans * (dims + 2) * 8 : 0);
  plan.limits_offset = arena.take(heads * plan.limits_per_head * 4);
  plan.blocks_offset =
      arena.take(heads * plan.blocks_per_head * static_cast<std::int64_t>(sizeof(ScoreBlock)));
  plan.pages_offset = arena.take(heads * plan.pages_per_head * plan.page.bytes());
  plan.slots_offset = arena.take(plan.schedule.num_slots * plan.tile.state_floats() * 4);
  plan.workers_offset = arena.used();
  arena.take(plan.worker.bytes * plan.schedule.shape.num_workers);
  plan.workspace_bytes = static_cast<std::size_t>(arena.used());
}

}  // namespace

intflash_status create_dense_plan(const intflash_context& context, const Problem& problem,
                                  std::int64_t run_bytes, DensePlan*& plan) {
  const KernelTable& kernels = *context.port->kernels;
  const bool packs_as_it_attends = may_pack_as_it_attends(problem, kernels);
  const intflash_status status = create_plan(context, plan, [&](DensePlan& cut) {
    const ScheduleShape shape = {
        problem.num_kv_heads, problem.group_size,
        kernels.tile_rows,    packs_as_it_attends ? kernels.tile_rows : kFewRows,
        context.num_threads,  packs_as_it_attends};
    return cut_dense(context, problem, shape, cut);
  });
  if (status != INTFLASH_OK) return status;
  plan->packs_as_it_attends = packs_as_it_attends;
  plan->port = context.port->name;
  std::snprintf(plan->kernel, sizeof plan->kernel, "attend/%s%s/%s/rows%dx%d",
                mode_name(problem.mode), problem.score_cap > 0 ? "+cap" : "", plan->port,
                kernels.tile_rows, kScoreBlock);
  lay_out(kernels, run_bytes, *plan);
  return INTFLASH_OK;
}

}  // namespace intflash::internal
