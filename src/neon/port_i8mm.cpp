// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The port for AArch64 with INT8 matrix products: smmla and usmmla.
#include "neon/matrix_products.h"
#include "neon/tiles.h"
#include "tile/port.h"

namespace intflash::internal {

extern const RowKernels row_kernels_neon;
extern constexpr KernelTable kernels_neon_i8mm =
    make_kernel_table<NeonTiles<MatrixProducts>>("neon_i8mm", row_kernels_neon);

}  // namespace intflash::internal
