// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "engine/batch_run.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "core/checks.h"
#include "core/rope.h"
#include "core/score_bias.h"
#include "engine/row_group.h"
#include "engine/score_range.h"

namespace intflash::internal {
namespace {

std::int64_t num_scans(const intflash_batch_plan& plan) {
  const intflash_tensor none{};
  return num_chunks({"query", none, plan.query_dtype, 1, plan.num_query_heads, plan.num_queries,
                     plan.page.head_dim});
}

const BatchStage& stage_of(const intflash_batch_plan& plan, std::int32_t phase) {
  return plan.stages[(phase - kScanPhase - 1) / 2];
}
bool is_merge(std::int32_t phase) { return (phase - kScanPhase - 1) % 2 == 1; }

PageRun pages_of(const BatchRun& run, std::int64_t request) {
  return batch_pages(*run.cache, *run.args, request, run.plan->requests[request].mask.kv_begin);
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

RowGroup row_group(const BatchRun& run, const BatchRequest& request, std::int64_t kv_head) {
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
  group.bias = score_bias(run, &request - plan.requests);
  group.rotate = plan.rotate;
  group.rope = rope_rows(run.args->rope, first_position(request));
  group.key_center = run.cache->key_center_of(run.args->layer, kv_head);
  group.value_center = run.cache->value_center_of(run.args->layer, kv_head);
  return group;
}

AttentionState slot_state(const BatchRun& run, std::int64_t slot) {
  const BatchLayout& layout = run.plan->layout;
  float* state =
      reinterpret_cast<float*>(run.workspace + layout.slots_offset + slot * layout.slot_bytes);
  return {state, state + kMaxTileRows, state + 2 * kMaxTileRows,
          layout.worker.tile.accumulator_stride};
}

// The total, and the state of the span in which a section ends: of those of even levels, or of odd
// ones. A section that takes on the one may be leaving the other at the same time.
enum class HandedState { kTotal, kEvenSpan, kOddSpan };

HandedState span_after(std::int32_t level) {
  return level % 2 == 0 ? HandedState::kEvenSpan : HandedState::kOddSpan;
}

void copy_state(const AttentionState& from, const AttentionState& to, std::int64_t rows) {
  std::copy_n(from.reference, rows, to.reference);
  std::copy_n(from.row_sum, rows, to.row_sum);
  std::copy_n(from.accumulators, rows * from.accumulator_stride, to.accumulators);
}

// Of a section's row, and the rows behind it.
AttentionState handed_state(const BatchRun& run, const BatchSection& section, std::int64_t kv_head,
                            std::int64_t row, HandedState which) {
  const intflash_batch_plan& plan = *run.plan;
  const TileShape& shape = plan.layout.worker.tile;
  const std::int64_t index = section.first_state + row;
  char* head = run.workspace + plan.layout.states_offset + kv_head * plan.layout.states_bytes;
  head += static_cast<std::int64_t>(which) * handed_state_bytes(plan.num_states, shape);
  const std::int64_t padded_rows = round_up(plan.num_states, 16);
  float* reference = reinterpret_cast<float*>(head);
  return {reference + index, reference + padded_rows + index,
          reference + 2 * padded_rows + index * shape.accumulator_stride, shape.accumulator_stride};
}

// The score blocks of a span that lie in the section's keys, out of the pages of its first request.
void gather_span(const BatchRun& run, const BatchSection& section, const PageRun& pages,
                 std::int64_t kv_head, std::int64_t span, ScoreBlock* blocks) {
  const KernelTable& kernels = *run.plan->context->port->kernels;
  const MaskRule& mask = run.plan->requests[section.first_request].mask;
  const KeyRange present = {std::max(mask.kv_begin, section.keys.begin), section.keys.end};
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

// The keys of the span that an item of one tile reads after another, and their scales, which are
// read all at once when it comes: asked for here. after [2] gets its first block's halves.
bool announce_span(const BatchRun& run, const BatchSection& section, const PageRun& pages,
                   std::int64_t kv_head, std::int64_t span, KvBlock* after) {
  const MaskRule& mask = run.plan->requests[section.first_request].mask;
  const std::int64_t begin = std::max({mask.kv_begin, section.keys.begin, span * kSpanTokens}) /
                             kBlockTokens * kBlockTokens;
  const std::int64_t end = std::min(section.keys.end, (span + 1) * kSpanTokens);
  for (std::int64_t position = begin; position < end; position += kBlockTokens) {
    const KvBlock block = run.cache->block(pages, kv_head, position);
    if (position == begin) after[0] = after[1] = block;
    if (position == begin + kBlockTokens) after[1] = block;
    for (std::int64_t key = 0; key < kBlockTokens; key += 16) {
      __builtin_prefetch(block.key_scale + key, 0, 2);
      __builtin_prefetch(block.value_scale + key, 0, 2);
      __builtin_prefetch(block.key_sum + key, 0, 2);
    }
  }
  return begin < end;
}

void begin_section_tile(const BatchRun& run, const BatchSection& section, std::int64_t kv_head,
                        std::int64_t index, Tile& tile) {
  const intflash_batch_plan& plan = *run.plan;
  const TileShape& shape = plan.layout.worker.tile;
  const std::int64_t first_row = index * shape.rows;
  begin_tile(shape, tile);
  for_each_run(plan, section, first_row, std::min(shape.rows, section.num_rows - first_row),
               [&](const BatchRequest& request, std::int64_t row, std::int64_t num_rows) {
                 add_rows(row_group(run, request, kv_head), shape, row, num_rows, tile);
               });
  clip_tile(section.keys, tile);
  if (section.first_state < 0) return;
  tile.total = handed_state(run, section, kv_head, first_row, HandedState::kTotal);
  tile.touched = true;
}

// One kv head of an item, at work. group: of the section's first request.
struct ItemHead {
  const BatchRun& run;
  const BatchItem& item;
  const BatchSection& section;
  const RowGroup& group;
  std::int64_t kv_head;
  const Worker& worker;
  KvBlock after[2];
  SpanKeys keys;  // of the span at work

  std::int64_t first_row(std::int64_t tile) const {
    return (item.first_tile + tile) * run.plan->layout.worker.tile.rows;
  }
  void attend_into(const Tile& tile, const AttentionState& state) const {
    if (sees_keys(tile, keys.keys))
      intflash::internal::attend_into(group, worker, keys, tile, state);
  }
};

// A span that other sections have a part of: its state comes from the one before, or waits for the
// one after.
void attend_divided_span(const ItemHead& head, std::int64_t span, std::int64_t index) {
  const Tile& tile = *head.worker.tile(index);
  const BatchSection& section = head.section;
  const auto state_after = [&](std::int32_t level) {
    return handed_state(head.run, section, head.kv_head, head.first_row(index), span_after(level));
  };
  const AttentionState left = state_after(section.level);
  if (!section.enters(span)) {
    clear_state(left, tile.query.rows);
    head.attend_into(tile, left);
    return;
  }
  const AttentionState entered = state_after(section.level - 1);
  head.attend_into(tile, entered);
  if (section.leaves(span)) {
    copy_state(entered, left, tile.query.rows);
  } else {
    head.group.kernels->merge_states(entered, tile.total, tile.query.rows,
                                     static_cast<std::int32_t>(head.group.head_dim_v));
  }
}

// A span of a cut range's later part: its state goes to a slot.
void attend_span_apart(const ItemHead& head, std::int64_t span, std::int64_t index) {
  const Tile& tile = *head.worker.tile(index);
  const AttentionState state = slot_state(head.run, head.item.slot + span - head.item.first_span);
  clear_state(state, tile.query.rows);
  head.attend_into(tile, state);
}

// What is read after a span: the next one, or the first of the next head.
void announce_next_span(ItemHead& head, const PageRun& pages, std::int64_t span) {
  const BatchItem& item = head.item;
  const bool is_last = span + 1 == item.first_span + item.num_spans;
  const std::int64_t kv_head = head.kv_head + (is_last ? 1 : 0);
  head.keys.after = nullptr;
  if (item.num_tiles > 1 || kv_head == item.first_head + item.num_heads) return;
  if (announce_span(head.run, head.section, pages, kv_head, is_last ? item.first_span : span + 1,
                    head.after))
    head.keys.after = head.after;
}

void attend_item_span(ItemHead& head, const PageRun& pages, std::int64_t span) {
  const Worker& worker = head.worker;
  announce_next_span(head, pages, span);
  head.keys.keys = keys_of_span(span);
  bool is_seen = false;
  for (std::int64_t i = 0; i < head.item.num_tiles; ++i)
    is_seen |= sees_keys(*worker.tile(i), head.keys.keys);
  if (is_seen) gather_span(head.run, head.section, pages, head.kv_head, span, worker.blocks);
  for (std::int64_t i = 0; i < head.item.num_tiles; ++i) {
    if (head.section.enters(span) || head.section.leaves(span)) {
      attend_divided_span(head, span, i);
    } else if (head.item.is_later_part) {
      attend_span_apart(head, span, i);
    } else {
      attend_span(head.group, worker, head.keys, *worker.tile(i));
    }
  }
}

// Tiles of one kv head against the item's spans; what is written depends on whether the item has
// all spans of its tiles.
void attend_head(const BatchRun& run, const BatchItem& item, std::int64_t kv_head,
                 const Worker& worker) {
  const BatchSection& section = run.plan->sections[item.section];
  const PageRun pages = pages_of(run, section.first_request);
  const RowGroup group = row_group(run, run.plan->requests[section.first_request], kv_head);
  ItemHead head{run, item, section, group, kv_head, worker, {}, {{}, worker.blocks, nullptr}};
  for (std::int64_t i = 0; i < item.num_tiles; ++i) {
    Tile& tile = *worker.tile(i);
    begin_section_tile(run, section, kv_head, item.first_tile + i, tile);
    if (section.begins_states() && !item.is_later_part) clear_state(tile.total, tile.query.rows);
  }
  const bool is_first_part = item.slot >= 0 && !item.is_later_part;
  if (is_first_part && section.first_state < 0) worker.tile(0)->total = slot_state(run, item.slot);
  for (std::int64_t s = 0; s < item.num_spans; ++s)
    attend_item_span(head, pages, item.first_span + s);
  if (item.slot >= 0 || section.is_shared) return;
  for (std::int64_t i = 0; i < item.num_tiles; ++i)
    finish_tile(group, head.first_row(i), *worker.tile(i));
}

void merge_tile(const BatchRun& run, const BatchMerge& merge, const Worker& worker) {
  const intflash_batch_plan& plan = *run.plan;
  const BatchSection& section = plan.sections[merge.section];
  const RowGroup group = row_group(run, plan.requests[section.first_request], merge.head);
  Tile& tile = *worker.tile(0);
  begin_section_tile(run, section, merge.head, merge.tile, tile);
  std::int64_t next = 0;
  if (section.first_state < 0) tile.total = slot_state(run, merge.first_slot + next++);
  tile.touched = true;
  for (; next < merge.num_slots; ++next) {
    group.kernels->merge_states(slot_state(run, merge.first_slot + next), tile.total,
                                tile.query.rows, static_cast<std::int32_t>(group.head_dim_v));
  }
  if (!section.is_shared) finish_tile(group, merge.tile * plan.layout.worker.tile.rows, tile);
}

ScoreRange score_range(const BatchRun& run) {
  const double turned = run.args->rope.cos == nullptr ? 1.0 : 2.0 * static_cast<double>(kMaxRope);
  return {largest_of(run.query_tensor(), run.query) * turned, run.largest_key,
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
  if (phase == kScanPhase) return num_scans(plan);
  const BatchStage& stage = stage_of(plan, phase);
  return is_merge(phase) ? stage.num_merges : stage.num_items;
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
  const BatchStage& stage = stage_of(plan, phase);
  if (is_merge(phase)) {
    merge_tile(run, plan.merges[stage.first_merge + task], worker);
  } else {
    const BatchItem& item = plan.items[stage.first_item + task];
    for (std::int64_t i = 0; i < item.num_heads; ++i)
      attend_head(run, item, item.first_head + i, worker);
  }
}

}  // namespace intflash::internal
