// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The port for AVX2 without VNNI.
#include "tile/port.h"
#include "avx2/wide_tiles.h"

namespace intflash::internal {

extern constexpr KernelTable kernels_avx2 = make_kernel_table<WideTiles>("avx2");

}  // namespace intflash::internal
