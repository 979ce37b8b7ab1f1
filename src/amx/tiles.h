// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The operations on AMX tile registers, one instruction each. As instructions and not intrinsics:
// those of g++ 12 do not say that a load reads memory, nor that ldtilecfg reads more than 8 bytes.
#pragma once

#include <cstdint>

#include "amx/tile_config.h"
#include "tile/portability.h"

namespace intflash::internal {
namespace {
namespace tiles {

// Sets all shapes, and all tiles to zero.
INTFLASH_INLINE void configure(const TileConfig& config) {
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
}
// A thread that holds no tiles costs the kernel nothing at a context switch.
INTFLASH_INLINE void release() { __asm__ volatile("tilerelease"); }

template <std::int32_t kTile>
INTFLASH_INLINE void zero() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
}

// Rows are stride bytes apart.
template <std::int32_t kTile>
INTFLASH_INLINE void load(const void* rows, std::int64_t stride) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2"
                   :
                   : "r"(rows), "r"(stride), "i"(kTile)
                   : "memory");
}
// The same for what is used once: it leaves L1 to what is written there.
template <std::int32_t kTile>
INTFLASH_INLINE void load_stream(const void* rows, std::int64_t stride) {
  __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm%c2"
                   :
                   : "r"(rows), "r"(stride), "i"(kTile)
                   : "memory");
}
template <std::int32_t kTile>
INTFLASH_INLINE void store(void* rows, std::int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)"
                   :
                   : "r"(rows), "r"(stride), "i"(kTile)
                   : "memory");
}

// sum[i][j] += the products of the quads a[i][k] and b[k][j], for all k.
template <std::int32_t kSum, std::int32_t kA, std::int32_t kB>
INTFLASH_INLINE void dot_s8_s8() {
  __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
}
template <std::int32_t kSum, std::int32_t kA, std::int32_t kB>
INTFLASH_INLINE void dot_u8_s8() {
  __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
}

// repeats times four independent products of full tiles.
INTFLASH_INLINE void repeat_dot(const TileConfig& config, std::int64_t repeats) {
  __asm__ volatile(
      "ldtilecfg %1\n"
      "1:\n"
      ".irp sum, 0, 1, 2, 3\n"
      "tdpbssd %%tmm7, %%tmm6, %%tmm\\sum\n"
      ".endr\n"
      "dec %0\n"
      "jnz 1b\n"
      "tilerelease\n"
      : "+r"(repeats)
      : "m"(config)
      : "cc");
}

}  // namespace tiles
}  // namespace
}  // namespace intflash::internal
