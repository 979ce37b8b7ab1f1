// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Batches over a cache on a CUDA device: what is served, what is refused, and how a run goes.
#pragma once

#include "backend/backend.h"

namespace intflash::internal {

// As Backend has it.
intflash_status create_cuda_batch_plan(const intflash_context& context, const intflash_cache& cache,
                                       const intflash_batch_desc& desc, intflash_plan*& plan);

}  // namespace intflash::internal
