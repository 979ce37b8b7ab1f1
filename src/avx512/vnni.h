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
  static INTFLASH_INLINE I32 dot_u8_s8(I32 sum, I32 a, I32 b) { return dot_64_bytes(sum, a, b); }
  static INTFLASH_INLINE I32 minus_128_times(I32 a) {
    return _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(a, 7));
  }

  static double integer_peak(std::int64_t repeats) {
    repeat_dot_64_bytes(repeats);
    return 2.0 * 64 * 12 * static_cast<double>(repeats);
  }
};

using Avx512Vnni = VnniTiles<Avx512VnniBase>;

}  // namespace
}  // namespace intflash::internal
