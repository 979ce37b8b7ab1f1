// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// In place of CUDA's header of this name, for programs in C: memory of the emulated device.
#pragma once

#include <stddef.h>

typedef int cudaError_t;
enum { cudaSuccess = 0 };
enum cudaMemcpyKind { cudaMemcpyDefault = 4 };

cudaError_t cudaMalloc(void** memory, size_t bytes);
cudaError_t cudaFree(void* memory);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, enum cudaMemcpyKind kind);
