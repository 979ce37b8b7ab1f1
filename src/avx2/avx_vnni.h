// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What AVX-VNNI adds to AVX2: dot products in one instruction, VEX-encoded.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "tile/portability.h"

namespace intflash::internal {
namespace {

// sum += four products of unsigned bytes of a with signed bytes of b, per lane. As an instruction
// and not an intrinsic: g++ 12 moves the sums of an intrinsic from register to register.
INTFLASH_INLINE __m256i dot_bytes(__m256i sum, __m256i a, __m256i b) {
  __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
  return sum;
}
// sum += two products of signed words, per lane.
INTFLASH_INLINE __m256i dot_words(__m256i sum, __m256i a, __m256i b) {
  return _mm256_dpwssd_avx_epi32(sum, a, b);
}

// repeats times twelve independent dot_bytes.
INTFLASH_INLINE void repeat_dot_bytes(std::int64_t repeats) {
  __asm__ volatile(
      "1:\n"
      ".irp sum, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11\n"
      "%{vex%} vpdpbusd %%ymm15, %%ymm15, %%ymm\\sum\n"
      ".endr\n"
      "dec %0\n"
      "jnz 1b\n"
      : "+r"(repeats)
      :
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
        "xmm10", "xmm11", "xmm15");
}

}  // namespace
}  // namespace intflash::internal
