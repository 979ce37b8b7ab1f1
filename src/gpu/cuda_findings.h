// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What a CUDA device has found of a run's inputs: the errors that name it.
#pragma once

#include "gpu/cuda_run.h"

namespace intflash::internal {

// The error that names a sink which is none; INTFLASH_OK where there is none such.
intflash_status check_sinks_found(const CudaRun& run);
// The error that names a row with NaN or infinity; INTFLASH_OK where there is none.
intflash_status check_finite(const char* name, const CudaFinding& finding, std::int64_t heads,
                             std::int64_t tokens);

// The request that a query of the run's is of.
std::int64_t request_of_query(const CudaRun& run, std::int64_t query);
// Bytes of the device's memory, for an error.
intflash_status fetch(const CudaRun& run, const char* what, const void* from, std::int64_t bytes,
                      void* to);

}  // namespace intflash::internal
