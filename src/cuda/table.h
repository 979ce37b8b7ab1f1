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
constexpr std::uint32_t kCudaTableVersion = 8;
// Names the table of a library, a CudaTableFn.
constexpr const char* kCudaTableSymbol = "intflash_cuda_table";

struct CudaDeviceInfo {
  char name[96];
  std::int32_t compute_major, compute_minor;
  std::int32_t num_multiprocessors;
  bool has_memory_pools;
};

enum class CudaErrorKind : std::int32_t {
  kNone,
  kOutOfMemory,
  kCapturing,  // a stream that is being captured does not take it
  kFatal,      // the context is lost, with all that is in its memory
  kOther
};
// What a function came to.
struct CudaError {
  CudaErrorKind kind;
  const char* text;  // what CUDA says of it

  bool is_none() const { return kind == CudaErrorKind::kNone; }
};

// The first functions return nullptr, or what CUDA says of the failure. All leave the calling
// thread's device and context as they were.
struct CudaTable {
  std::uint32_t version;
  const char* (*count_devices)(std::int32_t* count);
  const char* (*describe_device)(std::int32_t device, CudaDeviceInfo* info);
  // Whether this library has code that the device runs; unlike the two above it makes a context.
  const char* (*check_device)(std::int32_t device);
  // found: whose memory it is; -1: page-locked memory of the host's, -2: other. Asked from a
  // device, whose context it takes.
  CudaError (*locate)(std::int32_t device, const void* pointer, std::int32_t* found);
  // A pool of the device's memory, which keeps what is released, until it is trimmed; what is in
  // use of one that is destroyed stays until it is released.
  CudaError (*create_pool)(std::int32_t device, void** pool);
  CudaError (*trim_pool)(std::int32_t device, void* pool);
  CudaError (*destroy_pool)(std::int32_t device, void* pool);
  CudaError (*allocate)(std::int32_t device, void* pool, void* stream, std::size_t bytes,
                        void** memory);
  CudaError (*release)(std::int32_t device, void* stream, void* memory);
  // Enqueued, between the host's memory and the device's, or within either: the host's must stay,
  // and is filled, until a wait. CUDA may wait itself where that is not page-locked.
  CudaError (*copy)(std::int32_t device, void* stream, const void* from, std::size_t bytes,
                    void* to);
  CudaError (*wait)(std::int32_t device, void* stream);
  // An error where the stream is being captured: what waits would end that.
  CudaError (*check_capture)(std::int32_t device, void* stream);
  // The following are enqueued: cuda/enqueue.h says what they do.
  CudaError (*check_tokens)(std::int32_t device, const CudaTokens& tokens);
  CudaError (*store_tokens)(std::int32_t device, const CudaTokens& tokens);
  CudaError (*note_scales)(std::int32_t device, void* stream, const float* key_scale,
                           std::uint32_t* largest_key, bool begins_page);
  CudaError (*compute_means)(std::int32_t device, const CudaCall& call, const CudaTokens& tokens,
                             const CudaMeans& means);
  CudaError (*quantize_queries)(std::int32_t device, const CudaCall& call);
  CudaError (*check_masks)(std::int32_t device, const CudaCall& call);
  CudaError (*judge)(std::int32_t device, const CudaCall& call, const CudaTokens& tokens);
  CudaError (*attend)(std::int32_t device, const CudaCall& call);
};
using CudaTableFn = const CudaTable* (*)();

}  // namespace intflash::internal
