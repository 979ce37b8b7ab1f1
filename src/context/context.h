// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the handles of the C interface point to.
#pragma once

#include <cstddef>
#include <cstdint>

#include "context/device.h"
#include "context/ports.h"
#include "intflash/intflash.h"
#include "threads/parallel.h"
#include "threads/thread_pool.h"

struct intflash_context {
  const intflash::internal::Device* device;
  const intflash::internal::PortEntry* port;
  std::int32_t num_threads;
  intflash::internal::NumaNodes nodes;  // of the CPUs that the threads may run on
  intflash::internal::Parallel parallel;
  intflash::internal::ThreadPool* pool;  // nullptr: threads that are not the context's
  void* (*allocate)(void* user, std::size_t bytes, std::size_t alignment);
  void (*deallocate)(void* user, void* pointer);
  void* allocator_user;
  std::int64_t l2_bytes;
  void* stream;       // of a CUDA device: a cudaStream_t
  void* memory_pool;  // of a CUDA device: the cudaMemPool_t that runs and caches take memory from
  char port_reason[512];
};
