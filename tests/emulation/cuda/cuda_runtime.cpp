// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "cuda_runtime.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>

#include "machine.h"

namespace intflash::emulation {
namespace {

// Behind each allocation stands a page that nobody may touch.
constexpr std::size_t kPage = 4096;
constexpr std::size_t kAlignment = 256;
constexpr unsigned char kPoison = 0xa5;

struct Allocation {
  char* pages;
  std::size_t page_bytes;
  std::size_t bytes;
  int device;
};

EmulatedMachine machine;
int current_device = 0;
std::map<const char*, Allocation> allocations;  // by their first byte
std::string last_fault;

}  // namespace

cudaError_t launch_failure(const std::string& fault) {
  last_fault = fault;
  return cudaErrorLaunchFailure;
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
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= machine.num_devices) return cudaErrorInvalidDevice;
  current_device = device;
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
  *attributes = {cudaMemoryTypeUnregistered, -2};
  auto after = allocations.upper_bound(static_cast<const char*>(pointer));
  if (after == allocations.begin()) return cudaSuccess;
  const auto& [first, allocation] = *std::prev(after);
  if (static_cast<const char*>(pointer) < first + allocation.bytes)
    *attributes = {cudaMemoryTypeDevice, allocation.device};
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  attributes->binaryVersion = 80;
  return machine.has_code ? cudaSuccess : cudaErrorNoKernelImageForDevice;
}

cudaError_t cudaMallocAsync(void** memory, std::size_t bytes, cudaStream_t) {
  if (bytes > machine.bytes_left) return cudaErrorMemoryAllocation;
  const std::size_t used = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const std::size_t pages = (used + kPage - 1) / kPage * kPage;
  void* const mapped =
      ::mmap(nullptr, pages + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return cudaErrorMemoryAllocation;
  std::memset(mapped, kPoison, pages);
  ::mprotect(static_cast<char*>(mapped) + pages, kPage, PROT_NONE);
  char* const first = static_cast<char*>(mapped) + (pages - used);
  allocations[first] = {static_cast<char*>(mapped), pages + kPage, bytes, current_device};
  ++machine.allocations;
  *memory = first;
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* memory, cudaStream_t) {
  const auto found = allocations.find(static_cast<const char*>(memory));
  if (found == allocations.end()) return cudaErrorInvalidDevice;
  ::munmap(found->second.pages, found->second.page_bytes);
  allocations.erase(found);
  --machine.allocations;
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
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
    case cudaErrorLaunchFailure:
      return last_fault.c_str();
  }
  return "unknown error";
}
