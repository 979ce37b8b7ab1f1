// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "cuda_runtime.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "machine.h"
#include "memory.h"
#include "stream.h"

namespace intflash::emulation {
namespace {

// Behind each allocation stands a page that nobody may touch.
constexpr std::size_t kPage = 4096;
constexpr std::size_t kAlignment = 256;
constexpr unsigned char kPoison = 0xa5;

struct Allocation {
  std::size_t bytes;
  int device;  // -1: page-locked memory of the host's
  std::shared_ptr<void> pages;
  std::shared_ptr<PoolBytes> pool;
};

EmulatedMachine machine;
EmulatedContext primary_contexts[EmulatedMachine::kMaxDevices] = {{0}, {1}};
std::map<const char*, Allocation> allocations;  // by their first byte
std::string last_fault;
std::vector<std::weak_ptr<PoolBytes>> pools;

// What pools have beyond their thresholds goes back to the system.
void trim_pools() {
  for (const std::weak_ptr<PoolBytes>& pool : pools) {
    const std::shared_ptr<PoolBytes> bytes = pool.lock();
    if (bytes != nullptr && bytes->free > bytes->threshold) bytes->free = 0;
  }
}

int current_device() {
  return machine.context == nullptr ? machine.device : machine.context->device;
}
// What a call takes: the current context, else the runtime's own, which it makes where it must.
void take_primary_context(int device) {
  machine.context = &primary_contexts[device];
  machine.device = device;
  machine.has_primary_context[device] = true;
}
void take_context() {
  if (machine.context == nullptr) take_primary_context(machine.device);
}

int get_current_context(void** context) {
  *context = machine.context;
  return 0;
}
int set_current_context(void* context) {
  machine.context = static_cast<EmulatedContext*>(context);
  return 0;
}

// So many bytes up to a page that nobody may touch; nullptr: there are none.
std::shared_ptr<void> map_pages(std::size_t bytes, char*& first) {
  const std::size_t used = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const std::size_t pages = (used + kPage - 1) / kPage * kPage;
  void* const mapped =
      ::mmap(nullptr, pages + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  std::memset(mapped, kPoison, pages);
  ::mprotect(static_cast<char*>(mapped) + pages, kPage, PROT_NONE);
  first = static_cast<char*>(mapped) + (pages - used);
  return {mapped, [pages](void* memory) { ::munmap(memory, pages + kPage); }};
}

// That a pointer lies in; nullptr: none.
const Allocation* allocation_of(const void* pointer) {
  const auto after = allocations.upper_bound(static_cast<const char*>(pointer));
  if (after == allocations.begin()) return nullptr;
  const auto& [first, allocation] = *std::prev(after);
  return static_cast<const char*>(pointer) < first + allocation.bytes ? &allocation : nullptr;
}

Operation poisoning(void* memory, std::size_t bytes) {
  return [memory, bytes] {
    std::memset(memory, kPoison, bytes);
    return cudaSuccess;
  };
}

// To or from the host's memory that is not page-locked: what comes from there is taken at once, and
// for what goes there the stream is waited for.
cudaError_t copy_pageable(void* to, const void* from, std::size_t bytes, cudaStream_t stream) {
  if (end_captured(stream)) return cudaErrorStreamCaptureUnsupported;
  if (allocation_of(to) == nullptr) {
    ++machine.waits;
    const cudaError_t error = drain(stream);
    if (error == cudaSuccess) std::memcpy(to, from, bytes);
    return error;
  }
  const auto* const first = static_cast<const char*>(from);
  enqueue(stream, [to, taken = std::vector<char>(first, first + bytes)] {
    std::memcpy(to, taken.data(), taken.size());
    return cudaSuccess;
  });
  return cudaSuccess;
}

}  // namespace

struct Pool {
  int device;
  std::shared_ptr<PoolBytes> bytes = std::make_shared<PoolBytes>();
};

cudaError_t allocate(void** memory, std::size_t bytes, int device, cudaStream_t stream,
                     const std::shared_ptr<PoolBytes>& pool) {
  char* first = nullptr;
  const bool is_there = device < 0 || bytes <= machine.bytes_left;
  std::shared_ptr<void> pages = is_there ? map_pages(bytes, first) : nullptr;
  if (pages == nullptr) return cudaErrorMemoryAllocation;
  if (device >= 0) ++machine.allocations;
  if (Graph* const graph = captured(stream)) {
    graph->memory.push_back(pages);
    graph->operations.push_back(poisoning(first, bytes));
  }
  if (pool != nullptr) {
    if (pool->free < bytes) ++machine.pool_growths;
    pool->free -= std::min(pool->free, bytes);
  }
  allocations[first] = {bytes, device, std::move(pages), pool};
  *memory = first;
  return cudaSuccess;
}

cudaError_t release(void* memory, cudaStream_t stream) {
  const auto found = allocations.find(static_cast<const char*>(memory));
  if (found == allocations.end()) return cudaErrorInvalidValue;
  Allocation& allocation = found->second;
  if (allocation.device >= 0) --machine.allocations;
  if (captured(stream) != nullptr) {
    enqueue(stream, poisoning(memory, allocation.bytes));
  } else {
    enqueue(stream, [pages = std::move(allocation.pages), pool = allocation.pool,
                     bytes = allocation.bytes]() mutable {
      pages.reset();
      if (pool != nullptr) pool->free += bytes;
      return cudaSuccess;
    });
  }
  allocations.erase(found);
  return cudaSuccess;
}

cudaError_t launch_failure(const std::string& fault) {
  last_fault = fault;
  return cudaErrorLaunchFailure;
}

bool take_call() {
  if (machine.calls_left == 0) {
    machine.calls_left = ~std::size_t{0};
    return false;
  }
  --machine.calls_left;
  return true;
}

bool take_launch() {
  if (machine.launches_left == 0) return false;
  --machine.launches_left;
  return true;
}

}  // namespace intflash::emulation

using namespace intflash::emulation;

extern "C" __attribute__((visibility("default"))) EmulatedMachine* intflash_emulated_machine() {
  return &machine;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = machine.num_devices;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device();
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= machine.num_devices) return cudaErrorInvalidDevice;
  take_primary_context(device);
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= machine.num_devices) return cudaErrorInvalidDevice;
  std::snprintf(properties->name, sizeof properties->name, "emulated");
  properties->major = machine.compute_major;
  properties->minor = machine.compute_minor;
  properties->multiProcessorCount = machine.num_multiprocessors;
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  take_context();
  const Allocation* const found = allocation_of(pointer);
  *attributes = {cudaMemoryTypeUnregistered, -2};
  if (found != nullptr)
    *attributes = {found->device < 0 ? cudaMemoryTypeHost : cudaMemoryTypeDevice, found->device};
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  take_context();
  attributes->binaryVersion = 80;
  return machine.has_code ? cudaSuccess : cudaErrorNoKernelImageForDevice;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = machine.has_memory_pools ? 1 : 0;
  return cudaSuccess;
}
cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties) {
  *pool = new Pool{properties->location.id};
  pools.push_back((*pool)->bytes);
  ++machine.pools;
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr, void* value) {
  pool->bytes->threshold = *static_cast<const std::uint64_t*>(value);
  return cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, std::size_t bytes) {
  pool->bytes->free = std::min(pool->bytes->free, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
  delete pool;
  --machine.pools;
  return cudaSuccess;
}
cudaError_t cudaMallocFromPoolAsync(void** memory, std::size_t bytes, cudaMemPool_t pool,
                                    cudaStream_t stream) {
  take_context();
  if (machine.refuses_memory) return cudaErrorInvalidValue;
  return allocate(memory, bytes, pool->device, stream, pool->bytes);
}
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) { return release(memory, stream); }
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  take_context();
  if (!take_call()) return cudaErrorInvalidValue;
  if (allocation_of(to) == nullptr || allocation_of(from) == nullptr)
    return copy_pageable(to, from, bytes, stream);
  enqueue(stream, [to, from, bytes] {
    std::memcpy(to, from, bytes);
    return cudaSuccess;
  });
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  take_context();
  if (end_captured(stream)) return cudaErrorStreamCaptureUnsupported;
  ++machine.waits;
  const cudaError_t error = drain(stream);
  trim_pools();
  return error;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status =
      captured(stream) == nullptr ? cudaStreamCaptureStatusNone : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  const bool is_set = std::strcmp(name, "cuCtxSetCurrent") == 0;
  *function = is_set ? reinterpret_cast<void*>(set_current_context)
                     : reinterpret_cast<void*>(get_current_context);
  *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return cudaSuccess; }

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorNoKernelImageForDevice:
      return "no kernel image is available for execution on the device";
    case cudaErrorLaunchOutOfResources:
      return "too many resources requested for launch";
    case cudaErrorLaunchFailure:
      return last_fault.c_str();
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    default:
      return "unknown error";
  }
}
