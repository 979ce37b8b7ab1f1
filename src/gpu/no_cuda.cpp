// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// In place of the other files here, for a library that is to be small (INTFLASH_WITH_CUDA=OFF).
#include <cstdio>

#include "gpu/cuda_device.h"

namespace intflash::internal {

const CudaLibrary& cuda_library() {
  static constexpr CudaLibrary kNone = {nullptr, "this build knows no CUDA devices"};
  return kNone;
}

std::int32_t num_cuda_devices(const CudaLibrary&) { return 1; }

void describe_cuda_device(const CudaLibrary& library, std::int32_t, intflash_device_info& info) {
  std::snprintf(info.name, sizeof info.name, "cuda");
  std::snprintf(info.reason, sizeof info.reason, "%s", library.reason);
}

intflash_status choose_cuda_device(const char* name, const Device*&) {
  return fail(INTFLASH_UNSUPPORTED, "options.device = \"%s\": %s, but \"cpu\" alone", name,
              cuda_library().reason);
}

}  // namespace intflash::internal
