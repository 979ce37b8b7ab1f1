// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Caches in a CUDA device's memory: pages of codecs int8 and int8_wide, as the host has them.
#pragma once

#include <atomic>
#include <cstdint>

#include "cache/storage.h"
#include "gpu/cuda_memory.h"

namespace intflash::internal {

extern const Storage kCudaStorage;

// What a cache has stored.
struct CudaStored {
  const CudaDevice* device;
  void* stream;
  CudaPages shape;            // of a layer's pages, but for where they lie
  char** layers;              // [num_layers], in the device's memory
  float* largest_key_center;  // [num_layers]
  // In the device's memory.
  void* own_pages;             // nullptr: they lie in arenas of the caller's
  std::uint32_t* largest_key;  // [num_layers][num_pages], as CudaTokens has it
  float* key_center;           // [num_layers][num_kv_heads][head_dim]; nullptr = zero
  float* value_center;
  // What an append hands over to be looked at, and then to be stored: findings of nothing yet, and
  // runs of tokens. It grows.
  std::int64_t max_runs;
  char* host_staging;  // of both, one after the other
  void* device_staging;
  // What the device's driver said of the loss of its context, and with it of the cache.
  std::atomic<const char*> loss;

  CudaPages pages_of(std::int64_t layer) const {
    CudaPages pages = shape;
    pages.first = layers[layer];
    return pages;
  }
  CudaCenters centers_of(const intflash_cache& cache, std::int64_t layer) const {
    const std::int64_t heads = layer * cache.num_kv_heads;
    CudaCenters centers{};
    if (key_center != nullptr) centers.key = key_center + heads * cache.layout.head_dim;
    if (value_center != nullptr) centers.value = value_center + heads * cache.layout.head_dim_v;
    return centers;
  }

  // INTFLASH_OK as long as the cache is there.
  intflash_status status() const;
  // The same, and that its stream is not being captured, for what waits: what it is about.
  intflash_status begin(const char* what) const;
  // INTFLASH_OK, or the error for what the device was asked for, whose loss is kept.
  intflash_status check(const char* what, const CudaError& error);
};
// Of a cache whose storage is a CUDA device's.
inline CudaStored& cuda_stored(const intflash_cache& cache) {
  return *static_cast<CudaStored*>(cache.stored);
}

// As Storage has them (cuda_append.cpp).
intflash_status check_cuda_tokens(const Append& append);
intflash_status append_cuda_tokens(const Append& append);

// Tables of rope: where they must lie, how kernels have them, and the error for a pair that is out
// of range.
intflash_status check_rope_places(const CudaDevice& device, const intflash_rope& rope);
CudaRope cuda_rope(const intflash_rope& rope);
intflash_status report_bad_rope(const CudaDevice& device, void* stream, const intflash_rope& rope,
                                std::int64_t position, std::int64_t pair);

}  // namespace intflash::internal
