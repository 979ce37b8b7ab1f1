// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A run of a dense call or of a batch on a CUDA device.
#pragma once

#include <cstdint>
#include <new>

#include "gpu/cuda_plan.h"

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
// from the stream's pool, and gives back before begin returns.
struct CudaRun : Run {
  CudaRequest* requests;  // [the plan's requests]
  std::int32_t* blocks;
  CudaTokenRun* runs;
  CudaCall call;
  CudaTokens tokens;  // whose num_runs is 0 where the run stores none
  CudaFindings found;
  double largest_key_center;  // of a dense call
  // A dense call's, where they are to be computed.
  bool means_of_keys, means_of_values;
  CudaMeans key_means, value_means;

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
// Quantizes and stores, looks at what that found, and only then lets anything be written: what
// check(run) finds wrong with run.found ends it.
intflash_status run_call(CudaRun& run, intflash_status (*check)(CudaRun& run));

// What RunCalls have: there is nothing left to do between begin and end.
std::int64_t no_tasks(const intflash_plan& plan, std::int32_t phase);
intflash_status end_cuda_run(Run& run);

}  // namespace intflash::internal
