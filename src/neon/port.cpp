// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The port for any AArch64 CPU: smull and smlal.
#include "tile/port.h"
#include "neon/long_products.h"
#include "neon/tiles.h"

namespace intflash::internal {

extern constexpr KernelTable kernels_neon = make_kernel_table<NeonTiles<LongProducts>>("neon");

}  // namespace intflash::internal
