// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Dense calls in mode int8 on the CPU's ports, in phases: means of keys and values, where they are
// asked for; limits of few queries; key and value packed into pages; the query scanned; then the
// schedule runs. Where one tile reads the keys of a head they are packed as they are attended.
#include <algorithm>
#include <cmath>
#include <new>

#include "backend/host_data.h"
#include "backend/score_range.h"
#include "cpu/batch.h"
#include "cpu/dense_run.h"
#include "cpu/pack_kv.h"
#include "cpu/query_limits.h"
#include "tile/score_block.h"

namespace intflash::internal {
namespace {

enum Phase : std::int32_t { kSum, kCenter, kLimits, kPack, kScan, kItems, kMerges, kNumPhases };
constexpr std::int32_t kNumPackPhases = kScan;

HeadVectors centers(const DenseRun& run, bool is_used, const float* given, std::int64_t dim,
                    const float* computed) {
  if (!is_used) return {};
  const std::int64_t stride = given != nullptr ? dim : run.dims();
  return {given != nullptr ? given : computed, stride * run.problem().num_kv_heads, stride};
}

Attention attention_of(const DenseRun& run) {
  const Problem& p = run.problem();
  const intflash_attend_args& args = run.args;
  Attention attention{};
  attention.schedule = &run.plan->schedule;
  attention.kernels = &run.kernels();
  attention.tile = run.dense_plan().tile;
  attention.head_dim = p.head_dim;
  attention.head_dim_v = p.head_dim_v;
  attention.has_f16_values = p.has_f16_values();
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
    attention.plain_keys = run.plain_keys(0);
    attention.plain_keys_stride = args.additive_mask.stride_batch == 0 ? 0 : p.query_len;
  }
  attention.rotation = p.rotation;
  const float* const computed = run.computed_center(0);
  attention.key_center = centers(run, p.center_key, args.key_center, p.head_dim, computed);
  attention.value_center =
      centers(run, p.center_value, args.value_center, p.head_dim_v, computed + p.head_dim);
  KeyPages& pages = attention.pages;
  pages.layout = run.dense_plan().page;
  pages.memory = run.page(0, 0);
  pages.page_stride = run.dense_plan().page.bytes();
  pages.head_stride = run.dense_plan().pages_per_head * pages.page_stride;
  pages.request_stride = p.num_kv_heads * pages.head_stride;
  pages.blocks = run.score_blocks(0);
  pages.blocks_per_head = run.dense_plan().blocks_per_head;
  attention.spans_at_once = run.dense_plan().spans_at_once;
  attention.slots = run.workspace + run.dense_plan().slots_offset;
  return attention;
}

// What the query's and the key's magnitudes say of the scores.
ScoreRange score_range(const DenseRun& run, double largest_key) {
  const Problem& p = run.problem();
  if (p.center_key && run.args.key_center != nullptr) {
    const std::int64_t count = p.batch * p.num_kv_heads * p.head_dim;
    double largest_center = 0;
    for (std::int64_t i = 0; i < count; ++i)
      largest_center =
          std::max(largest_center, std::fabs(static_cast<double>(run.args.key_center[i])));
    largest_key += largest_center;
  } else if (p.center_key) {
    largest_key *= 2;
  }
  return {largest_of(run.query_tensor(), run.query), largest_key,
          static_cast<double>(p.softmax_scale), p.head_dim, p.rotation.keys};
}

// What a run has found of keys and values so far; and of those that some query sees. Only where the
// former may be an error is the latter asked for: it reads all of them once more.
struct Findings {
  Finding key, value;
};
Findings found(const DenseRun& run) {
  if (run.part == RunPart::kAttendPacked)
    return {{run.packed_largest_key, INT64_MAX}, {0, INT64_MAX}};
  return {found(run.key_tensor(), run.key), found(run.value_tensor(), run.value)};
}
Findings found_of_seen(const DenseRun& run) {
  if (run.part == RunPart::kAttendPacked)
    return {{largest_packed_key(run), INT64_MAX}, {0, INT64_MAX}};
  return {scan_seen(run.seen_keys(), run.key_tensor()),
          scan_seen(run.seen_keys(), run.value_tensor())};
}
bool has_scores(const DenseRun& run) {
  return run.part != RunPart::kPack && run.problem().kv_len > 0;
}
bool is_sound(const DenseRun& run, const Findings& findings) {
  return is_sound(findings.key, findings.value) &&
         (!has_scores(run) || score_range(run, findings.key.largest).is_safe());
}
bool is_kv_sound(const DenseRun& run) {
  return is_sound(run, found(run)) || is_sound(run, found_of_seen(run));
}

// What is not sound is an error in the end, and nothing to compute with.
bool bring_block(const void* user, const Worker& worker, const QueryTile& query,
                 std::int64_t request, std::int64_t kv_head, std::int64_t first_key,
                 std::int64_t kv_end, ScoreBlock& block) {
  DenseRun& run = *static_cast<DenseRun*>(const_cast<void*>(user));
  pack_score_block(run, worker, run.head_index(request, kv_head), {first_key, kv_end},
                   unit_limit(query), worker.pages, block);
  return is_sound(run, found(run)) || may_attend(run, [&] { return is_kv_sound(run); });
}

bool packs_as_it_attends(const DenseRun& run) {
  return run.part == RunPart::kAll && run.dense_plan().packs_as_it_attends;
}

intflash_status begin(const intflash_plan& plan, const intflash_attend_args& args, RunPart part,
                      void* workspace) {
  const intflash_status status = check_dense_contents(*plan.context, plan.problem, args, part);
  if (status != INTFLASH_OK) return status;
  DenseRun& run = *static_cast<DenseRun*>(workspace);
  if (part != RunPart::kAttendPacked) {
    new (workspace) DenseRun;  // all of it is set below
    run.packed = 0;
    reset_scan(run.key);
    reset_scan(run.value);
  } else if (!is_packed(plan, run)) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "workspace: holds no keys and values that intflash_pack of this plan has left");
  }
  begin_run(plan, part, workspace, run);
  run.should_cancel = args.should_cancel;
  run.cancel_user = args.cancel_user;
  run.args = args;
  reset_scan(run.query);
  run.first_bad_bias.store(INT64_MAX, std::memory_order_relaxed);
  run.attention = attention_of(run);
  run.attention.is_cancelled = is_run_cancelled;
  run.attention.cancel_user = static_cast<Run*>(&run);
  if (packs_as_it_attends(run)) {
    run.attention.bring_block = bring_block;
    run.attention.bring_user = &run;
  }
  return INTFLASH_OK;
}

