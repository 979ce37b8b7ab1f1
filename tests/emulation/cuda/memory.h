// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Memory of the emulated device, and page-locked memory of the host's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "cuda_runtime.h"

namespace intflash::emulation {

// Of a pool: what nobody uses of what it has from the system.
struct PoolBytes {
  std::size_t free = 0;
  std::uint64_t threshold = 0;
};

// device -1: of the host's. What is released is there until the stream comes to it, and goes back
// to its pool then; nullptr: to the system.
cudaError_t allocate(void** memory, std::size_t bytes, int device, cudaStream_t stream,
                     const std::shared_ptr<PoolBytes>& pool = nullptr);
cudaError_t release(void* memory, cudaStream_t stream);

}  // namespace intflash::emulation
