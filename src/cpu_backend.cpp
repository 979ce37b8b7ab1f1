// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Mode int8 on the CPU's ports: scan the query, then per work item quantize its rows and gather
// blocks -> keep words -> attend_tile -> merge -> write.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "backend.h"
#include "call.h"
#include "pack_kv.h"
#include "row_group.h"
#include "score_range.h"

namespace intflash {
namespace {

// The rows of one kv head.
RowGroup row_group(const Call& call, std::int64_t b, std::int64_t kv_head) {
  const Problem& p = call.problem();
  const std::int64_t head = call.head_index(b, kv_head);
  RowGroup group{};
  group.kernels = &call.kernels();
  group.query = &call.args.query;
  group.out = &call.args.out;
  group.query_dtype = p.query_dtype;
  group.out_dtype = p.out_dtype;
  group.batch = b;
  group.first_head = kv_head * p.group_size;
  if (call.args.lse != nullptr)
    group.lse = call.args.lse + (b * p.num_query_heads + group.first_head) * p.query_len;
  group.lse_stride_head = p.query_len;
  group.lse_stride_token = 1;
  group.group_size = p.group_size;
  group.num_rows = call.layout().rows_per_head;
  group.head_dim = p.head_dim;
  group.head_dim_v = p.head_dim_v;
  group.mask = p.mask;
  group.softmax_scale = p.softmax_scale;
  group.score_cap = p.score_cap;
  if (call.args.sinks != nullptr) group.sinks = call.args.sinks + group.first_head;
  group.bias = call.bias();
  if (group.bias.additive.data != nullptr)
    group.plain_keys = call.plain_keys(call.args.additive_mask.stride_batch == 0 ? 0 : b);
  group.rotate = p.rotate;
  group.key_center = call.key_center(head);
  group.value_center = call.value_center(head);
  return group;
}

// A super-block of keys and values stays in L2 while the item's tiles pass over it; where all keys
// are one super-block, a tile is finished before the next begins, and its state stays in L1.
void attend_item(const Call& call, const Worker& worker, std::int64_t index) {
  const Plan& plan = call.layout();
  const WorkItem item = work_item(call.problem(), plan, index);
  const RowGroup group = row_group(call, item.batch, item.kv_head);
  const ScoreBlock* blocks = call.score_blocks(call.head_index(item.batch, item.kv_head));
  const auto first_row = [&](std::int64_t tile) {
    return (item.first_tile + tile) * plan.tile.rows;
  };
  const bool one_superblock = call.spans() <= plan.superblock_spans;
  const std::int64_t tiles_at_once = one_superblock ? 1 : item.num_tiles;
  for (std::int64_t first = 0; first < item.num_tiles; first += tiles_at_once) {
    for (std::int64_t i = 0; i < tiles_at_once; ++i)
      begin_tile(group, plan.tile, first_row(first + i), *worker.tile(i));
    for (std::int64_t super = 0; super < call.spans(); super += plan.superblock_spans) {
      const std::int64_t end = std::min(super + plan.superblock_spans, call.spans());
      for (std::int64_t i = 0; i < tiles_at_once; ++i)
        attend_spans(group, worker, super, end, blocks + super * kBlocksPerSpan, *worker.tile(i));
    }
    for (std::int64_t i = 0; i < tiles_at_once; ++i)
      finish_tile(group, first_row(first + i), *worker.tile(i));
  }
}

// What the query's and the key's magnitudes say of the scores.
ScoreRange score_range(const Call& call, double largest_key) {
  const Problem& p = call.problem();
  if (p.center_key && call.args.key_center != nullptr) {
    const std::int64_t count = p.batch * p.num_kv_heads * p.head_dim;
    double largest_center = 0;
    for (std::int64_t i = 0; i < count; ++i)
      largest_center =
          std::max(largest_center, std::fabs(static_cast<double>(call.args.key_center[i])));
    largest_key += largest_center;
  } else if (p.center_key) {
    largest_key *= 2;
  }
  return {largest_of(call.query(), call.status().query), largest_key,
          static_cast<double>(p.softmax_scale), p.head_dim, p.rotate};
}

// Looks in the additive mask for NaN and +infinity, and for rows that need not be read again.
intflash_status scan_bias(const Call& call, const Team& team) {
  const Problem& p = call.problem();
  const ScoreBias bias = call.bias();
  if (bias.additive.data == nullptr) return INTFLASH_OK;
  std::atomic<std::int64_t>& first_bad = call.status().first_bad_bias;
  first_bad.store(INT64_MAX, std::memory_order_relaxed);
  const std::int64_t batches = bias.additive.stride_batch == 0 ? 1 : p.batch;
  team.for_each(batches * p.query_len, [&](const Worker&, std::int64_t i) {
    const std::int64_t b = i / p.query_len;
    const std::int64_t query = i % p.query_len;
    if (has_bad_mask(call.kernels(), bias, b, p.num_query_heads, query)) lower_to(first_bad, i);
    call.plain_keys(b)[query] = plain_keys(call.kernels(), bias, b, query);
  });
  const std::int64_t bad = first_bad.load(std::memory_order_relaxed);
  if (bad == INT64_MAX) return INTFLASH_OK;
  return report_bad_mask("additive_mask", bias, bad / p.query_len, p.num_query_heads,
                         bad % p.query_len);
}

// What can be said before keys are seen.
intflash_status scan_query(const Call& call, const Team& team) {
  const ScannedTensor query = call.query();
  reset_scan(call.status().query);
  team.for_each(num_chunks(query), [&](const Worker&, std::int64_t chunk) {
    scan_chunk(call.kernels(), query, chunk, call.status().query, nullptr);
  });
  const intflash_status result = report_bad(query, call.status().query);
  return result == INTFLASH_OK ? scan_bias(call, team) : result;
}

intflash_status attend(const intflash_plan& plan, const intflash_attend_args& args,
                       void* workspace) {
  const Call call{plan, args, static_cast<char*>(workspace)};
  if (!is_packed(call)) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "workspace: holds no keys and values that intflash_pack of this plan has left");
  }
  const Team team = call.team();
  intflash_status result = scan_query(call, team);
  if (result == INTFLASH_OK && call.problem().kv_len > 0)
    result = check_score_range(score_range(call, call.status().largest_key));
  if (result != INTFLASH_OK) return result;
  team.for_each(call.layout().num_items, [&](const Worker& worker, std::int64_t index) {
    attend_item(call, worker, index);
  });
  return INTFLASH_OK;
}