// ---- Phases ----

std::int64_t num_query_chunks(const intflash_plan& plan) {
  const intflash_tensor none{};
  const Problem& p = plan.problem;
  return num_chunks(
      {"query", none, p.query_dtype, p.batch, p.num_query_heads, p.query_len, p.head_dim});
}
// Enough of them for all workers, where there are rows: a mask may be larger than all tensors.
std::int64_t num_scans(const intflash_plan& plan) {
  constexpr std::int64_t kScansPerWorker = 4;
  const std::int64_t rows = plan.problem.batch * plan.problem.query_len;
  return std::max(num_query_chunks(plan), std::min(rows, kScansPerWorker * plan.num_workers()));
}

std::int64_t num_tasks(const intflash_plan& plan, std::int32_t phase) {
  const Problem& p = plan.problem;
  const DensePlan& dense = static_cast<const DensePlan&>(plan);
  const std::int64_t heads = p.batch * p.num_kv_heads;
  const bool centers = (p.center_key || p.center_value) && p.kv_len > 0;
  switch (phase) {
    case kSum:
      return centers ? heads * ceil_div(p.kv_len, kSpanTokens) : 0;
    case kCenter:
      return centers ? heads : 0;
    case kLimits:
      return heads * dense.limits_per_head;
    case kPack:
      return heads * dense.blocks_per_head;
    case kScan:
      return num_scans(plan);
    case kItems:
      return plan.schedule.num_items;
    default:
      return plan.schedule.num_merges;
  }
}

