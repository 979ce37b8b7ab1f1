// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda_batch.h"

#include "backend/score_range.h"
#include "cuda/judgement.h"
#include "gpu/cuda_findings.h"
#include "gpu/cuda_masks.h"
#include "gpu/cuda_storage.h"
#include "inputs/rope.h"

namespace intflash::internal {
namespace {

// ---- What is served ----

intflash_status check_served(const intflash_context& context, const intflash_batch_desc& desc) {
  if (desc.mode != INTFLASH_MODE_INT8) return refuse(context, "a mode other than int8");
  if (!cuda_reads(desc.query_dtype)) return refuse(context, "a query_dtype of INT8");
  return INTFLASH_OK;
}

intflash_status check_served(const intflash_context& context, const intflash_batch_args& args) {
  if (args.states != nullptr) return refuse(context, "states");
  return INTFLASH_OK;
}

// Each device has caches of its own.
intflash_status check_device(const intflash_context& context, const intflash_cache& cache) {
  const CudaDevice& device = cuda_device(context);
  const CudaDevice& own = cuda_device(*cache.context);
  if (device.index == own.index) return cuda_stored(cache).status();
  return fail(INTFLASH_INVALID_ARGUMENT, "cache: it lies on device %s: must be of %s", own.name,
              device.name);
}

intflash_status check_places(const intflash_plan& plan, const intflash_batch_args& args) {
  const CudaDevice& device = cuda_device(*plan.context);
  intflash_status status = check_place(device, "query", args.query.data);
  if (status == INTFLASH_OK) status = check_place(device, "out", args.out.data);
  if (status == INTFLASH_OK && args.lse != nullptr) status = check_place(device, "lse", args.lse);
  if (status == INTFLASH_OK && args.sinks != nullptr)
    status = check_place(device, "sinks", args.sinks);
  if (status == INTFLASH_OK) status = check_mask_places(plan, run_masks(args));
  return status == INTFLASH_OK ? check_rope_places(device, args.rope) : status;
}

// ---- A run ----

struct CudaBatchRun : CudaRun {
  intflash_rope rope;
};

// Entries of the blocks that have keys which are seen; others are not read.
void set_blocks(const intflash_cache& cache, const intflash_batch_args& args, CudaRun& run) {
  const std::int64_t per_page = cache.layout.page_size / kBlockTokens;
  std::int32_t* entry = run.blocks;
  for (std::int64_t r = 0; r < run.plan->schedule.num_requests; ++r) {
    const Request& request = run.plan->schedule.requests[r];
    const PageRun pages = batch_pages(cache, args, r, request.mask.kv_begin);
    const KeyRange seen = keys_that_are_seen(request);
    const KeyRange blocks = blocks_of(seen);
    for (std::int64_t block = blocks.begin; block < blocks.end; ++block) {
      const bool is_seen =
          (block + 1) * kBlockTokens > seen.begin && block * kBlockTokens < seen.end;
      const std::int64_t at = block - pages.first_key_position / kBlockTokens;
      *entry++ = is_seen ? cuda_block_entry(pages.page_ids[at / per_page], at % per_page) : -1;
    }
  }
}

void set_places(const intflash_cache& cache, const intflash_batch_args& args, CudaRun& run) {
  const Problem& p = run.plan->problem;
  const CudaStored& stored = cuda_stored(cache);
  CudaCall& call = run.call;
  call.query = cuda_tensor(args.query, p.query_dtype);
  call.out = cuda_tensor(args.out, p.out_dtype);
  call.lse = args.lse;
  call.lse_stride_head = p.query_len;
  call.sinks = args.sinks;
  set_masks(run_masks(args), run);
  call.rope = cuda_rope(args.rope);
  call.pages = stored.pages_of(args.layer);
  call.largest_key = stored.largest_key + args.layer * cache.num_pages;
  call.centers = stored.centers_of(cache, args.layer);
  call.largest_center = static_cast<double>(stored.largest_key_center[args.layer]);
  call.has_keys = true;
  for (std::int64_t r = 0; r < call.num_requests; ++r)
    run.requests[r].first_token = run.requests[r].first_lse =
        run.plan->schedule.requests[r].first_query;
}

// The error for the lowest pair that is out of range.
intflash_status report_rope(const CudaBatchRun& run, std::int64_t query) {
  const std::int64_t pairs = run.rope.rope_dim / 2;
  const Request& request = run.plan->schedule.requests[request_of_query(run, query)];
  return report_bad_rope(run.device(), run.call.stream, run.rope,
                         first_position(request) + query - request.first_query,
                         run.found.first_bad_rope % pairs);
}

// By request: tables of rope, then scales of masks.
intflash_status check_tables_found(const CudaBatchRun& run) {
  if (run.found.first_bad_rope == INT64_MAX) return check_head_scales_found(run);
  const std::int64_t query = run.found.first_bad_rope / (run.rope.rope_dim / 2);
  return bad_head_scale_request(run) < request_of_query(run, query) ? check_head_scales_found(run)
                                                                    : report_rope(run, query);
}

// What refused the run.
intflash_status explain(CudaRun& any_run) {
  CudaBatchRun& run = static_cast<CudaBatchRun&>(any_run);
  const Problem& p = run.plan->problem;
  intflash_status status = check_sinks_found(run);
  if (status == INTFLASH_OK) status = check_slopes_found(run);
  if (status == INTFLASH_OK) status = check_tables_found(run);
  if (status == INTFLASH_OK)
    status = check_finite("query", run.found.query, p.num_query_heads, p.query_len);
  if (status == INTFLASH_OK) status = check_masks_found(run);
  if (status != INTFLASH_OK) return status;
  return check_score_range(score_range(run.call, run.found, CudaLook::kSeen));
}

intflash_status begin_batch(const intflash_plan& plan, const intflash_cache& cache,
                            const intflash_batch_args& args, void* workspace) {
  const intflash_context& context = *plan.context;
  intflash_status status = check_device(context, cache);
  if (status == INTFLASH_OK) status = check_served(context, args);
  if (status == INTFLASH_OK && plan.schedule.num_queries > 0) status = check_places(plan, args);
  if (status != INTFLASH_OK) return status;
  CudaBatchRun& run = begin_cuda_run<CudaBatchRun>(plan, workspace);
  run.should_cancel = args.should_cancel;
  run.cancel_user = args.cancel_user;
  run.stored = &cuda_stored(cache);
  run.rope = args.rope;
  set_places(cache, args, run);
  set_blocks(cache, args, run);
  if (plan.schedule.num_queries > 0) status = enqueue_run(run);
  if (status != INTFLASH_OK) run.mark = 0;
  return status;
}

intflash_status status_of(Run& run) { return finish_cuda_run(static_cast<CudaRun&>(run), explain); }

constexpr RunCalls kBatchCalls = {
    .begin_batch = begin_batch, .num_tasks = no_tasks, .end = end_cuda_run, .status_of = status_of};

}  // namespace

intflash_status create_cuda_batch_plan(const intflash_context& context, const intflash_cache& cache,
                                       const intflash_batch_desc& desc, intflash_plan*& plan) {
  intflash_status status = check_device(context, cache);
  if (status == INTFLASH_OK) status = check_served(context, desc);
  if (status != INTFLASH_OK) return status;
  CudaPlan* made = nullptr;
  status = create_plan(context, made, [&](CudaPlan& cut) {
    const ScheduleShape shape = {
        cache.num_kv_heads, desc.num_query_heads / cache.num_kv_heads, kCudaTileRows, 0, 1, false};
    return cut_batch(context, cache, desc, shape, cut);
  });
  if (status != INTFLASH_OK) return status;
  status = finish_cuda_plan(kBatchCalls, "batch", sizeof(CudaBatchRun), *made);
  if (status == INTFLASH_OK) plan = made;
  return status;
}

}  // namespace intflash::internal
