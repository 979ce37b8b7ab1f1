// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The backend of the modes exact and intfa: rows of reference.h over the workers. It packs nothing,
// and reads a cache as intflash_cache_export does, whatever its bytes mean.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <new>

#include "backend/backend.h"
#include "backend/host_data.h"
#include "core/arena.h"
#include "core/structs.h"
#include "host/host_storage.h"
#include "inputs/rope.h"
#include "inputs/scan.h"
#include "inputs/score_bias.h"
#include "inputs/tensor.h"
#include "inputs/token_rows.h"
#include "reference/reference.h"
#include "tile/rope.h"

namespace intflash::internal {
namespace {

// Looks for NaN and infinity (and codes of -128) in all of a tensor.
intflash_status check_finite(const intflash_plan& plan, const ScannedTensor& t) {
  TensorScan scan;
  reset_scan(scan);
  for (std::int64_t chunk = 0; chunk < num_chunks(t); ++chunk)
    scan_chunk(*plan.context->port->kernels, t, chunk, scan);
  return report_bad(t, scan.first_bad.load(std::memory_order_relaxed), nullptr);
}
intflash_status check_finite(const SeenKeys& seen, const ScannedTensor& t) {
  return report_bad(t, scan_seen(seen, t).first_bad, &seen);
}

// Looks for NaN and +infinity in the additive mask of a request's queries. name: of the mask.
intflash_status check_mask(const intflash_context& context, const char* name, const ScoreBias& bias,
                           std::int64_t batch, std::int64_t heads) {
  for (std::int64_t query = 0; query < bias.rule.query_len; ++query) {
    if (has_bad_mask(*context.port->kernels, bias, batch, heads, query))
      return report_bad_mask(name, bias, batch, heads, query);
  }
  return INTFLASH_OK;
}

struct ReferencePlan : intflash_plan {
  // A worker's part of the workspace: scratch of a row; of a batch a turned query, and keys and
  // values of one head.
  std::int64_t query_offset, key_offset, value_offset, worker_bytes;
  std::int64_t workers_offset;
};

struct ReferenceRun : Run {
  intflash_attend_args args;
  intflash_batch_args batch_args;
  const intflash_cache* cache;