// Looks in a scan task's share of the additive mask for NaN and +infinity, and for rows that need
// not be read again.
void scan_mask(DenseRun& run, std::int64_t task) {
  const Problem& p = run.problem();
  const ScoreBias bias = run.bias();
  if (bias.additive.data == nullptr) return;
  const std::int64_t tasks = num_scans(*run.plan);
  const std::int64_t rows = (bias.additive.stride_batch == 0 ? 1 : p.batch) * p.query_len;
  for (std::int64_t i = rows * task / tasks; i < rows * (task + 1) / tasks; ++i) {
    const std::int64_t b = i / p.query_len;
    const std::int64_t query = i % p.query_len;
    if (has_bad_mask(run.kernels(), bias, b, p.num_query_heads, query))
      lower_to(run.first_bad_bias, i);
    run.plain_keys(b)[query] = plain_keys(run.kernels(), bias, b, query);
  }
}

intflash_status report_bad_bias(const DenseRun& run) {
  const std::int64_t bad = run.first_bad_bias.load(std::memory_order_relaxed);
  if (bad == INT64_MAX) return INTFLASH_OK;
  const Problem& p = run.problem();
  return report_bad_mask("additive_mask", run.bias(), bad / p.query_len, p.num_query_heads,
                         bad % p.query_len);
}

// What can be said before keys are seen.
bool is_query_sound(const DenseRun& run) {
  return run.query.first_bad.load(std::memory_order_relaxed) == INT64_MAX &&
         run.first_bad_bias.load(std::memory_order_relaxed) == INT64_MAX;
}
bool is_sound(const DenseRun& run) { return is_query_sound(run) && is_kv_sound(run); }

void run_task(Run& any_run, std::int32_t phase, std::int64_t task, std::int32_t worker_index) {
  DenseRun& run = static_cast<DenseRun&>(any_run);
  if (was_cancelled(run)) return;
  switch (phase) {
    case kSum:
      return sum_chunk(run, task);
    case kCenter:
      if (run.sums_keys() || run.sums_values()) compute_center(run, run.worker(worker_index), task);
      return;
    case kLimits:
      if (run.part == RunPart::kAll) limit_queries(run, run.worker(worker_index), task);
      return;
    case kPack:
      return pack_block(run, run.worker(worker_index), task);
    case kScan:
      if (task < num_query_chunks(*run.plan))
        scan_chunk(run.kernels(), run.query_tensor(), task, run.query);
      return scan_mask(run, task);
    default:
      break;
  }
  const bool packs = phase == kItems && packs_as_it_attends(run);
  if (packs ? !is_query_sound(run) : !may_attend(run, [&] { return is_sound(run); })) return;
  const Schedule& schedule = run.plan->schedule;
  if (phase == kItems) {
    run_item(run.attention, schedule.items[task], run.worker(worker_index));
  } else {
    run_merge(run.attention, schedule.merges[task], run.worker(worker_index));
  }
}

intflash_status end(Run& any_run) {
  DenseRun& run = static_cast<DenseRun&>(any_run);
  Findings findings = found(run);
  if (!is_sound(run, findings)) findings = found_of_seen(run);
  intflash_status status = check_kv(run, findings.key, findings.value);
  if (run.part != RunPart::kPack) {
    if (status == INTFLASH_OK)
      status = report_bad(run.query_tensor(), run.query.first_bad.load(std::memory_order_relaxed),
                          nullptr);
    if (status == INTFLASH_OK) status = report_bad_bias(run);
    if (status == INTFLASH_OK && has_scores(run))
      status = check_score_range(score_range(run, findings.key.largest));
  }
  if (status == INTFLASH_OK) status = check_cancelled(run);
  if (status == INTFLASH_OK && run.part == RunPart::kPack) mark_packed(run, findings.key.largest);
  return status;
}

constexpr RunCalls kDenseCalls = {begin, nullptr, num_tasks, run_task, end};

intflash_status create_cpu_plan(const intflash_context& context, const Problem& problem,
                                intflash_plan*& plan) {
  DensePlan* made = nullptr;
  const intflash_status status = create_dense_plan(context, problem, sizeof(DenseRun), made);
  if (status != INTFLASH_OK) return status;
  made->calls = &kDenseCalls;
  made->num_pack_phases = kNumPackPhases;
  made->num_phases = kNumPhases;
  made->packs_first = !made->packs_as_it_attends;
  plan = made;
  return INTFLASH_OK;
}

}  // namespace

const Backend kCpuBackend = {"cpu", create_cpu_plan, create_batch_plan};

}  // namespace intflash::internal
