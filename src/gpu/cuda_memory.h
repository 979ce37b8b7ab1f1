// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Memory of a CUDA device: taken for as long as it is needed, and told from the host's.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gpu/cuda_device.h"
#include "tile/portability.h"

namespace intflash::internal {

// The error that names what a context's device does not serve.
intflash_status refuse(const intflash_context& context, const char* what);

// Elements that kernels read.
inline bool cuda_reads(intflash_dtype dtype) {
  return dtype == INTFLASH_F32 || dtype == INTFLASH_F16 || dtype == INTFLASH_BF16;
}

// Whether a pointer of a call is into the device's memory; name: of the argument.
intflash_status check_place(const CudaDevice& device, const char* name, const void* pointer);

// Memory of a context's pool for as long as it lives, cut from the front.
class Scratch {
 public:
  explicit Scratch(const intflash_context& context) : context_(context) {}
  ~Scratch() {
    const CudaDevice& device = cuda_device(context_);
    if (memory_ != nullptr) device.table->release(device.index, context_.stream, memory_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // The place of so many bytes more.
  std::int64_t take(std::int64_t bytes) {
    const std::int64_t place = bytes_;
    bytes_ += round_up(bytes, 256);
    return place;
  }
  intflash_status allocate();
  template <class T>
  T* at(std::int64_t place) const {
    return reinterpret_cast<T*>(static_cast<char*>(memory_) + place);
  }

 private:
  const intflash_context& context_;
  void* memory_ = nullptr;
  std::int64_t bytes_ = 0;
};

// Memory of a context's pool that is released by whoever has it, in its stream.
intflash_status allocate_on(const intflash_context& context, std::int64_t bytes, void*& memory);

}  // namespace intflash::internal
