// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The port for AVX-512 with VNNI: vpdpbusd on 64 bytes.
#include "tile/port.h"
#include "avx512/vnni.h"
#include "tile/row_kernels.h"

namespace intflash::internal {

extern constexpr RowKernels row_kernels_avx512_vnni =
    make_row_kernels<Avx512>(add_f16_values<Avx512>);
extern constexpr KernelTable kernels_avx512_vnni =
    make_kernel_table<Avx512Vnni>("avx512_vnni", row_kernels_avx512_vnni);

}  // namespace intflash::internal
