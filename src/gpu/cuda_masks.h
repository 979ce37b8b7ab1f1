// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Masks that are data, and slopes, of a run on a CUDA device: where they must lie, what kernels are
// told of them, and the errors for what these find in them.
#pragma once

#include "gpu/cuda_run.h"
#include "inputs/score_bias.h"

namespace intflash::internal {

// The masks of a dense call, which all its requests have, or of a batch.
CudaRunMasks run_masks(const intflash_attend_args& args);
CudaRunMasks run_masks(const intflash_batch_args& args);

intflash_status check_mask_places(const intflash_plan& plan, const CudaRunMasks& masks);
// Into the run's call and requests.
void set_masks(const CudaRunMasks& masks, CudaRun& run);

intflash_status check_slopes_found(const CudaRun& run);
// The request of the first scale by head that is none; INT64_MAX: all are good.
std::int64_t bad_head_scale_request(const CudaRun& run);
intflash_status check_head_scales_found(const CudaRun& run);
intflash_status check_masks_found(const CudaRun& run);

}  // namespace intflash::internal