// Some kv heads of few rows: each block is packed and attended while it is in the cache, a head
// after the other, as rows that have tokens first lie side by side.
struct HeadsAtOnce {
  const Call& call;
  const Worker& worker;  // its tiles are the heads'
  std::int64_t first;
  std::int64_t count;

  RowGroup group(std::int64_t i) const {
    const std::int64_t heads = call.problem().num_kv_heads;
    return row_group(call, (first + i) / heads, (first + i) % heads);
  }
};

void attend_block(const HeadsAtOnce& heads, std::int64_t block, std::int64_t i,
                  const AttentionState& state) {
  const Call& call = heads.call;
  const Tile& tile = *heads.worker.tile(i);
  ScoreBlock& score_block = call.score_blocks(heads.first)[0];
  const SpanKeys keys = {{block * kScoreBlock, (block + 1) * kScoreBlock}, &score_block, nullptr};
  if (!sees_keys(tile, keys.keys)) return;
  pack_score_block(call, heads.worker, heads.first + i, block, tile.max_end,
                   call.page(heads.first, 0), score_block);
  // What is not sound is an error in the end, and nothing to compute with.
  if (!is_sound(call) || !score_range(call, largest_of(call.key(), call.status().key)).is_safe())
    return;
  attend_into(heads.group(i), heads.worker, keys, tile, state);
}

void attend_heads(const HeadsAtOnce& heads) {
  const Plan& plan = heads.call.layout();
  const auto tile = [&](std::int64_t i) -> Tile& { return *heads.worker.tile(i); };
  for (std::int64_t i = 0; i < heads.count; ++i) begin_tile(heads.group(i), plan.tile, 0, tile(i));
  for (std::int64_t span = 0; span < heads.call.spans(); ++span) {
    AttentionState state[kMaxHeadsAtOnce];
    for (std::int64_t i = 0; i < heads.count; ++i)
      state[i] = begin_span(tile(i), heads.worker.part(i));
    const std::int64_t end = std::min((span + 1) * kBlocksPerSpan, plan.num_blocks);
    for (std::int64_t block = span * kBlocksPerSpan; block < end; ++block) {
      for (std::int64_t i = 0; i < heads.count; ++i) attend_block(heads, block, i, state[i]);
    }
    for (std::int64_t i = 0; i < heads.count; ++i) {
      if (sees_keys(tile(i), keys_of_span(span)))
        end_span(heads.group(i), heads.worker.part(i), tile(i));
    }
  }
}

// pack_kv and attend in one pass over the keys. Nothing is written before all is known to be right.
intflash_status pack_and_attend(const Call& call) {
  const Team team = call.team();
  intflash_status result = scan_query(call, team);
  if (result != INTFLASH_OK) return result;
  const Plan& plan = call.layout();
  const std::int64_t heads = call.problem().batch * call.problem().num_kv_heads;
  const std::int64_t items = ceil_div(heads, plan.heads_at_once);
  // An item's tiles outlive it: they are in the part of the worker of its number.
  const auto for_each_item = [&](auto task) {
    team.for_each(items, [&](const Worker&, std::int64_t index) {
      const std::int64_t first = index * plan.heads_at_once;
      const Worker worker = team.worker(static_cast<std::int32_t>(index));
      task(HeadsAtOnce{call, worker, first, std::min(plan.heads_at_once, heads - first)});
    });
  };
  begin_packing(call);
  for_each_item([](const HeadsAtOnce& some) { attend_heads(some); });
  result = end_packing(call);
  if (result == INTFLASH_OK)
    result = check_score_range(score_range(call, call.status().largest_key));
  if (result != INTFLASH_OK) return result;
  for_each_item([](const HeadsAtOnce& some) {
    for (std::int64_t i = 0; i < some.count; ++i)
      finish_tile(some.group(i), 0, *some.worker.tile(i));
  });
  return INTFLASH_OK;
}

intflash_status run(const intflash_plan& plan, const intflash_attend_args& args, void* workspace) {
  if (plan.layout.heads_at_once > 0 && plan.problem.kv_len > 0)
    return pack_and_attend({plan, args, static_cast<char*>(workspace)});
  const intflash_status status = pack_kv(plan, args, workspace);
  return status == INTFLASH_OK ? attend(plan, args, workspace) : status;
}

void create_plan(intflash_plan& plan) {
  const intflash_context& context = *plan.context;
  plan.layout =
      make_plan(plan.problem, *context.port->kernels, context.num_threads, context.l2_bytes);
  plan.workspace_bytes = plan.layout.total_bytes;
  std::snprintf(plan.kernel, sizeof plan.kernel, "attend/int8%s/%s/rows%dx%d",
                plan.problem.score_cap > 0 ? "+cap" : "", context.port->name,
                context.port->kernels->tile_rows, kScoreBlock);
}

}  // namespace

const Backend kCpuBackend = {"cpu", create_plan, pack_kv, attend, run};

}  // namespace intflash
