// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/batch.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <new>

#include "backend/host_data.h"
#include "backend/score_range.h"
#include "core/arena.h"
#include "core/checks.h"
#include "host/host_pages.h"
#include "inputs/rope.h"
#include "inputs/score_bias.h"
#include "inputs/seen_keys.h"
#include "machine/float_state.h"
#include "threads/node_lists.h"

namespace intflash::internal {
namespace {

constexpr std::int32_t kScanPhase = 0;

// ---- The plan ----

// A block as kernels read it.
PageLayout kernel_block(const PageLayout& page) {
  return page_layout(kInt8Codec, page.head_dim, page.head_dim_v, kBlockTokens);
}

void lay_out(const KernelTable& kernels, bool by_node, BatchPlan& plan) {
  const Schedule& schedule = plan.schedule;
  const PageLayout& page = plan.cache.layout;
  plan.tile =
      tile_shape(schedule.tile_rows, page.head_dim, page.head_dim_v, plan.problem.digits_above);
  plan.worker = worker_layout(
      kernels, plan.tile,
      {std::max(schedule.most_tiles, schedule.most_heads),
       Attention::worker_state_bytes(schedule, plan.tile), plan.spans_at_once, page.head_dim,
       page.head_dim_v, 0, 0, plan.cache.codec->is_expanded ? kernel_block(page).bytes() : 0,
       !plan.cache.window.is_none()});
  Arena arena;
  arena.take(sizeof(BatchRun));
  plan.page_set_offset = arena.take(PageSet::bytes(plan.cache.num_pages));
  if (by_node) plan.node_lists_offset = arena.take(NodeLists::bytes(schedule.num_items));
  plan.slots_offset = arena.take(schedule.num_slots * plan.tile.state_floats() * 4);
  plan.handed_offset =
      arena.take(plan.cache.num_kv_heads * Attention::handed_bytes(schedule, plan.tile));
  plan.workers_offset = arena.take(plan.num_workers() * plan.worker.bytes);
  plan.workspace_bytes = static_cast<std::size_t>(arena.used());
}

// ---- Phases ----

std::int64_t num_scans(const intflash_plan& plan) {
  const intflash_tensor none{};
  const Problem& p = plan.problem;
  return num_chunks({"query", none, p.query_dtype, 1, p.num_query_heads, p.query_len, p.head_dim});
}

const Stage& stage_of(const intflash_plan& plan, std::int32_t phase) {
  return plan.schedule.stages[(phase - kScanPhase - 1) / 2];
}
bool is_merge(std::int32_t phase) { return (phase - kScanPhase - 1) % 2 == 1; }

HeadVectors centers(const float* data, std::int64_t dim) { return {data, 0, dim}; }

Attention attention_of(const BatchRun& run) {
  const BatchPlan& plan = run.batch_plan();
  const Problem& p = plan.problem;
  const intflash_batch_args& args = run.args;
  const intflash_cache& cache = *run.cache;
  const HostPages& host = host_pages(cache);
  Attention attention{};
  attention.schedule = &plan.schedule;
  attention.kernels = plan.context->port->kernels;
  attention.tile = plan.tile;
  attention.head_dim = p.head_dim;
  attention.head_dim_v = p.head_dim_v;
  attention.has_f16_values = p.has_f16_values();
  attention.query = &args.query;
  attention.out = &args.out;
  attention.query_dtype = p.query_dtype;
  attention.out_dtype = p.out_dtype;
  attention.lse = args.states == nullptr ? args.lse : nullptr;
  attention.states = args.states;
  attention.state_size = args.state_size;
  attention.lse_stride_head = p.query_len;
  attention.lse_stride_token = 1;
  attention.score_cap = p.score_cap;
  attention.sinks = args.states == nullptr ? args.sinks : nullptr;
  attention.alibi_slopes = args.alibi_slopes;
  attention.additive_masks = args.additive_masks;
  attention.additive_mask_size = args.additive_mask_size;
  attention.bit_masks = args.bit_masks;
  attention.bit_mask_size = args.bit_mask_size;
  attention.mask_stride = 1;
  attention.rotation = p.rotation;
  attention.rope = args.rope;
  attention.key_center = centers(cache.key_center_of(args.layer, 0), p.head_dim);
  attention.value_center = centers(cache.value_center_of(args.layer, 0), p.head_dim_v);
  KeyPages& pages = attention.pages;
  pages.layout = plan.cache.layout;
  pages.memory = host.page(args.layer, 0, 0);
  pages.page_stride = host.page_bytes;
  pages.head_stride = plan.cache.layout.bytes();
  pages.cache = &cache;
  pages.expand = attention.kernels->rows->expand[plan.cache.codec->id];
  pages.packed_rows = attention.kernels->packed_rows;
  pages.packed = attention.kernels->packed & plan.cache.codec->packed;
  pages.expanded = kernel_block(plan.cache.layout);
  pages.args = &args;
  pages.window = plan.cache.window;
  if (!pages.window.is_none()) {
    pages.window_layout = cache.window_layout;
    pages.window_memory = host.window_page(args.layer, 0, 0);
    pages.window_page_stride = host.window_page_bytes;
    pages.window_head_stride = cache.window_layout.bytes();
  }
  attention.spans_at_once = plan.spans_at_once;
  attention.slots = run.workspace + plan.slots_offset;
  attention.handed = run.workspace + plan.handed_offset;
  return attention;
}

ScoreRange score_range(const BatchRun& run, double largest_key) {
  const double turned = run.args.rope.cos == nullptr ? 1.0 : 2.0 * static_cast<double>(kMaxRope);
  return {largest_of(run.query_tensor(), run.query) * turned, largest_key,
          static_cast<double>(run.batch_plan().largest_softmax_scale), run.plan->problem.head_dim,
          run.plan->problem.rotation.keys};
}

// The request that a query of the batch belongs to.
std::int64_t request_of(const intflash_plan& plan, std::int64_t query) {
  const Request* after =
      std::upper_bound(plan.schedule.requests, plan.schedule.requests + plan.schedule.num_requests,
                       query, [](std::int64_t q, const Request& r) { return q < r.first_query; });
  return after - plan.schedule.requests - 1;
}

// Looks for NaN and +infinity in a scan task's share of the additive masks.
void scan_masks(BatchRun& run, std::int64_t task) {
  if (run.args.additive_masks == nullptr) return;
  const intflash_plan& plan = *run.plan;
  const std::int64_t tasks = num_scans(plan);
  const std::int64_t end = plan.schedule.num_queries * (task + 1) / tasks;
  for (std::int64_t query = plan.schedule.num_queries * task / tasks; query < end; ++query) {
    const std::int64_t request = request_of(plan, query);
    if (has_bad_mask(*plan.context->port->kernels, score_bias(run.attention, request), 0,
                     plan.problem.num_query_heads,
                     query - plan.schedule.requests[request].first_query))
      lower_to(run.first_bad_bias, query);
  }
}

intflash_status report_bad_masks(const BatchRun& run) {
  const std::int64_t query = run.first_bad_bias.load(std::memory_order_relaxed);
  if (query == INT64_MAX) return INTFLASH_OK;
  const std::int64_t request = request_of(*run.plan, query);
  char name[48];
  std::snprintf(name, sizeof name, "additive_masks[%lld]", static_cast<i64>(request));
  return report_bad_mask(name, score_bias(run.attention, request), 0,
                         run.plan->problem.num_query_heads,
                         query - run.plan->schedule.requests[request].first_query);
}

double largest_key(const intflash_plan& plan, const intflash_cache& cache,
                   const intflash_batch_args& args) {
  std::uint32_t largest = 0;
  for (std::int64_t r = 0; r < plan.schedule.num_requests; ++r) {
    const Request& request = plan.schedule.requests[r];
    const PageRun pages = batch_pages(cache, args, r, request.mask.kv_begin);
    largest = std::max(largest, host_pages(cache).largest_key_of(pages, request.keys));
  }
  return static_cast<double>(std::bit_cast<float>(largest)) +
         static_cast<double>(host_pages(cache).layers[args.layer].largest_key_center);
}

// The same of keys that some query sees, at most, by their scales.
double largest_seen_key(const BatchRun& run) {
  const intflash_plan& plan = *run.plan;
  const intflash_cache& cache = *run.cache;
  float largest = 0;
  for (std::int64_t r = 0; r < plan.schedule.num_requests; ++r) {
    const Request& request = plan.schedule.requests[r];
    const PageRun pages = batch_pages(cache, run.args, r, request.mask.kv_begin);
    const SeenKeys seen = {*plan.context->port->kernels, plan.problem.group_size,
                           score_bias(run.attention, r)};
    for (std::int64_t head = 0; head < cache.num_kv_heads; ++head) {
      for (std::int64_t first = request.keys.begin / kBlockTokens * kBlockTokens;
           first < request.keys.end; first += kBlockTokens) {
        const KvBlock block = pages.is_int8(first)
                                  ? host_pages(cache).window_block(pages, head, first)
                                  : host_pages(cache).block(pages, head, first);
        seen.for_each_run(0, head, first, [&](std::int64_t token, std::int64_t count) {
          const float* scale = block.key_scale + (token - first);
          largest = std::max(largest, *std::max_element(scale, scale + count));
        });
      }
    }
  }
  return 127.001 * static_cast<double>(largest) +
         static_cast<double>(host_pages(cache).layers[run.args.layer].largest_key_center);
}

// Of all keys in the pages where that is safe, else of those that are seen.
ScoreRange score_range(const BatchRun& run) {
  const ScoreRange range = score_range(run, run.largest_key);
  return range.is_safe() ? range : score_range(run, largest_seen_key(run));
}

bool is_sound(const BatchRun& run) {
  return run.query.first_bad.load(std::memory_order_relaxed) == INT64_MAX &&
         run.first_bad_bias.load(std::memory_order_relaxed) == INT64_MAX &&
         score_range(run).is_safe();
}

// ---- A run ----

intflash_status begin(const intflash_plan& plan, const intflash_cache& cache,
                      const intflash_batch_args& args, void* workspace) {
  const FloatState float_state;  // the caller may round otherwise
  const intflash_status status = check_batch_contents(plan, args);
  if (status != INTFLASH_OK) return status;
  BatchRun& run = *new (workspace) BatchRun{};
  begin_run(plan, RunPart::kAll, workspace, run);
  run.should_cancel = args.should_cancel;
  run.cancel_user = args.cancel_user;
  run.cache = &cache;
  run.args = args;
  run.largest_key = largest_key(plan, cache, args);
  reset_scan(run.query);
  run.first_bad_bias.store(INT64_MAX, std::memory_order_relaxed);
  run.attention = attention_of(run);
  run.attention.is_cancelled = is_run_cancelled;
  run.attention.cancel_user = static_cast<Run*>(&run);
  return INTFLASH_OK;
}

std::int64_t num_tasks(const intflash_plan& plan, std::int32_t phase) {
  if (phase == kScanPhase) return num_scans(plan);
  const Stage& stage = stage_of(plan, phase);
  return is_merge(phase) ? stage.num_merges : stage.num_items;
}

void run_task(Run& any_run, std::int32_t phase, std::int64_t task, std::int32_t worker_index) {
  BatchRun& run = static_cast<BatchRun&>(any_run);
  const BatchPlan& plan = run.batch_plan();
  if (was_cancelled(run)) return;
  if (phase == kScanPhase) {
    scan_chunk(*plan.context->port->kernels, run.query_tensor(), task, run.query);
    scan_masks(run, task);
    return;
  }
  if (!may_attend(run, [&] { return is_sound(run); })) return;
  const Worker worker =
      plan.worker.at(run.workspace + plan.workers_offset + worker_index * plan.worker.bytes);
  const Stage& stage = stage_of(plan, phase);
  if (is_merge(phase)) {
    run_merge(run.attention, plan.schedule.merges[stage.first_merge + task], worker);
  } else {
    run_item(run.attention, plan.schedule.items[stage.first_item + task], worker);
  }
}

intflash_status end(Run& any_run) {
  const BatchRun& run = static_cast<const BatchRun&>(any_run);
  intflash_status status =
      report_bad(run.query_tensor(), run.query.first_bad.load(std::memory_order_relaxed), nullptr);
  if (status == INTFLASH_OK) status = report_bad_masks(run);
  if (status == INTFLASH_OK) status = check_score_range(score_range(run));
  return status == INTFLASH_OK ? check_cancelled(run) : status;
}

// Of an item the node of most of its spans; of nodes with as many, each is taken in turn.
std::int32_t node_of_task(const Run& any_run, std::int32_t phase, std::int64_t task) {
  const BatchRun& run = static_cast<const BatchRun&>(any_run);
  const intflash_cache& cache = *run.cache;
  if (phase == kScanPhase || is_merge(phase) || cache.num_nodes == 1) return -1;
  const Schedule& schedule = run.plan->schedule;
  const Item& item = schedule.items[stage_of(*run.plan, phase).first_item + task];
  if (item.num_spans == 0) return -1;
  const Section& section = schedule.sections[item.section];
  const MaskRule& mask = schedule.requests[section.first_request].mask;
  const PageRun pages = batch_pages(cache, run.args, section.first_request, mask.kv_begin);
  const std::int64_t first_key = std::max(section.keys.begin, mask.kv_begin);
  std::int32_t spans[kMaxNumaNodes] = {};
  for (std::int64_t span = item.first_span; span < item.first_span + item.num_spans; ++span) {
    const std::int64_t position = std::max(first_key, span * kSpanTokens);
    const std::int64_t page = (position - pages.first_key_position) / cache.layout.page_size;
    ++spans[cache.node_of(pages.page_ids[page])];
  }
  std::int32_t most = static_cast<std::int32_t>(task % cache.num_nodes);
  for (std::int32_t i = 1; i < cache.num_nodes; ++i) {
    const auto node = static_cast<std::int32_t>((task + i) % cache.num_nodes);
    if (spans[node] > spans[most]) most = node;
  }
  return cache.nodes[most].id;
}

constexpr RunCalls kBatchCalls = {nullptr, begin, num_tasks, run_task, end, node_of_task};

}  // namespace

ScannedTensor BatchRun::query_tensor() const {
  const Problem& p = plan->problem;
  return {"query", args.query, p.query_dtype, 1, p.num_query_heads, p.query_len, p.head_dim};
}

intflash_status create_batch_plan(const intflash_context& context, const intflash_cache& cache,
                                  const intflash_batch_desc& desc, intflash_plan*& plan) {
  intflash_status status = check_codec(*cache.codec, *context.port);
  if (status != INTFLASH_OK) return status;
  const KernelTable& kernels = *context.port->kernels;
  const bool by_node = cache.num_nodes > 1 && context.nodes.count > 1 && context.num_threads > 1;
  BatchPlan* made = nullptr;
  status = create_plan(context, made, [&](BatchPlan& cut) {
    const ScheduleShape shape = {cache.num_kv_heads,
                                 desc.num_query_heads / cache.num_kv_heads,
                                 kernels.tile_rows,
                                 kFewRows,
                                 context.num_threads,
                                 false,
                                 by_node};
    return cut_batch(context, cache, desc, shape, cut);
  });
  if (status != INTFLASH_OK) return status;
  made->calls = &kBatchCalls;
  made->port = context.port->name;
  made->num_phases = 1 + 2 * made->schedule.num_stages;
  made->spans_at_once = spans_in_cache(
      made->problem.has_f16_values() ? cache.layout : kernel_block(cache.layout), context.l2_bytes);
  for (std::int64_t r = 0; r < desc.num_requests; ++r)
    made->largest_softmax_scale =
        std::max(made->largest_softmax_scale, made->schedule.requests[r].softmax_scale);
  std::snprintf(made->kernel, sizeof made->kernel, "batch/%s%s/%s/rows%dx%d",
                mode_name(made->problem.mode), desc.score_cap > 0 ? "+cap" : "", made->port,
                static_cast<int>(made->schedule.tile_rows), kScoreBlock);
  lay_out(kernels, by_node, *made);
  plan = made;
  return INTFLASH_OK;
}

}  // namespace intflash::internal
