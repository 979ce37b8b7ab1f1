// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda_memory.h"

#include <cstdio>

namespace intflash::internal {

intflash_status refuse(const intflash_context& context, const char* what) {
  return fail(INTFLASH_UNSUPPORTED, "%s: device %s does not serve it (docs/cuda.md)", what,
              context.device->name);
}

intflash_status check_place(const CudaDevice& device, const char* name, const void* pointer) {
  std::int32_t found = -1;
  const intflash_status status =
      check_cuda(device, name, device.table->locate(device.index, pointer, &found));
  if (status != INTFLASH_OK || found == device.index) return status;
  if (found < 0) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "%s = %p: is in the host's memory: must be in that of device %s", name, pointer,
                device.name);
  }
  return fail(INTFLASH_INVALID_ARGUMENT, "%s = %p: is of device cuda:%d: must be of %s", name,
              pointer, found, device.name);
}

intflash_status allocate_on(const intflash_context& context, std::int64_t bytes, void*& memory) {
  const CudaDevice& device = cuda_device(context);
  const CudaError error = device.table->allocate(device.index, context.memory_pool, context.stream,
                                                 static_cast<std::size_t>(bytes), &memory);
  if (error.is_none()) return INTFLASH_OK;
  memory = nullptr;
  char what[64];
  std::snprintf(what, sizeof what, "%lld bytes of its memory", static_cast<i64>(bytes));
  return check_cuda(device, what, error);
}

intflash_status Scratch::allocate() { return allocate_on(context_, bytes_, memory_); }

}  // namespace intflash::internal
