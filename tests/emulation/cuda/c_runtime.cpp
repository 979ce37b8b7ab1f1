// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What c/cuda_runtime_api.h declares.
#include <cstddef>

#include "cuda_runtime.h"

#define INTFLASH_EXPORTED extern "C" __attribute__((visibility("default")))

INTFLASH_EXPORTED int cudaMalloc(void** memory, std::size_t bytes) {
  return cudaMallocAsync(memory, bytes, nullptr);
}
INTFLASH_EXPORTED int cudaFree(void* memory) { return cudaFreeAsync(memory, nullptr); }
INTFLASH_EXPORTED int cudaMemcpy(void* to, const void* from, std::size_t bytes,
                                 cudaMemcpyKind kind) {
  return cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}
