// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "emulated_cuda.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <stdexcept>

#include "gpu/cuda_library.h"

namespace intflash::internal {
namespace {

// Before the library looks for it; another build of it may have been named.
const bool is_named = ::setenv("INTFLASH_CUDA_LIBRARY", INTFLASH_EMULATED_CUDA, 0) == 0;

}  // namespace

emulation::EmulatedMachine& emulated_machine() {
  void* const handle =
      is_named ? ::dlopen(std::getenv("INTFLASH_CUDA_LIBRARY"), RTLD_NOW | RTLD_LOCAL) : nullptr;
  if (handle == nullptr) throw std::runtime_error(::dlerror());
  return *reinterpret_cast<emulation::EmulatedMachineFn>(
      ::dlsym(handle, "intflash_emulated_machine"))();
}

std::byte* DeviceMemory::take(std::size_t bytes) {
  void* memory = nullptr;
  // Of no bytes too there is an address.
  if (cuda_library().table->allocate(0, nullptr, bytes + 1, &memory) != nullptr)
    throw std::bad_alloc();
  blocks_.push_back(memory);
  return static_cast<std::byte*>(memory);
}
DeviceMemory::~DeviceMemory() {
  for (void* const block : blocks_) cuda_library().table->release(0, nullptr, block);
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
