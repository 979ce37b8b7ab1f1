// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The port for AArch64 with dot products: sdot.
#include "neon/dot_products.h"
#include "neon/tiles.h"
#include "tile/port.h"

namespace intflash::internal {

extern const RowKernels row_kernels_neon;
extern constexpr KernelTable kernels_neon_dotprod =
    make_kernel_table<NeonTiles<DotProducts>>("neon_dotprod", row_kernels_neon);

}  // namespace intflash::internal
