// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The CUDA devices of this machine: which there are, what they are, and why one cannot be used.
#pragma once

#include <cstdint>

#include "context/context.h"
#include "context/device.h"
#include "core/checks.h"
#include "gpu/cuda_library.h"

namespace intflash::internal {

struct CudaDevice : Device {
  const CudaTable* table;
  std::int32_t index;
  std::int32_t num_multiprocessors;
};

// Devices of a library, or one that says why there are none.
std::int32_t num_cuda_devices(const CudaLibrary& library);
void describe_cuda_device(const CudaLibrary& library, std::int32_t index,
                          intflash_device_info& info);

// The device of a name such as "cuda:0", or the error that says why it cannot be used.
intflash_status choose_cuda_device(const char* name, const Device*& device);
// That it is there, and one of those that are served: INTFLASH_OK, or why not. It makes no context.
intflash_status check_cuda_device(const CudaLibrary& library, const char* name, std::int32_t index);

// Of a context that was created on one.
inline const CudaDevice& cuda_device(const intflash_context& context) {
  return static_cast<const CudaDevice&>(*context.device);
}
// INTFLASH_OK, or the error that a device's driver reported; what: it was about.
intflash_status check_cuda(const CudaDevice& device, const char* what, const CudaError& error);

}  // namespace intflash::internal
