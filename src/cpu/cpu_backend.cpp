// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Dense calls in mode int8 on the CPU's ports: key and value are packed into pages, the query is
// scanned, and then the schedule runs.
#include <algorithm>
#include <cmath>

#include "cpu/call.h"
#include "cpu/pack_kv.h"
#include "engine/attention.h"
#include "engine/backend.h"
#include "engine/score_range.h"

namespace intflash::internal {
namespace {

HeadVectors centers(const Call& call, bool is_used, const float* given, std::int64_t dim,
                    const float* computed) {
  if (!is_used) return {};
  const std::int64_t stride = given != nullptr ? dim : call.dims();
  return {given != nullptr ? given : computed, stride * call.problem().num_kv_heads, stride};
}

Attention attention_of(const Call& call) {
  const Problem& p = call.problem();
  const intflash_attend_args& args = call.args;
  Attention attention{};
  attention.schedule = &call.plan.schedule;
  attention.kernels = &call.kernels();
  attention.tile = call.plan.tile;
  attention.head_dim = p.head_dim;
  attention.head_dim_v = p.head_dim_v;
  attention.query = &args.query;
  attention.out = &args.out;
  attention.query_dtype = p.query_dtype;
  attention.out_dtype = p.out_dtype;
  attention.requests_are_batches = true;
  attention.lse = args.lse;
  attention.lse_stride_head = p.query_len;
  attention.lse_stride_token = 1;
  attention.score_cap = p.score_cap;
  attention.sinks = args.sinks;
  attention.alibi_slopes = args.alibi_slopes;
  attention.additive_masks = &args.additive_mask;
  attention.additive_mask_size = sizeof args.additive_mask;
  attention.bit_masks = &args.bit_mask;
  attention.bit_mask_size = sizeof args.bit_mask;
  if (args.additive_mask.data != nullptr) {
    attention.plain_keys = call.plain_keys(0);
    attention.plain_keys_stride = args.additive_mask.stride_batch == 0 ? 0 : p.query_len;
  }
  attention.rotate = p.rotate;
  const float* const computed = call.computed_center(0);
  attention.key_center = centers(call, p.center_key, args.key_center, p.head_dim, computed);
  attention.value_center =
      centers(call, p.center_value, args.value_center, p.head_dim_v, computed + p.head_dim);
  KeyPages& pages = attention.pages;
  pages.layout = call.plan.page;
  pages.memory = call.page(0, 0);
  pages.page_stride = call.plan.page.bytes();
  pages.head_stride = call.plan.pages_per_head * pages.page_stride;
  pages.request_stride = p.num_kv_heads * pages.head_stride;
  pages.blocks = call.score_blocks(0);
  pages.blocks_per_head = call.plan.blocks_per_head;
  attention.spans_at_once = call.plan.spans_at_once;
  attention.slots = call.workspace + call.plan.slots_offset;
  return attention;
}

void run_items(const Call& call, const Team& team, const Attention& attention) {
  const Schedule& schedule = call.plan.schedule;
  team.for_each(schedule.num_items, [&](const Worker& worker, std::int64_t index) {
    run_item(attention, schedule.items[index], worker);
  });
}
void run_merges(const Call& call, const Team& team, const Attention& attention) {
  const Schedule& schedule = call.plan.schedule;
  team.for_each(schedule.num_merges, [&](const Worker& worker, std::int64_t index) {
    run_merge(attention, schedule.merges[index], worker);
  });
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
  const Call call{dense(plan), args, static_cast<char*>(workspace)};
  if (!is_packed(call)) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "workspace: holds no keys and values that intflash_pack of this plan has left");
  }
  const Team team = call.team();
  intflash_status result = scan_query(call, team);
  if (result == INTFLASH_OK && call.problem().kv_len > 0)
    result = check_score_range(score_range(call, call.status().largest_key));
  if (result != INTFLASH_OK) return result;
  const Attention attention = attention_of(call);
  run_items(call, team, attention);
  run_merges(call, team, attention);
  return INTFLASH_OK;
}

// What is not sound is an error in the end, and nothing to compute with.
bool bring_block(const void* user, const Worker& worker, std::int64_t request, std::int64_t kv_head,
                 std::int64_t first_key, std::int64_t kv_end, ScoreBlock& block) {
  const Call& call = *static_cast<const Call*>(user);
  pack_score_block(call, worker, call.head_index(request, kv_head), first_key, kv_end, worker.pages,
                   block);
  return is_sound(call) && score_range(call, largest_of(call.key(), call.status().key)).is_safe();
}

// pack_kv and attend in one pass over the keys. Nothing is written before all is known to be right.
intflash_status pack_and_attend(const Call& call) {
  const Team team = call.team();
  intflash_status result = scan_query(call, team);
  if (result != INTFLASH_OK) return result;
  Attention attention = attention_of(call);
  attention.bring_block = bring_block;
  attention.bring_user = &call;
  begin_packing(call);
  run_items(call, team, attention);
  result = end_packing(call);
  if (result == INTFLASH_OK)
    result = check_score_range(score_range(call, call.status().largest_key));
  if (result != INTFLASH_OK) return result;
  run_merges(call, team, attention);
  return INTFLASH_OK;
}

intflash_status run(const intflash_plan& plan, const intflash_attend_args& args, void* workspace) {
  if (dense(plan).packs_as_it_attends)
    return pack_and_attend({dense(plan), args, static_cast<char*>(workspace)});
  const intflash_status status = pack_kv(plan, args, workspace);
  return status == INTFLASH_OK ? attend(plan, args, workspace) : status;
}

}  // namespace

const Backend kCpuBackend = {"cpu", create_dense_plan, destroy_dense_plan, pack_kv, attend, run};

}  // namespace intflash::internal
