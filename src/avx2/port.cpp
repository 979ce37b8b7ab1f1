// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The port for AVX2 without VNNI.
#include "tile/port.h"
#include "avx2/wide_tiles.h"
#include "tile/row_kernels.h"

namespace intflash::internal {

extern constexpr RowKernels row_kernels_avx2 = make_row_kernels<Avx2>(add_f16_values<Avx2>);
extern constexpr KernelTable kernels_avx2 = make_kernel_table<WideTiles>("avx2", row_kernels_avx2);

}  // namespace intflash::internal
