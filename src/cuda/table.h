// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What crosses between libintflash and libintflash_cuda: plain data, and one table of functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/call.h"

namespace intflash::internal {

// Of this header, and of call.h: a library of another one is refused.
constexpr std::uint32_t kCudaTableVersion = 6;
// Names the table of a library, a CudaTableFn.
constexpr const char* kCudaTableSymbol = "intflash_cuda_table";

struct CudaDeviceInfo {
  char name[96];
  std::int32_t compute_major, compute_minor;
  std::int32_t num_multiprocessors;
};

// Functions return nullptr, or what CUDA says of the failure. They leave the calling thread's
// device and context as they were.
struct CudaTable {
  std::uint32_t version;
  const char* (*count_devices)(std::int32_t* count);
  const char* (*describe_device)(std::int32_t device, CudaDeviceInfo* info);
  // Whether this library has code that the device runs; unlike the two above it makes a context.
  const char* (*check_device)(std::int32_t device);
  // found: whose memory it is; -1: not of any. Asked from a device, whose context it takes.
  const char* (*locate)(std::int32_t device, const void* pointer, std::int32_t* found);
  const char* (*allocate)(std::int32_t device, void* stream, std::size_t bytes, void** memory);
  const char* (*release)(std::int32_t device, void* stream, void* memory);
  // Enqueued, between the host's memory and the device's, or within either: the host's must stay,
  // and is filled, until a wait. CUDA may wait itself where that is not page-locked.
  const char* (*copy)(std::int32_t device, void* stream, const void* from, std::size_t bytes,
                      void* to);
  const char* (*wait)(std::int32_t device, void* stream);
  // The following are enqueued: cuda/enqueue.h says what they do.
  const char* (*check_tokens)(std::int32_t device, const CudaTokens& tokens);
  const char* (*store_tokens)(std::int32_t device, const CudaTokens& tokens);
  const char* (*note_scales)(std::int32_t device, void* stream, const float* key_scale,
                             std::uint32_t* largest_key, bool begins_page);
  const char* (*compute_means)(std::int32_t device, const CudaCall& call, const CudaTokens& tokens,
                               const CudaMeans& means);
  const char* (*quantize_queries)(std::int32_t device, const CudaCall& call);
  const char* (*check_masks)(std::int32_t device, const CudaCall& call);
  const char* (*judge)(std::int32_t device, const CudaCall& call, const CudaTokens& tokens);
  const char* (*attend)(std::int32_t device, const CudaCall& call);
};
using CudaTableFn = const CudaTable* (*)();

}  // namespace intflash::internal