  const ReferencePlan& reference_plan() const { return static_cast<const ReferencePlan&>(*plan); }
  char* worker(std::int32_t index) const {
    return workspace + reference_plan().workers_offset + index * reference_plan().worker_bytes;
  }
};

void lay_out(const Problem& row_problem, std::int64_t num_keys, ReferencePlan& plan) {
  Arena worker;
  worker.take(static_cast<std::int64_t>(reference_scratch_bytes(row_problem)));
  if (plan.is_batch) {
    plan.query_offset = worker.take(row_problem.head_dim * 4);
    plan.key_offset = worker.take(num_keys * row_problem.head_dim * 4);
    plan.value_offset = worker.take(num_keys * row_problem.head_dim_v * 4);
  }
  plan.worker_bytes = worker.used();
  Arena arena;
  arena.take(sizeof(ReferenceRun));
  if (plan.is_batch) plan.page_set_offset = arena.take(PageSet::bytes(plan.cache.num_pages));
  plan.workers_offset = arena.take(plan.worker_bytes * plan.num_workers());
  plan.workspace_bytes = static_cast<std::size_t>(arena.used());
}

// What is common to the plans of dense calls and of batches.
void set_up(const RunCalls& calls, ReferencePlan& plan) {
  plan.calls = &calls;
  plan.port = "reference";
  plan.num_phases = 1;
  std::snprintf(plan.kernel, sizeof plan.kernel, "%s/%s/reference",
                plan.is_batch ? "batch" : "attend",
                plan.problem.mode == INTFLASH_MODE_EXACT ? "exact" : "intfa");
}

ScheduleShape schedule_shape(const intflash_context& context, std::int64_t num_kv_heads,
                             std::int64_t group_size) {
  return {num_kv_heads, group_size, kMaxTileRows, kFewRows, context.num_threads, false};
}

// ---- Dense calls: a task is a row ----

intflash_status begin(const intflash_plan& plan, const intflash_attend_args& args, RunPart part,
                      void* workspace) {
  const Problem& p = plan.problem;
  intflash_status status = check_dense_contents(*plan.context, p, args, part);
  if (part != RunPart::kAttendPacked) {
    const SeenKeys seen = seen_keys(*plan.context, p, args);
    if (status == INTFLASH_OK)
      status = check_finite(
          seen, {"key", args.key, p.key_dtype, p.batch, p.num_kv_heads, p.kv_len, p.head_dim});
    if (status == INTFLASH_OK)
      status = check_finite(seen, {"value", args.value, p.value_dtype, p.batch, p.num_kv_heads,
                                   p.kv_len, p.head_dim_v});
  }
  if (part != RunPart::kPack) {
    if (status == INTFLASH_OK)
      status = check_finite(plan, {"query", args.query, p.query_dtype, p.batch, p.num_query_heads,
                                   p.query_len, p.head_dim});
    const ScoreBias bias = {args.additive_mask, args.alibi_slopes, args.bit_mask, p.mask};
    for (std::int64_t b = 0; status == INTFLASH_OK && b < p.batch; ++b)
      status = check_mask(*plan.context, "additive_mask", bias, b, p.num_query_heads);
  }
  if (status != INTFLASH_OK) return status;
  ReferenceRun& run = *new (workspace) ReferenceRun{};
  begin_run(plan, part, workspace, run);
  run.args = args;
  run.should_cancel = args.should_cancel;
  run.cancel_user = args.cancel_user;
  return INTFLASH_OK;
}

std::int64_t num_rows(const intflash_plan& plan, std::int32_t) {
  return plan.problem.batch * plan.problem.num_query_heads * plan.problem.query_len;
}

void attend_row(Run& any_run, std::int32_t, std::int64_t task, std::int32_t worker) {
  ReferenceRun& run = static_cast<ReferenceRun&>(any_run);
  if (was_cancelled(run)) return;
  const Problem& p = run.plan->problem;
  const std::int64_t head = task / p.query_len;
  ReferenceRow row{};
  row.batch = head / p.num_query_heads;
  row.query_head = head % p.num_query_heads;
  row.query = row.token = task % p.query_len;
  row.kv_head = row.query_head / p.group_size;
  row.keys = {0, p.kv_len};
  if (run.args.lse != nullptr) row.lse = run.args.lse + task;
  attend_reference_row(p, run.args, row, run.worker(worker));
}

intflash_status end(Run& run) { return check_cancelled(run); }

constexpr RunCalls kDenseCalls = {begin, nullptr, num_rows, attend_row, end};

intflash_status create_reference_plan(const intflash_context& context, const Problem& problem,
                                      intflash_plan*& plan) {
  ReferencePlan* made = nullptr;
  const intflash_status status = create_plan(context, made, [&](ReferencePlan& cut) {
    const ScheduleShape shape = schedule_shape(context, problem.num_kv_heads, problem.group_size);
    return cut_dense(context, problem, shape, cut);
  });
  if (status != INTFLASH_OK) return status;
  set_up(kDenseCalls, *made);
  lay_out(problem, 0, *made);
  plan = made;
  return INTFLASH_OK;
}

// ---- Batches: a task is a kv head of a request ----

ScoreBias bias_of(const ReferenceRun& run, std::int64_t r) {
  const intflash_batch_args& args = run.batch_args;
  ScoreBias bias{};
  bias.rule = run.plan->schedule.requests[r].mask;
  bias.alibi_slopes = args.alibi_slopes;
  if (args.additive_masks != nullptr)
    bias.additive = element_of(args.additive_masks, args.additive_mask_size, r);
  if (args.bit_masks != nullptr) bias.bits = element_of(args.bit_masks, args.bit_mask_size, r);
  return bias;
}

intflash_status check_masks(const ReferenceRun& run) {
  intflash_status status = INTFLASH_OK;
  const std::int64_t count = run.plan->schedule.num_requests;
  for (std::int64_t r = 0; status == INTFLASH_OK && r < count; ++r) {
    const bool has_more = run.batch_args.sinks != nullptr || !bias_of(run, r).is_empty();
    if (has_more && run.plan->problem.mode == INTFLASH_MODE_INTFA)
      return fail(INTFLASH_UNSUPPORTED,
                  "sinks, alibi_slopes, additive_masks or bit_masks with mode INTFA: the algorithm "
                  "knows none");
    char name[48];
    std::snprintf(name, sizeof name, "additive_masks[%lld]", static_cast<i64>(r));
    status =
        check_mask(*run.plan->context, name, bias_of(run, r), 0, run.plan->problem.num_query_heads);
  }
  return status;
}

intflash_status begin_batch(const intflash_plan& plan, const intflash_cache& cache,
                            const intflash_batch_args& args, void* workspace) {
  const Problem& p = plan.problem;
  if (args.states != nullptr)
    return fail(INTFLASH_UNSUPPORTED, "states with mode EXACT or INTFA: these leave results alone");
  intflash_status status = check_batch_contents(plan, args);
  if (status == INTFLASH_OK)
    status = check_finite(
        plan, {"query", args.query, p.query_dtype, 1, p.num_query_heads, p.query_len, p.head_dim});
  if (status != INTFLASH_OK) return status;
  ReferenceRun& run = *new (workspace) ReferenceRun{};
  run.plan = &plan;
  run.batch_args = args;
  run.cache = &cache;
  status = check_masks(run);
  if (status != INTFLASH_OK) return status;
  begin_run(plan, RunPart::kAll, workspace, run);
  run.should_cancel = args.should_cancel;
  run.cancel_user = args.cancel_user;
  return INTFLASH_OK;
}

std::int64_t num_heads(const intflash_plan& plan, std::int32_t) {
  return plan.schedule.num_requests * plan.problem.num_kv_heads;
}

// A request of a batch, as a call of its own over the keys of one head.
struct RequestCall {
  Problem problem;
  intflash_attend_args args;
};

RequestCall request_call(const ReferenceRun& run, std::int64_t r, char* worker) {
  const ReferencePlan& plan = run.reference_plan();
  const Request& request = plan.schedule.requests[r];
  const ScoreBias bias = bias_of(run, r);
  RequestCall call{};
  Problem& p = call.problem = plan.problem;
  p.mask = request.mask;
  p.kv_len = request.keys.end - request.keys.begin;
  p.softmax_scale = request.softmax_scale;
  p.key_dtype = p.value_dtype = INTFLASH_F32;
  call.args.query = run.batch_args.query;
  call.args.out = run.batch_args.out;
  call.args.key.data = worker + plan.key_offset;
  call.args.key.stride_token = p.head_dim;
  call.args.value.data = worker + plan.value_offset;
  call.args.value.stride_token = p.head_dim_v;
  call.args.sinks = run.batch_args.sinks;
  call.args.alibi_slopes = bias.alibi_slopes;
  call.args.additive_mask = bias.additive;
  call.args.bit_mask = bias.bits;
  if (run.batch_args.rope.cos == nullptr) return call;
  // A row that turn_query has left stands for all of them.
  call.args.query = {};
  call.args.query.data = worker + plan.query_offset;
  p.query_dtype = INTFLASH_F32;
  return call;
}

void turn_query(const ReferenceRun& run, const ReferenceRow& row, const RopeRows& rope,
                float* turned) {
  const Problem& p = run.plan->problem;
  const float* const query = widened_token(run.batch_args.query, p.query_dtype, 0, row.query_head,
                                           row.token, p.head_dim, turned);
  if (query != turned) std::copy_n(query, p.head_dim, turned);
  embed_row(rope, row.query, turned);
}

// The keys and values of a request's head, in the worker's memory, as a query sees them.
class HeadTokens {
 public:
  HeadTokens(const ReferenceRun& run, std::int64_t r, std::int64_t kv_head, char* worker)
      : cache_(*run.cache),
        keys_(run.plan->schedule.requests[r].keys),
        kv_head_(kv_head),
        pages_(
            batch_pages(cache_, run.batch_args, r, run.plan->schedule.requests[r].mask.kv_begin)),
        key_(reinterpret_cast<float*>(worker + run.reference_plan().key_offset)),
        value_(reinterpret_cast<float*>(worker + run.reference_plan().value_offset)) {
    if (!cache_.window.is_none())
      pages_.coded_keys = cache_.window.coded_keys(first_position(run.plan->schedule.requests[r]));
    fetch(keys_);
  }

