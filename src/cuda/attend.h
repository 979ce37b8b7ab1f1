// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What a call enqueues: kernels in the stream of the current device.
#pragma once

#include <cuda_runtime.h>

#include "cuda/table.h"

namespace intflash::internal {

// Findings, codes and scales of queries, pages of keys and values.
cudaError_t enqueue_quantize(const CudaCall& call);
// Out and log-sum-exp; head_dim and head_dim_v are the same one of kCudaHeadDims.
cudaError_t enqueue_attend(const CudaCall& call);

// Whether this library has code for the current device: cudaSuccess, or why not.
cudaError_t check_attend();

}  // namespace intflash::internal
