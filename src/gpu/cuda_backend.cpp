// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda_backend.h"

#include <algorithm>
#include <cmath>

#include "backend/score_range.h"
#include "cuda/judgement.h"
#include "gpu/cuda_batch.h"
#include "gpu/cuda_findings.h"
#include "gpu/cuda_masks.h"

namespace intflash::internal {
namespace {

// ---- What is served ----

intflash_status check_served(const intflash_context& context, const Problem& p) {
  if (p.mode != INTFLASH_MODE_INT8) return refuse(context, "a mode other than int8");
  if (!cuda_reads(p.query_dtype) || !cuda_reads(p.key_dtype) || !cuda_reads(p.value_dtype))
    return refuse(context, "a dtype other than f32, f16 and bf16");
  const std::int64_t rows = p.group_size * p.query_len;
  if (rows > kMaxCudaRows || (rows > 0 && p.batch > kMaxCudaRows / rows))
    return refuse(context, "so many query rows, more than 2^30 of a kv head");
  return INTFLASH_OK;
}

intflash_status check_places(const intflash_plan& plan, const intflash_attend_args& args) {
  const CudaDevice& device = cuda_device(*plan.context);
  const Problem& p = plan.problem;
  intflash_status status = check_place(device, "query", args.query.data);
  if (status == INTFLASH_OK && p.kv_len > 0) status = check_place(device, "key", args.key.data);
  if (status == INTFLASH_OK && p.kv_len > 0) status = check_place(device, "value", args.value.data);
  if (status == INTFLASH_OK && p.center_key && args.key_center != nullptr)
    status = check_place(device, "key_center", args.key_center);
  if (status == INTFLASH_OK && p.center_value && args.value_center != nullptr)
    status = check_place(device, "value_center", args.value_center);
  if (status == INTFLASH_OK) status = check_place(device, "out", args.out.data);
  if (status == INTFLASH_OK && args.lse != nullptr) status = check_place(device, "lse", args.lse);
  if (status == INTFLASH_OK && args.sinks != nullptr)
    status = check_place(device, "sinks", args.sinks);
  return status == INTFLASH_OK ? check_mask_places(plan, run_masks(args)) : status;
}

// ---- A run ----

// Pages of the run's own, one for each block that has a key which is seen.
void store_keys(const intflash_attend_args& args, CudaRun& run) {
  const Problem& p = run.plan->problem;
  CudaTokens& tokens = run.tokens;
  tokens.num_kv_heads = p.num_kv_heads;
  tokens.head_dim = p.head_dim;
  tokens.head_dim_v = p.head_dim_v;
  tokens.key = cuda_tensor(args.key, p.key_dtype);
  tokens.value = cuda_tensor(args.value, p.value_dtype);
  tokens.num_rows = p.kv_len;
  tokens.rotates_keys = p.rotation.keys;
  tokens.rotates_values = p.rotation.values;
  std::int32_t* entry = run.blocks;
  for (std::int64_t b = 0; b < p.batch; ++b) {
    const KeyRange seen = keys_that_are_seen(run.plan->schedule.requests[b]);
    const KeyRange blocks = blocks_of(seen);
    for (std::int64_t block = blocks.begin; block < blocks.end; ++block) {
      const std::int64_t first = std::max(seen.begin, block * kBlockTokens);
      const std::int64_t end = std::min(seen.end, (block + 1) * kBlockTokens);
      *entry++ = first < end ? cuda_block_entry(tokens.num_runs, 0) : -1;
      if (first >= end) continue;
      const auto count = static_cast<std::int32_t>(end - first);
      run.runs[tokens.num_runs] = {tokens.num_runs * kBlockTokens + first % kBlockTokens,
                                   first,
                                   first,
                                   count,
                                   static_cast<std::int32_t>(b),
                                   static_cast<std::int32_t>(b),
                                   count < kBlockTokens};
      ++tokens.num_runs;
    }
  }
}

void set_places(const intflash_attend_args& args, CudaRun& run) {
  const Problem& p = run.plan->problem;
  run.call.query = cuda_tensor(args.query, p.query_dtype);
  run.call.out = cuda_tensor(args.out, p.out_dtype);
  run.call.lse = args.lse;
  run.call.lse_stride_head = p.query_len;
  run.call.sinks = args.sinks;
  for (std::int64_t b = 0; b < p.batch; ++b) {
    run.requests[b].tensor_batch = b;
    run.requests[b].first_lse = b * p.num_query_heads * p.query_len;
  }
  const Codec& codec = p.has_digits() ? kInt8WideCodec : kInt8Codec;
  if (p.center_key) {
    run.call.centers.key = args.key_center;
    run.call.centers.key_stride = p.num_kv_heads * p.head_dim;
  }
  if (p.center_value) {
    run.call.centers.value = args.value_center;
    run.call.centers.value_stride = p.num_kv_heads * p.head_dim_v;
  }
  run.call.computes_key_means = p.center_key && args.key_center == nullptr && p.kv_len > 0;
  run.call.computes_value_means = p.center_value && args.value_center == nullptr && p.kv_len > 0;
  set_masks(run_masks(args), run);
  run.call.has_keys = p.kv_len > 0;
  run.call.pages =
      cuda_pages(page_layout(codec, p.head_dim, p.head_dim_v, kBlockTokens), p.num_kv_heads);
}

// Given means of heads of so many channels, as the host has them.
intflash_status check_center_found(const CudaRun& run, const char* name, const CudaFinding& found,
                                   const float* center, std::int64_t dim, int max_exponent) {
  const bool is_good =
      found.first_bad == INT64_MAX && largest_of(found) < std::ldexp(1.0, max_exponent);
  if (is_good) return INTFLASH_OK;
  const Problem& p = run.plan->problem;
  const std::int64_t heads = p.batch * p.num_kv_heads;
  auto* const copied = reinterpret_cast<float*>(run.workspace + run.cuda_plan().center_offset);
  const intflash_status status = fetch(run, "looking at centres", center, heads * dim * 4, copied);
  return status == INTFLASH_OK ? check_center(name, copied, heads, dim, max_exponent) : status;
}

intflash_status check_centers_found(const CudaRun& run) {
  const Problem& p = run.plan->problem;
  const CudaCenters& centers = run.call.centers;
  const intflash_status status = check_center_found(run, "key_center", run.found.key_center,
                                                    centers.key, p.head_dim, kMaxKeyExponent);
  if (status != INTFLASH_OK) return status;
  return check_center_found(run, "value_center", run.found.value_center, centers.value,
                            p.head_dim_v, kMaxValueExponent);
}

// Of those that some query sees, where all of them are not sound.
intflash_status check_keys_found(const CudaRun& run) {
  const Problem& p = run.plan->problem;
  const CudaLook look = needed_look(run.call, run.found);
  const CudaFinding& key = keys_found(run.found, look);
  const CudaFinding& value = values_found(run.found, look);
  intflash_status status = check_finite("key", key, p.num_kv_heads, p.kv_len);
  if (status == INTFLASH_OK) status = check_finite("value", value, p.num_kv_heads, p.kv_len);
  if (status == INTFLASH_OK && largest_of(key) >= kMaxKey)
    status = fail(INTFLASH_SCORE_OVERFLOW, "key: largest magnitude %g: must be below 2^100",
                  largest_of(key));
  if (status == INTFLASH_OK && largest_of(value) >= kMaxValue)
    status = fail(INTFLASH_SCORE_OVERFLOW, "value: largest magnitude %g: must be below 2^90",
                  largest_of(value));
  return status;
}

// What refused the run.
intflash_status explain(CudaRun& run) {
  const Problem& p = run.plan->problem;
  intflash_status status = check_centers_found(run);
  if (status == INTFLASH_OK) status = check_sinks_found(run);
  if (status == INTFLASH_OK) status = check_slopes_found(run);
  if (status == INTFLASH_OK) status = check_head_scales_found(run);
  if (status == INTFLASH_OK) status = check_keys_found(run);
  if (status == INTFLASH_OK)
    status = check_finite("query", run.found.query, p.num_query_heads, p.query_len);
  if (status == INTFLASH_OK) status = check_masks_found(run);
  if (status != INTFLASH_OK || p.kv_len == 0) return status;
  return check_score_range(score_range(run.call, run.found, needed_look(run.call, run.found)));
}

intflash_status begin(const intflash_plan& plan, const intflash_attend_args& args, RunPart part,
                      void* workspace) {
  const intflash_context& context = *plan.context;
  if (part != RunPart::kAll) return refuse(context, "intflash_pack and intflash_run_packed");
  intflash_status status = check_places(plan, args);
  if (status != INTFLASH_OK) return status;
  CudaRun& run = begin_cuda_run<CudaRun>(plan, workspace);
  run.should_cancel = args.should_cancel;
  run.cancel_user = args.cancel_user;
  set_places(args, run);
  store_keys(args, run);
  status = enqueue_run(run);
  if (status != INTFLASH_OK) run.mark = 0;
  return status;
}

intflash_status status_of(Run& run) { return finish_cuda_run(static_cast<CudaRun&>(run), explain); }

constexpr RunCalls kCudaCalls = {
    .begin = begin, .num_tasks = no_tasks, .end = end_cuda_run, .status_of = status_of};

intflash_status create_cuda_plan(const intflash_context& context, const Problem& problem,
                                 intflash_plan*& plan) {
  intflash_status status = check_served(context, problem);
  if (status != INTFLASH_OK) return status;
  CudaPlan* made = nullptr;
  status = create_plan(context, made, [&](CudaPlan& cut) {
    const ScheduleShape shape = {
        problem.num_kv_heads, problem.group_size, kCudaTileRows, 0, 1, false};
    return cut_dense(context, problem, shape, cut);
  });
  if (status != INTFLASH_OK) return status;
  status = finish_cuda_plan(kCudaCalls, "attend", sizeof(CudaRun), *made);
  if (status == INTFLASH_OK) plan = made;
  return status;
}

}  // namespace

const Backend kCudaBackend = {"cuda", create_cuda_plan, create_cuda_batch_plan};

}  // namespace intflash::internal
