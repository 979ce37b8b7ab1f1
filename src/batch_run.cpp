// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "batch_run.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "checks.h"
#include "rope.h"
#include "row_group.h"
#include "score_bias.h"
#include "score_range.h"

namespace intflash {
namespace {

std::int64_t num_scans(const intflash_batch_plan& plan) {
  const intflash_tensor none{};
  return num_chunks({"query", none, plan.query_dtype, 1, plan.num_query_heads, plan.num_queries,
                     plan.page.head_dim});
}

PageRun pages_of(const BatchRun& run, std::int64_t request) {
  return page_run(run.args->pages, request, run.plan->requests[request].mask.kv_begin);
}

ScoreBias score_bias(const BatchRun& run, std::int64_t request) {
  const intflash_batch_args& args = *run.args;
  ScoreBias bias{};
  if (args.additive_masks != nullptr) bias.additive = args.additive_masks[request];
  if (args.bit_masks != nullptr) bias.bits = args.bit_masks[request];
  bias.alibi_slopes = args.alibi_slopes;
  bias.rule = run.plan->requests[request].mask;
  return bias;
}

RowGroup row_group(const BatchRun& run, const BatchRequest& request, const ScoreBias& bias,
                   std::int64_t kv_head) {
  const intflash_batch_plan& plan = *run.plan;
  RowGroup group{};
  group.kernels = plan.context->port->kernels;
  group.query = &run.args->query;
  group.out = &run.args->out;
  group.query_dtype = plan.query_dtype;
  group.out_dtype = plan.out_dtype;
  group.batch = 0;
  group.first_head = kv_head * plan.group_size;
  group.first_token = request.first_query;
  if (run.args->lse != nullptr)
    group.lse = run.args->lse + request.first_query * plan.num_query_heads + group.first_head;
  group.lse_stride_head = 1;
  group.lse_stride_token = plan.num_query_heads;
  group.group_size = plan.group_size;
  group.num_rows = plan.group_size * request.mask.query_len;
  group.head_dim = plan.page.head_dim;
  group.head_dim_v = plan.page.head_dim_v;
  group.mask = request.mask;
  group.softmax_scale = request.softmax_scale;
  group.score_cap = plan.score_cap;
  if (run.args->sinks != nullptr) group.sinks = run.args->sinks + group.first_head;
  if (!bias.is_empty()) group.bias = &bias;
  group.rotate = plan.rotate;
  group.rope = rope_rows(run.args->rope, first_position(request));
  group.key_center = run.cache->key_center_of(kv_head);
  group.value_center = run.cache->value_center_of(kv_head);
  return group;
}

AttentionState slot_state(const BatchRun& run, std::int64_t slot) {
  const BatchLayout& layout = run.plan->layout;
  float* state =
      reinterpret_cast<float*>(run.workspace + layout.slots_offset + slot * layout.slot_bytes);
  return {state, state + kMaxTileRows, state + 2 * kMaxTileRows,
          layout.worker.tile.accumulator_stride};
}

void copy_state(const AttentionState& from, const AttentionState& to, std::int64_t rows) {
  std::copy_n(from.reference, rows, to.reference);
  std::copy_n(from.row_sum, rows, to.row_sum);
  std::copy_n(from.accumulators, rows * from.accumulator_stride, to.accumulators);
}

// The score blocks of a span that lie in [begin, end) of a request's keys, out of its pages.
void gather_span(const BatchRun& run, const BatchRequest& request, const PageRun& pages,
                 std::int64_t kv_head, std::int64_t span, ScoreBlock* blocks) {
  const KernelTable& kernels = *run.plan->context->port->kernels;
  const KeyRange present = {request.mask.kv_begin, request.mask.kv_len};
  for (std::int64_t b = 0; b < kBlocksPerSpan; ++b) {
    const std::int64_t first = span * kSpanTokens + b * kScoreBlock;
    if (first + kScoreBlock <= present.begin || first >= present.end) continue;
    ScoreBlock& block = blocks[b];
    std::uint64_t keep[2];
    for (std::int64_t half = 0; half < 2; ++half) {
      const std::int64_t position = first + half * kBlockTokens;
      keep[half] = keep_word(present, position);
      // Where no token is, the other half stands in: it is multiplied, and not seen.
      if (keep[half] != 0) block.half[half] = run.cache->block(pages, kv_head, position);
    }
    if (keep[0] == 0) block.half[0] = block.half[1];
    if (keep[1] == 0) block.half[1] = block.half[0];
    kernels.prepare_block(block, keep);
  }
}

// Tiles of one kv head against the item's spans; what is written depends on whether the item has
// all spans of its tiles.
void attend_head(const BatchRun& run, const BatchItem& item, std::int64_t kv_head,
                 const Worker& worker) {
  const intflash_batch_plan& plan = *run.plan;
  const TileShape& shape = plan.layout.worker.tile;
  const BatchRequest& request = plan.requests[item.request];
  const PageRun pages = pages_of(run, item.request);
  const ScoreBias bias = score_bias(run, item.request);
  const RowGroup group = row_group(run, request, bias, kv_head);
  const auto first_row = [&](std::int64_t i) { return (item.first_tile + i) * shape.rows; };
  for (std::int64_t i = 0; i < item.num_tiles; ++i)
    begin_tile(group, shape, first_row(i), *worker.tile(i));
  // The first part of a cut range begins with the tile's first span.
  const bool is_later_part =
      item.slot >= 0 && item.first_span * kSpanTokens > worker.tile(0)->min_begin;
  for (std::int64_t s = 0; s < item.num_spans; ++s) {
    const std::int64_t span = item.first_span + s;
    gather_span(run, request, pages, kv_head, span, worker.blocks);
    if (is_later_part) {
      attend_span_into(group, worker, span, worker.blocks, *worker.tile(0),
                       slot_state(run, item.slot + s));
      continue;
    }
    for (std::int64_t i = 0; i < item.num_tiles; ++i)
      attend_span(group, worker, span, worker.blocks, *worker.tile(i));
  }
  if (is_later_part) return;
  if (item.slot >= 0) {
    const Tile& tile = *worker.tile(0);
    copy_state(tile.total, slot_state(run, item.slot), tile.query.rows);
    return;
  }
  for (std::int64_t i = 0; i < item.num_tiles; ++i)
    finish_tile(group, first_row(i), *worker.tile(i));
}

void merge_tile(const BatchRun& run, const BatchMerge& merge, const Worker& worker) {
  const intflash_batch_plan& plan = *run.plan;
  const TileShape& shape = plan.layout.worker.tile;
  const ScoreBias bias = score_bias(run, merge.request);
  const RowGroup group = row_group(run, plan.requests[merge.request], bias, merge.head);
  Tile& tile = *worker.tile(0);
  begin_tile(group, shape, merge.tile * shape.rows, tile);
  copy_state(slot_state(run, merge.first_slot), tile.total, tile.query.rows);
  tile.touched = true;
  for (std::int64_t i = 1; i < merge.num_slots; ++i) {
    group.kernels->merge_states(slot_state(run, merge.first_slot + i), tile.total, tile.query.rows,
                                static_cast<std::int32_t>(group.head_dim_v));
  }
  finish_tile(group, merge.tile * shape.rows, tile);
}

ScoreRange score_range(const BatchRun& run) {
  const double turned = run.args->rope.cos == nullptr ? 1.0 : 2.0 * static_cast<double>(kMaxRope);
  return {largest_of(run.query_tensor(), run.query) * turned, run.cache->largest_key_magnitude(),
          static_cast<double>(run.plan->largest_softmax_scale), run.plan->page.head_dim,
          run.plan->rotate};
}

// The request that a query of the batch belongs to.
std::int64_t request_of(const intflash_batch_plan& plan, std::int64_t query) {
  const BatchRequest* after =
      std::upper_bound(plan.requests, plan.requests + plan.num_requests, query,
                       [](std::int64_t q, const BatchRequest& r) { return q < r.first_query; });
  return after - plan.requests - 1;
}

// Looks for NaN and +infinity in a scan task's share of the additive masks.
void scan_masks(BatchRun& run, std::int64_t task) {
  if (run.args->additive_masks == nullptr) return;
  const intflash_batch_plan& plan = *run.plan;
  const std::int64_t tasks = num_scans(plan);
  const std::int64_t end = plan.num_queries * (task + 1) / tasks;
  for (std::int64_t query = plan.num_queries * task / tasks; query < end; ++query) {
    const std::int64_t request = request_of(plan, query);
    if (has_bad_mask(*plan.context->port->kernels, score_bias(run, request), 0,
                     plan.num_query_heads, query - plan.requests[request].first_query))
      lower_to(run.first_bad_bias, query);
  }
}

intflash_status report_bad_masks(const BatchRun& run) {
  const std::int64_t query = run.first_bad_bias.load(std::memory_order_relaxed);
  if (query == INT64_MAX) return INTFLASH_OK;
  const std::int64_t request = request_of(*run.plan, query);
  char name[48];
  std::snprintf(name, sizeof name, "additive_masks[%lld]", static_cast<i64>(request));
  return report_bad_mask(name, score_bias(run, request), 0, run.plan->num_query_heads,
                         query - run.plan->requests[request].first_query);
}

bool was_cancelled(BatchRun& run) {
  if (run.cancelled.load(std::memory_order_relaxed) != 0) return true;
  if (run.args->should_cancel == nullptr || run.args->should_cancel(run.args->cancel_user) == 0)
    return false;
  run.cancelled.store(1, std::memory_order_relaxed);
  return true;
}

}  // namespace

ScannedTensor BatchRun::query_tensor() const {
  return {"query",           args->query,        plan->query_dtype, 1, plan->num_query_heads,
          plan->num_queries, plan->page.head_dim};
}

Team BatchRun::team() {
  return {plan->context->parallel, plan->num_workers, plan->layout.worker,
          workspace + plan->layout.workers_offset, next_task};
}

std::int64_t num_tasks(const intflash_batch_plan& plan, std::int32_t phase) {
  return phase == kScanPhase     ? num_scans(plan)
         : phase == kAttendPhase ? plan.num_items
                                 : plan.num_merges;
}

intflash_status result_of(const BatchRun& run) {
  intflash_status status = report_bad(run.query_tensor(), run.query);
  if (status == INTFLASH_OK) status = report_bad_masks(run);
  if (status == INTFLASH_OK) status = check_score_range(score_range(run));
  if (status == INTFLASH_OK && run.cancelled.load(std::memory_order_relaxed) != 0)
    status = fail(INTFLASH_CANCELLED, "should_cancel asked for the end of the run");
  return status;
}

void run_task(BatchRun& run, std::int32_t phase, std::int64_t task, const Worker& worker) {
  const intflash_batch_plan& plan = *run.plan;
  if (was_cancelled(run)) return;
  if (phase == kScanPhase) {
    scan_chunk(*plan.context->port->kernels, run.query_tensor(), task, run.query, nullptr);
    scan_masks(run, task);
    return;
  }
  const bool is_sound = run.query.first_bad.load(std::memory_order_relaxed) == INT64_MAX &&
                        run.first_bad_bias.load(std::memory_order_relaxed) == INT64_MAX &&
                        score_range(run).is_safe();
  if (!is_sound) return;
  if (phase == kAttendPhase) {
    const BatchItem& item = plan.items[task];
    for (std::int64_t i = 0; i < item.num_heads; ++i)
      attend_head(run, item, item.first_head + i, worker);
  } else {
    merge_tile(run, plan.merges[task], worker);
  }
}

}  // namespace intflash
