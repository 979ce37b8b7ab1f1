// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The instructions of AVX-512: the compiler's intrinsics, and what they cannot say.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "tile/portability.h"

namespace intflash::internal {
namespace {

// sum += four products of unsigned bytes of a with signed bytes of b, per lane. As an instruction
// and not an intrinsic: g++ 12 moves the sums of an intrinsic from register to register.
INTFLASH_INLINE __m512i dot_64_bytes(__m512i sum, __m512i a, __m512i b) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}

// repeats times twelve independent dot_64_bytes: a latency of 5 at 2 per cycle needs ten.
INTFLASH_INLINE void repeat_dot_64_bytes(std::int64_t repeats) {
  __asm__ volatile(
      "1:\n"
      ".irp sum, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11\n"
      "vpdpbusd %%zmm31, %%zmm31, %%zmm\\sum\n"
      ".endr\n"
      "dec %0\n"
      "jnz 1b\n"
      : "+r"(repeats)
      :
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
        "xmm10", "xmm11", "xmm31");
}

// The same value, in a register and unknown to the compiler.
INTFLASH_INLINE __m512i opaque(__m512i a) {
  __asm__("" : "+v"(a));
  return a;
}
INTFLASH_INLINE __mmask64 opaque(__mmask64 a) {
  __asm__("" : "+k"(a));
  return a;
}

}  // namespace
}  // namespace intflash::internal
