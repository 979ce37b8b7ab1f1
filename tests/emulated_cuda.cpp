// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "emulated_cuda.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <stdexcept>

#include "gpu/cuda_device.h"
#include "gpu/cuda_library.h"

namespace intflash::internal {
namespace {

// Before the library looks for it; another build of it, or the one for cards, may have been named.
const bool is_named = ::setenv("INTFLASH_CUDA_LIBRARY", INTFLASH_EMULATED_CUDA, 0) == 0;

void* symbol_of_library(const char* name) {
  void* const handle =
      is_named ? ::dlopen(std::getenv("INTFLASH_CUDA_LIBRARY"), RTLD_NOW | RTLD_LOCAL) : nullptr;
  if (handle == nullptr) throw std::runtime_error(::dlerror());
  return ::dlsym(handle, name);
}

// Memory of a card that the host can read too: the driver's cuMemAllocManaged and cuMemFree.
// Emulated devices have none, and need none.
struct ManagedMemory {
  static constexpr unsigned kOfAllStreams = 1;  // CU_MEM_ATTACH_GLOBAL
  int (*allocate)(void** memory, std::size_t bytes, unsigned streams);
  int (*release)(void* memory);
};
const ManagedMemory& managed_memory() {
  static const ManagedMemory managed = []() -> ManagedMemory {
    if (symbol_of_library("intflash_emulated_machine") != nullptr) return {};
    void* const driver = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (driver == nullptr) throw std::runtime_error(::dlerror());
    return {
        reinterpret_cast<decltype(ManagedMemory::allocate)>(::dlsym(driver, "cuMemAllocManaged")),
        reinterpret_cast<decltype(ManagedMemory::release)>(::dlsym(driver, "cuMemFree_v2"))};
  }();
  return managed;
}

}  // namespace

emulation::EmulatedMachine& emulated_machine() {
  static emulation::EmulatedMachine of_a_card;
  const auto machine = reinterpret_cast<emulation::EmulatedMachineFn>(
      symbol_of_library("intflash_emulated_machine"));
  return machine == nullptr ? of_a_card : *machine();
}

void cut_for_multiprocessors(int count) {
  const DeviceContext context;
  const_cast<CudaDevice&>(cuda_device(*context.get())).num_multiprocessors = count;
}

std::byte* DeviceMemory::take(std::size_t bytes) {
  const CudaTable& table = *cuda_library().table;
  void* memory = nullptr;
  // Of no bytes too there is an address.
  if (pool_ == nullptr && !table.create_pool(0, &pool_).is_none()) throw std::bad_alloc();
  if (!table.allocate(0, pool_, nullptr, bytes + 1, &memory).is_none()) throw std::bad_alloc();
  if (const ManagedMemory& managed = managed_memory(); managed.allocate != nullptr) {
    // By now the thread has the device's context.
    table.release(0, nullptr, memory);
    if (managed.allocate(&memory, bytes + 1, ManagedMemory::kOfAllStreams) != 0)
      throw std::bad_alloc();
  }
  blocks_.push_back(memory);
  return static_cast<std::byte*>(memory);
}
DeviceMemory::~DeviceMemory() {
  for (void* const block : blocks_) {
    if (managed_memory().allocate != nullptr)
      managed_memory().release(block);
    else
      cuda_library().table->release(0, nullptr, block);
  }
  if (pool_ != nullptr) cuda_library().table->destroy_pool(0, pool_);
}

DeviceContext::DeviceContext() {
  intflash_context_options options{};
  options.struct_size = sizeof options;
  options.device = "cuda:0";
  if (intflash_context_create(&options, &context_) != INTFLASH_OK)
    throw std::runtime_error(intflash_last_error());
}
DeviceContext::~DeviceContext() { intflash_context_destroy(context_); }

CaseResult run_on_device(CaseTensors& tensors) {
  const DeviceContext context;
  CaseResult result;
  result.status = intflash_attend(context.get(), &tensors.desc, &tensors.args);
  if (result.status != INTFLASH_OK) result.error = intflash_last_error();
  result.out.assign(tensors.out, tensors.out + tensors.out_bytes);
  result.lse.assign(tensors.args.lse, tensors.args.lse + tensors.lse_count);
  return result;
}

CaseResult run_on_device(const AttentionCase& c) {
  DeviceMemory memory;
  CaseTensors tensors = make_tensors(c, memory);
  return run_on_device(tensors);
}

bool is_untouched(const CaseTensors& tensors) {
  return std::all_of(tensors.out, tensors.out + tensors.out_bytes,
                     [](std::byte b) { return b == std::byte{CaseTensors::kPoison}; });
}

}  // namespace intflash::internal
