// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda_device.h"

#include <array>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "backend/backend.h"
#include "gpu/cuda_backend.h"
#include "gpu/cuda_storage.h"

namespace intflash::internal {
namespace {

constexpr std::int32_t kMaxDevices = 64;
// mma.sync.m16n8k32 and cp.async came with it.
constexpr std::int32_t kLeastMajor = 8;

// The number of "cuda:<number>"; -1 where the name is another.
std::int32_t index_of(std::string_view name) {
  constexpr std::string_view kPrefix = "cuda:";
  if (name.substr(0, kPrefix.size()) != kPrefix) return -1;
  name.remove_prefix(kPrefix.size());
  std::int32_t index = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), index);
  const bool is_whole = error == std::errc() && end == name.data() + name.size() && index >= 0;
  return is_whole ? index : -1;
}

// How many there are; 0 and why where none can be counted.
std::int32_t count_devices(const CudaLibrary& library, const char*& reason) {
  std::int32_t count = 0;
  reason = library.table == nullptr ? library.reason : library.table->count_devices(&count);
  if (reason == nullptr && count == 0) reason = "the driver has no device";
  return reason == nullptr ? std::min(count, kMaxDevices) : 0;
}

intflash_status open_pool(intflash_context& context) {
  const CudaDevice& device = cuda_device(context);
  return check_cuda(device, "a new context",
                    device.table->create_pool(device.index, &context.memory_pool));
}
void close_pool(intflash_context& context) {
  const CudaDevice& device = cuda_device(context);
  device.table->destroy_pool(device.index, context.memory_pool);
}

// What contexts have been created on; a process's library and its devices stay what they are.
struct Devices {
  std::array<CudaDevice, kMaxDevices> device;
  std::array<std::array<char, 16>, kMaxDevices> name;

  Devices(const CudaTable* table, std::int32_t count) : device{}, name{} {
    for (std::int32_t i = 0; i < count; ++i) {
      const auto at = static_cast<std::size_t>(i);
      std::snprintf(name[at].data(), name[at].size(), "cuda:%d", i);
      CudaDeviceInfo info{};
      table->describe_device(i, &info);
      device[at].name = name[at].data();
      device[at].storage = &kCudaStorage;
      for (const Backend*& backend : device[at].backends) backend = &kCudaBackend;
      device[at].open = open_pool;
      device[at].close = close_pool;
      device[at].table = table;
      device[at].index = i;
      device[at].num_multiprocessors = std::max(info.num_multiprocessors, 1);
    }
  }
};

}  // namespace

std::int32_t num_cuda_devices(const CudaLibrary& library) {
  const char* reason = nullptr;
  return std::max(count_devices(library, reason), 1);
}

void describe_cuda_device(const CudaLibrary& library, std::int32_t index,
                          intflash_device_info& info) {
  const char* reason = nullptr;
  if (count_devices(library, reason) == 0) {
    std::snprintf(info.name, sizeof info.name, "cuda");
    std::snprintf(info.reason, sizeof info.reason, "%s", reason);
    return;
  }
  std::snprintf(info.name, sizeof info.name, "cuda:%d", index);
  CudaDeviceInfo found{};
  if (library.table->describe_device(index, &found) == nullptr)
    std::snprintf(info.description, sizeof info.description, "%s, compute capability %d.%d",
                  found.name, found.compute_major, found.compute_minor);
  info.available = check_cuda_device(library, info.name, index) == INTFLASH_OK ? 1 : 0;
  if (info.available == 0) std::snprintf(info.reason, sizeof info.reason, "%s", last_error());
}

intflash_status check_cuda_device(const CudaLibrary& library, const char* name,
                                  std::int32_t index) {
  const char* reason = nullptr;
  const std::int32_t count = count_devices(library, reason);
  if (count == 0) return fail(INTFLASH_DEVICE_UNAVAILABLE, "device %s: %s", name, reason);
  if (index >= count) {
    return fail(INTFLASH_DEVICE_UNAVAILABLE, "device %s: there are %d, from cuda:0 on", name,
                count);
  }
  CudaDeviceInfo info{};
  const char* error = library.table->describe_device(index, &info);
  if (error == nullptr && info.compute_major < kLeastMajor) {
    return fail(INTFLASH_DEVICE_UNAVAILABLE,
                "device %s: %s has compute capability %d.%d: must be 8.0 or later", name, info.name,
                info.compute_major, info.compute_minor);
  }
  if (error == nullptr && !info.has_memory_pools)
    return fail(INTFLASH_DEVICE_UNAVAILABLE, "device %s: %s has no memory pools", name, info.name);
  if (error == nullptr) return INTFLASH_OK;
  return fail(INTFLASH_DEVICE_UNAVAILABLE, "device %s: %s", name, error);
}

intflash_status choose_cuda_device(const char* name, const Device*& device) {
  const std::int32_t index = index_of(name);
  if (index < 0) {
    return fail(INTFLASH_UNSUPPORTED,
                "options.device = \"%s\": this library knows \"cpu\", and \"cuda:0\" and on", name);
  }
  const CudaLibrary& library = cuda_library();
  const intflash_status status = check_cuda_device(library, name, index);
  if (status != INTFLASH_OK) return status;
  const char* reason = library.table->check_device(index);
  if (reason != nullptr) return fail(INTFLASH_DEVICE_UNAVAILABLE, "device %s: %s", name, reason);
  // Not const: tests have plans cut for other numbers of multiprocessors.
  static Devices devices(library.table, count_devices(library, reason));
  device = &devices.device[static_cast<std::size_t>(index)];
  return status;
}

intflash_status check_cuda(const CudaDevice& device, const char* what, const CudaError& error) {
  intflash_status status = INTFLASH_DEVICE_FAILED;
  if (error.is_none()) return INTFLASH_OK;
  if (error.kind == CudaErrorKind::kOutOfMemory) status = INTFLASH_OUT_OF_MEMORY;
  if (error.kind == CudaErrorKind::kCapturing) status = INTFLASH_UNSUPPORTED;
  return fail(status, "device %s, %s: %s", device.name, what, error.text);
}

}  // namespace intflash::internal
