// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The port for any AArch64 CPU: smull and smlal.
#include "tile/port.h"
#include "neon/long_products.h"
#include "neon/tiles.h"
#include "tile/row_kernels.h"

namespace intflash::internal {

extern constexpr RowKernels row_kernels_neon = make_row_kernels<Neon>(add_f16_values<Neon>);
extern constexpr KernelTable kernels_neon =
    make_kernel_table<NeonTiles<LongProducts>>("neon", row_kernels_neon);

}  // namespace intflash::internal
