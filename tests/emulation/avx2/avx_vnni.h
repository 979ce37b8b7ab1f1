// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Stands in for src/avx2/avx_vnni.h where there is no AVX-VNNI: the same sums with AVX2.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "tile/portability.h"

namespace intflash::internal {
namespace {

// sum += two products of signed words, per lane.
INTFLASH_INLINE __m256i dot_words(__m256i sum, __m256i a, __m256i b) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}
// sum += four products of unsigned bytes of a with signed bytes of b, per lane: elements 0 and 2 as
// words, then elements 1 and 3. vpmaddubsw would saturate.
INTFLASH_INLINE __m256i dot_bytes(__m256i sum, __m256i a, __m256i b) {
  const __m256i even_a = _mm256_and_si256(a, _mm256_set1_epi16(255));
  const __m256i even_b = _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8);
  const __m256i odd_a = _mm256_srli_epi16(a, 8);
  const __m256i odd_b = _mm256_srai_epi16(b, 8);
  return dot_words(dot_words(sum, even_a, even_b), odd_a, odd_b);
}

// repeats times twelve independent dot_bytes.
INTFLASH_INLINE void repeat_dot_bytes(std::int64_t repeats) {
  __m256i sum = _mm256_setzero_si256();
  for (std::int64_t i = 0; i < 12 * repeats; ++i) {
    sum = dot_bytes(sum, sum, sum);
    __asm__ volatile("" : "+x"(sum));
  }
}

}  // namespace
}  // namespace intflash::internal
