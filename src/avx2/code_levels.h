// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The search of levels for values in four bits, in AVX2: of AVX-512's row kernels too.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "tile/portability.h"
#include "tile/value_levels.h"

namespace intflash::internal {
namespace {

struct LevelsByAvx2 {
  // 32 codes at a time; see RowLoops.
  static INTFLASH_INLINE LevelFit code_levels(const std::int8_t* codes, std::int64_t padded,
                                              const LevelBounds& bounds, std::uint8_t* levels) {
    const auto table = [](const void* bytes) {
      return _mm256_broadcastsi128_si256(_mm_load_si128(static_cast<const __m128i*>(bytes)));
    };
    const __m256i below = table(bounds.below);
    const __m256i first = table(bounds.first);
    const __m256i second = table(bounds.second);
    const __m256i level_of = table(kLevels.level);
    const __m256i four_bits = _mm256_set1_epi8(15);
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i products = _mm256_setzero_si256();
    __m256i squares = _mm256_setzero_si256();
    for (std::int64_t c = 0; c < padded; c += 32) {
      const __m256i code = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + c));
      const __m256i low = _mm256_and_si256(code, four_bits);
      const __m256i high = _mm256_and_si256(
          _mm256_srli_epi16(_mm256_xor_si256(code, _mm256_set1_epi8(-128)), 4), four_bits);
      // A comparison gives -1.
      __m256i index = _mm256_shuffle_epi8(below, high);
      index = _mm256_sub_epi8(index, _mm256_cmpgt_epi8(low, _mm256_shuffle_epi8(first, high)));
      index = _mm256_sub_epi8(index, _mm256_cmpgt_epi8(low, _mm256_shuffle_epi8(second, high)));
      index = _mm256_xor_si256(index, _mm256_set1_epi8(kZeroLevel));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(levels + c), index);
      // |code|, |level| <= 127: two products do not reach 2^15.
      const __m256i level = _mm256_shuffle_epi8(level_of, index);
      const __m256i magnitude = _mm256_abs_epi8(level);
      const __m256i product = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(code, level));
      const __m256i square = _mm256_maddubs_epi16(magnitude, magnitude);
      products = _mm256_add_epi32(products, _mm256_madd_epi16(product, ones));
      squares = _mm256_add_epi32(squares, _mm256_madd_epi16(square, ones));
    }
    return {sum(products), sum(squares)};
  }

 private:
  static INTFLASH_INLINE std::int32_t sum(__m256i lanes) {
    __m128i sums = _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
    sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0xb1)));
  }
};

}  // namespace
}  // namespace intflash::internal
