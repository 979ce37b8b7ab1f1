// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Memory of the emulated device, and page-locked memory of the host's.
#pragma once

#include <cstddef>

#include "cuda_runtime.h"

namespace intflash::emulation {

// device -1: of the host's. What is released is there until the stream comes to it.
cudaError_t allocate(void** memory, std::size_t bytes, int device, cudaStream_t stream);
cudaError_t release(void* memory, cudaStream_t stream);

}  // namespace intflash::emulation
