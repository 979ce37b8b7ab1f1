// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Tiles by vpdpbusd on 64 bytes.
#pragma once

#include "avx512/simd.h"
#include "tile/vnni_tiles.h"

namespace intflash::internal {
namespace {

struct Avx512VnniBase : Avx512 {
  // 6 rows x 4 vectors of sums, 4 vectors of keys or values, 1 of the query or P: 29 of 32
  // registers.
  static constexpr std::int32_t kPanelVectors = 4;

  static INTFLASH_INLINE I32 broadcast_load32(const void* p) {
    return _mm512_set1_epi32(load_as<std::int32_t>(p));
  }
  // As an instruction and not an intrinsic: g++ 12 moves the sums of an intrinsic from register to
  // register.
  static INTFLASH_INLINE I32 dot_u8_s8(I32 sum, I32 a, I32 b) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
  }
  static INTFLASH_INLINE I32 minus_128_times(I32 a) {
    return _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(a, 7));
  }

  static double integer_peak(std::int64_t repeats) {
    std::int64_t left = repeats;
    // Twelve independent sums: a latency of 5 at 2 per cycle needs ten.
    __asm__ volatile(
        "1:\n"
        ".irp sum, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11\n"
        "vpdpbusd %%zmm31, %%zmm31, %%zmm\\sum\n"
        ".endr\n"
        "dec %0\n"
        "jnz 1b\n"
        : "+r"(left)
        :
        : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
          "xmm10", "xmm11", "xmm31");
    return 2.0 * 64 * 12 * static_cast<double>(repeats);
  }
};

using Avx512Vnni = VnniTiles<Avx512VnniBase>;

}  // namespace
}  // namespace intflash::internal
