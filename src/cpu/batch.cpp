// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/batch.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <new>

#include "core/arena.h"
#include "core/checks.h"
#include "core/float_state.h"
#include "core/rope.h"
#include "core/score_bias.h"
#include "core/serial.h"
#include "core/structs.h"
#include "engine/score_range.h"

namespace intflash::internal {
namespace {

constexpr std::int32_t kScanPhase = 0;

// ---- The plan ----

struct RequestMaker {
  const intflash_batch_desc& desc;
  float default_scale;
};

void make_request(const void* user, std::int64_t index, Request& request) {
  const RequestMaker& maker = *static_cast<const RequestMaker*>(user);
  const intflash_request given = element_of(maker.desc.requests, maker.desc.request_size, index);
  request.mask.query_len = given.query_len;
  request.mask.kv_begin = given.first_key_position;
  request.mask.kv_len = given.kv_len;
  set_mask({given.mask, given.window_left, given.window_right, given.prefix_len}, request.mask);
  request.keys = {given.key_begin, given.key_end};
  request.softmax_scale = given.softmax_scale > 0 ? given.softmax_scale : maker.default_scale;
}

BatchLayout lay_out(const intflash_batch_plan& plan, const KernelTable& kernels) {
  const Schedule& schedule = plan.schedule;
  BatchLayout layout{};
  layout.tile = tile_shape(schedule.tile_rows, plan.page.head_dim, plan.page.head_dim_v);
  layout.worker = worker_layout(kernels, layout.tile,
                                {std::max(schedule.most_tiles, schedule.most_heads),
                                 Attention::worker_state_bytes(schedule, layout.tile),
                                 plan.spans_at_once, plan.page.head_dim, plan.page.head_dim_v, 0});
  Arena arena;
  arena.take(sizeof(BatchRun));
  layout.page_set_offset = arena.take(PageSet::bytes(plan.num_pages));
  layout.slots_offset = arena.take(schedule.num_slots * layout.tile.state_floats() * 4);
  layout.handed_offset =
      arena.take(plan.num_kv_heads * Attention::handed_bytes(schedule, layout.tile));
  layout.workers_offset = arena.take(plan.num_workers() * layout.worker.bytes);
  layout.total_bytes = arena.used();
  return layout;
}

// ---- Phases ----

std::int64_t num_scans(const intflash_batch_plan& plan) {
  const intflash_tensor none{};
  return num_chunks({"query", none, plan.query_dtype, 1, plan.num_query_heads,
                     plan.schedule.num_queries, plan.page.head_dim});
}

const Stage& stage_of(const intflash_batch_plan& plan, std::int32_t phase) {
  return plan.schedule.stages[(phase - kScanPhase - 1) / 2];
}
bool is_merge(std::int32_t phase) { return (phase - kScanPhase - 1) % 2 == 1; }

HeadVectors centers(const float* data, std::int64_t dim) { return {data, 0, dim}; }

Attention attention_of(const BatchRun& run) {
  const intflash_batch_plan& plan = *run.plan;
  const intflash_batch_args& args = run.args;
  const intflash_cache& cache = *run.cache;
  const CacheLayer& layer = cache.layers[args.layer];
  Attention attention{};
  attention.schedule = &plan.schedule;
  attention.kernels = plan.context->port->kernels;
  attention.tile = plan.layout.tile;
  attention.head_dim = plan.page.head_dim;
  attention.head_dim_v = plan.page.head_dim_v;
  attention.query = &args.query;
  attention.out = &args.out;
  attention.query_dtype = plan.query_dtype;
  attention.out_dtype = plan.out_dtype;
  attention.lse = args.states == nullptr ? args.lse : nullptr;
  attention.states = args.states;
  attention.state_size = args.state_size;
  attention.lse_stride_head = 1;
  attention.lse_stride_token = plan.num_query_heads;
  attention.score_cap = plan.score_cap;
  attention.sinks = args.sinks;
  attention.alibi_slopes = args.alibi_slopes;
  attention.additive_masks = args.additive_masks;
  attention.additive_mask_size = args.additive_mask_size;
  attention.bit_masks = args.bit_masks;
  attention.bit_mask_size = args.bit_mask_size;
  attention.mask_stride = 1;
  attention.rotate = plan.rotate;
  attention.rope = args.rope;
  attention.key_center = centers(layer.key_center, plan.page.head_dim);
  attention.value_center = centers(layer.value_center, plan.page.head_dim_v);
  KeyPages& pages = attention.pages;
  pages.layout = plan.page;
  pages.memory = layer.pages;
  pages.page_stride = cache.page_bytes();
  pages.head_stride = plan.page.bytes();
  pages.cache = &cache;
  pages.args = &args;
  attention.spans_at_once = plan.spans_at_once;
  attention.slots = run.workspace + plan.layout.slots_offset;
  attention.handed = run.workspace + plan.layout.handed_offset;
  return attention;
}

ScoreRange score_range(const BatchRun& run) {
  const double turned = run.args.rope.cos == nullptr ? 1.0 : 2.0 * static_cast<double>(kMaxRope);
  return {largest_of(run.query_tensor(), run.query) * turned, run.largest_key,
          static_cast<double>(run.plan->largest_softmax_scale), run.plan->page.head_dim,
          run.plan->rotate};
}

// The request that a query of the batch belongs to.
std::int64_t request_of(const intflash_batch_plan& plan, std::int64_t query) {
  const Request* after =
      std::upper_bound(plan.schedule.requests, plan.schedule.requests + plan.schedule.num_requests,
                       query, [](std::int64_t q, const Request& r) { return q < r.first_query; });
  return after - plan.schedule.requests - 1;
}

// Looks for NaN and +infinity in a scan task's share of the additive masks.
void scan_masks(BatchRun& run, std::int64_t task) {
  if (run.args.additive_masks == nullptr) return;
  const intflash_batch_plan& plan = *run.plan;
  const std::int64_t tasks = num_scans(plan);
  const std::int64_t end = plan.schedule.num_queries * (task + 1) / tasks;
  for (std::int64_t query = plan.schedule.num_queries * task / tasks; query < end; ++query) {
    const std::int64_t request = request_of(plan, query);
    if (has_bad_mask(*plan.context->port->kernels, score_bias(run.attention, request), 0,
                     plan.num_query_heads, query - plan.schedule.requests[request].first_query))
      lower_to(run.first_bad_bias, query);
  }
}

intflash_status report_bad_masks(const BatchRun& run) {
  const std::int64_t query = run.first_bad_bias.load(std::memory_order_relaxed);
  if (query == INT64_MAX) return INTFLASH_OK;
  const std::int64_t request = request_of(*run.plan, query);
  char name[48];
  std::snprintf(name, sizeof name, "additive_masks[%lld]", static_cast<i64>(request));
  return report_bad_mask(name, score_bias(run.attention, request), 0, run.plan->num_query_heads,
                         query - run.plan->schedule.requests[request].first_query);
}

bool was_cancelled(BatchRun& run) {
  if (run.cancelled.load(std::memory_order_relaxed) != 0) return true;
  if (run.args.should_cancel == nullptr || run.args.should_cancel(run.args.cancel_user) == 0)
    return false;
  run.cancelled.store(1, std::memory_order_relaxed);
  return true;
}

}  // namespace

intflash_batch_plan* make_batch_plan(const intflash_context& context, const intflash_cache& cache,
                                     const intflash_batch_desc& desc) {
  const FloatState float_state;  // the caller may round otherwise
  const KernelTable& kernels = *context.port->kernels;
  void* const memory = context.allocate(context.allocator_user, sizeof(intflash_batch_plan), 64);
  if (memory == nullptr) return nullptr;
  intflash_batch_plan& plan = *new (memory) intflash_batch_plan{};
  plan.serial = next_serial();
  plan.context = &context;
  plan.page = cache.layout;
  plan.num_kv_heads = cache.num_kv_heads;
  plan.num_pages = cache.num_pages;
  plan.rotate = cache.rotate;
  plan.num_query_heads = desc.num_query_heads;
  plan.query_dtype = desc.query_dtype;
  plan.out_dtype = desc.out_dtype;
  plan.score_cap = desc.score_cap;
  plan.spans_at_once = spans_in_cache(plan.page, context.l2_bytes);

  const RequestMaker maker = {desc, 1.0f / std::sqrt(static_cast<float>(plan.page.head_dim))};
  Batch batch{};
  batch.shape = {cache.num_kv_heads,  desc.num_query_heads / cache.num_kv_heads,
                 kernels.tile_rows,   kFewRows,
                 context.num_threads, false};
  batch.num_requests = desc.num_requests;
  batch.make_request = make_request;
  batch.user = &maker;
  batch.shared_prefixes = desc.shared_prefixes;
  batch.shared_prefix_size = desc.shared_prefix_size;
  batch.num_shared_prefixes = desc.num_shared_prefixes;
  batch.page_size = plan.page.page_size;
  if (!make_schedule(context, batch, plan.schedule)) {
    free_batch_plan(plan);
    return nullptr;
  }
  for (std::int64_t r = 0; r < desc.num_requests; ++r)
    plan.largest_softmax_scale =
        std::max(plan.largest_softmax_scale, plan.schedule.requests[r].softmax_scale);
  plan.layout = lay_out(plan, kernels);
  return &plan;
}

void free_batch_plan(intflash_batch_plan& plan) {
  const intflash_context& context = *plan.context;
  free_schedule(context, plan.schedule);
  context.deallocate(context.allocator_user, &plan);
}

BatchRun& begin_run(const intflash_batch_plan& plan, const intflash_cache& cache,
                    const intflash_batch_args& args, double largest_key, void* workspace) {
  BatchRun& run = *new (workspace) BatchRun{};
  run.plan = &plan;
  run.cache = &cache;
  run.args = args;
  run.workspace = static_cast<char*>(workspace);
  run.largest_key = largest_key;
  reset_scan(run.query);
  run.first_bad_bias.store(INT64_MAX, std::memory_order_relaxed);
  run.attention = attention_of(run);
  run.mark = run_mark(plan);
  return run;
}

ScannedTensor BatchRun::query_tensor() const {
  return {"query",
          args.query,
          plan->query_dtype,
          1,
          plan->num_query_heads,
          plan->schedule.num_queries,
          plan->page.head_dim};
}

Team BatchRun::team() {
  return {plan->context->parallel, plan->num_workers(), plan->layout.worker,
          workspace + plan->layout.workers_offset, next_task};
}

std::int32_t num_phases(const intflash_batch_plan& plan) {
  return 1 + 2 * plan.schedule.num_stages;
}

std::int64_t num_tasks(const intflash_batch_plan& plan, std::int32_t phase) {
  if (phase == kScanPhase) return num_scans(plan);
  const Stage& stage = stage_of(plan, phase);
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
  const Stage& stage = stage_of(plan, phase);
  if (is_merge(phase)) {
    run_merge(run.attention, plan.schedule.merges[stage.first_merge + task], worker);
  } else {
    run_item(run.attention, plan.schedule.items[stage.first_item + task], worker);
  }
}

}  // namespace intflash::internal
