// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The port for AVX2 with AVX-VNNI: vpdpbusd on 32 bytes.
#include "avx2/avx_vnni.h"
#include "avx2/simd.h"
#include "tile/port.h"
#include "tile/vnni_tiles.h"

namespace intflash::internal {
namespace {

struct AvxVnniBase : Avx2 {
  // 6 rows x 2 vectors of sums, 2 vectors of keys or values, 1 of the query or P: 15 of 16
  // registers.
  static constexpr std::int32_t kPanelVectors = 2;

  static INTFLASH_INLINE I32 dot_u8_s8(I32 sum, I32 a, I32 b) { return dot_bytes(sum, a, b); }
  static INTFLASH_INLINE I32 multiply_add_pairs(I32 sum, I16 a, I16 b) {
    return dot_words(sum, a, b);
  }
  static double integer_peak(std::int64_t repeats) {
    repeat_dot_bytes(repeats);
    return 2.0 * 32 * 12 * static_cast<double>(repeats);
  }
};

using AvxVnni = VnniTiles<AvxVnniBase>;

}  // namespace

extern const RowKernels row_kernels_avx2;
extern constexpr KernelTable kernels_avx_vnni =
    make_kernel_table<AvxVnni>("avx_vnni", row_kernels_avx2);

}  // namespace intflash::internal
