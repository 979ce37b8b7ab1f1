// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A run of a dense call or of a batch on a CUDA device.
#pragma once

#include <cstdint>
#include <new>

#include "gpu/cuda_plan.h"
#include "gpu/cuda_storage.h"

namespace intflash::internal {

// Masks that are data of a run: of a batch an element by request, else one of all.
struct CudaRunMasks {
  const intflash_additive_mask* additive;  // nullptr = none
  std::uint32_t additive_size;
  const intflash_bit_mask* bits;  // nullptr = none
  std::uint32_t bits_size;
  const float* alibi_slopes;
};

// At the front of the workspace, in the host's memory. What a run needs of the device's it takes
// from the context's pool, and gives back in the stream's order.
struct CudaRun : Run {
  CudaRequest* requests;  // [the plan's requests]
  std::int32_t* blocks;
  CudaTokenRun* runs;
  CudaCall call;
  CudaTokens tokens;                 // whose num_runs is 0 where the run stores none
  CudaFindings found;                // once the stream has come to the run's end
  CudaStored* stored;                // a batch's cache; nullptr: of a dense call
  CudaMeans key_means, value_means;  // of a dense call, where they are to be computed

  const CudaPlan& cuda_plan() const { return static_cast<const CudaPlan&>(*plan); }
  const CudaDevice& device() const { return cuda_device(*plan->context); }
};

// A run whose call says all but pages, blocks, tensors and where queries lie.
void begin_cuda_run(const intflash_plan& plan, void* workspace, CudaRun& run);
template <class T>
T& begin_cuda_run(const intflash_plan& plan, void* workspace) {
  T& run = *new (workspace) T{};
  begin_cuda_run(plan, workspace, run);
  return run;
}
// Enqueues all of a run: what it stores and quantizes, the judgement of what that finds, and
// attention, which writes where the judgement lets it.
intflash_status enqueue_run(CudaRun& run);
// Waits for it. explain(run): the error for what it was refused for.
intflash_status finish_cuda_run(CudaRun& run, intflash_status (*explain)(CudaRun& run));

// What RunCalls have: there is nothing left to do between begin and end.
std::int64_t no_tasks(const intflash_plan& plan, std::int32_t phase);
intflash_status end_cuda_run(Run& run);

}  // namespace intflash::internal