  // At a position; one after the other.
  void show_to(std::int64_t position) {
    const KeyRange coded = cache_.window.coded_keys(position);
    if (cache_.window.is_none() || coded.end == pages_.coded_keys.end) return;
    const std::int64_t begin = pages_.coded_keys.end;
    pages_.coded_keys = coded;
    fetch({std::max(begin, keys_.begin), std::min(coded.end, keys_.end)});
  }

 private:
  void fetch(KeyRange keys) const {
    const std::int64_t at = keys.begin - keys_.begin;
    export_head(cache_, pages_, kv_head_, keys.begin, keys.end, key_ + at * cache_.layout.head_dim,
                value_ + at * cache_.layout.head_dim_v);
  }

  const intflash_cache& cache_;
  KeyRange keys_;
  std::int64_t kv_head_;
  PageRun pages_;
  float* key_;
  float* value_;
};

void attend_head(Run& any_run, std::int32_t, std::int64_t task, std::int32_t worker_index) {
  ReferenceRun& run = static_cast<ReferenceRun&>(any_run);
  if (was_cancelled(run)) return;
  const ReferencePlan& plan = run.reference_plan();
  const intflash_batch_args& args = run.batch_args;
  const Problem& p = plan.problem;
  const std::int64_t r = task / p.num_kv_heads;
  const std::int64_t kv_head = task % p.num_kv_heads;
  const Request& request = plan.schedule.requests[r];
  if (request.mask.query_len == 0) return;
  char* const worker = run.worker(worker_index);
  HeadTokens tokens(run, r, kv_head, worker);
  const RequestCall call = request_call(run, r, worker);
  const RopeRows rope = rope_rows(args.rope, first_position(request));
  for (std::int64_t i = 0; i < p.group_size * request.mask.query_len; ++i) {
    ReferenceRow row{};
    row.query_head = kv_head * p.group_size + i % p.group_size;
    row.query = i / p.group_size;
    row.token = request.first_query + row.query;
    row.keys = request.keys;
    tokens.show_to(first_position(request) + row.query);
    if (args.lse != nullptr) row.lse = args.lse + row.query_head * p.query_len + row.token;
    if (rope.cos != nullptr)
      turn_query(run, row, rope, reinterpret_cast<float*>(worker + plan.query_offset));
    attend_reference_row(call.problem, call.args, row, worker);
  }
}

constexpr RunCalls kBatchCalls = {nullptr, begin_batch, num_heads, attend_head, end};

intflash_status create_reference_batch_plan(const intflash_context& context,
                                            const intflash_cache& cache,
                                            const intflash_batch_desc& desc, intflash_plan*& plan) {
  ReferencePlan* made = nullptr;
  const intflash_status status = create_plan(context, made, [&](ReferencePlan& cut) {
    const ScheduleShape shape =
        schedule_shape(context, cache.num_kv_heads, desc.num_query_heads / cache.num_kv_heads);
    return cut_batch(context, cache, desc, shape, cut);
  });
  if (status != INTFLASH_OK) return status;
  set_up(kBatchCalls, *made);
  Problem longest = made->problem;
  for (std::int64_t r = 0; r < made->schedule.num_requests; ++r) {
    const KeyRange keys = made->schedule.requests[r].keys;
    longest.kv_len = std::max(longest.kv_len, keys.end - keys.begin);
  }
  lay_out(longest, longest.kv_len, *made);
  plan = made;
  return INTFLASH_OK;
}

}  // namespace

const Backend kReferenceBackend = {"reference", create_reference_plan, create_reference_batch_plan};

}  // namespace intflash::internal
