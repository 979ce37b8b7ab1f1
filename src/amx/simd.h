// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The vector operations beside AMX: AVX-512 with VBMI, one intrinsic a line. While tiles are being
// multiplied, 512-bit multiplies and shifts run on one port only; vpmultishiftqb runs on the other,
// and does shifting and narrowing in one.
#pragma once

#include <cstdint>

#include "avx512/instructions.h"
#include "avx512/simd.h"
#include "tile/online_softmax.h"

namespace intflash::internal {
namespace {

struct Amx : Avx512 {
  static constexpr std::int32_t kTileRows = kMaxTileRows;

  using Control = __m512i;  // per byte of a result, the bit of its 64-bit word where it starts

  static INTFLASH_INLINE Control repeat32(std::uint32_t a) {
    return _mm512_set1_epi32(static_cast<std::int32_t>(a));
  }
  // By lane; 0 where count is above 15.
  using Avx512::shift_right;
  static INTFLASH_INLINE I16 shift_right(I16 a, I16 count) { return _mm512_srlv_epi16(a, count); }
  static INTFLASH_INLINE I16 average(I16 a, I16 b) { return _mm512_avg_epu16(a, b); }
  // Of 64 numbers those at the last six bits of each index.
  static INTFLASH_INLINE I16 look_up(I16 low, I16 high, I16 index) {
    return _mm512_permutex2var_epi16(low, index, high);
  }
  // Bits of a for bytes 0 ... 3 of each 64-bit word, bits of b for bytes 4 ... 7.
  using HighBytes = __mmask64;
  static INTFLASH_INLINE HighBytes high_bytes() { return opaque(HighBytes{0xf0f0f0f0f0f0f0f0u}); }
  static INTFLASH_INLINE I32 narrow(Control start, I32 a, I32 b, HighBytes high = high_bytes()) {
    return _mm512_mask_multishift_epi64_epi8(_mm512_multishift_epi64_epi8(start, a), high, start,
                                             b);
  }
  // For values that fit.
  static INTFLASH_INLINE I16 pack16(I32 a, I32 b) { return narrow(repeat32(0x28200800), a, b); }
  static INTFLASH_INLINE I32 pack8(I16 a, I16 b) { return narrow(repeat32(0x30201000), a, b); }

  static INTFLASH_INLINE I32 sub32(I32 a, I32 b) { return _mm512_sub_epi32(a, b); }
  static INTFLASH_INLINE I32 min32(I32 a, I32 b) { return _mm512_min_epi32(a, b); }
  static INTFLASH_INLINE I32 bit_or(I32 a, I32 b) { return _mm512_or_si512(a, b); }
  static INTFLASH_INLINE I32 shift_left32(I32 a, I32 count) { return _mm512_sllv_epi32(a, count); }
  template <unsigned kCount>
  static INTFLASH_INLINE I32 shift_left32(I32 a) {
    return _mm512_slli_epi32(a, kCount);
  }
  static INTFLASH_INLINE I32 high_half32(I32 a) { return _mm512_srai_epi32(a, 16); }

  static INTFLASH_INLINE F32 multiply_f32(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
  static INTFLASH_INLINE F32 sub_f32(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
  // b where a is no number.
  static INTFLASH_INLINE F32 max_f32(F32 a, F32 b) { return _mm512_max_ps(a, b); }
  static INTFLASH_INLINE F32 floor_f32(F32 a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  }
  static INTFLASH_INLINE I32 to_int(F32 a) { return _mm512_cvtps_epi32(a); }
  // A bit per lane.
  static INTFLASH_INLINE __mmask16 less(F32 a, F32 b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
  }
  static INTFLASH_INLINE bool all_at_most(F32 a, F32 b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ) == 0xffff;
  }
  static INTFLASH_INLINE I32 sub32_where(__mmask16 lanes, I32 a, I32 b) {
    return _mm512_mask_sub_epi32(a, lanes, a, b);
  }
  // For exponents of power_of_two.
  static INTFLASH_INLINE F32 power_of_two(I32 exponent) {
    return _mm512_castsi512_ps(shift_left32<23>(add32(exponent, broadcast32(127))));
  }

  // All ones where a key is kept, for 32 keys in narrowed order.
  static INTFLASH_INLINE I16 keep_words(const std::uint64_t* keep, std::int32_t first_key) {
    const std::uint32_t bits = static_cast<std::uint32_t>(keep[first_key / 64] >> (first_key % 64));
    return _mm512_movm_epi16(_pdep_u32(bits, 0x33333333u) | _pdep_u32(bits >> 16, 0xccccccccu));
  }

  static INTFLASH_INLINE I32 permute_bytes(I32 a, I32 index) {
    return _mm512_permutexvar_epi8(index, a);
  }
  static INTFLASH_INLINE I16 permute_words(I16 a, I16 index) {
    return _mm512_permutexvar_epi16(index, a);
  }
};

// vpmultishiftqb narrows within 64-bit words: two vectors of 16 keys become two keys of the first,
// two of the second, and so on.
template <>
struct NarrowedOrder<Amx> {
  INTFLASH_INLINE constexpr std::int32_t operator()(std::int32_t key) const {
    return key / 32 * 32 + key % 16 / 2 * 4 + key % 32 / 16 * 2 + key % 2;
  }
  static INTFLASH_INLINE void expand(const std::uint64_t* keep, std::int32_t* kept) {
    NarrowedOrder<Avx512>::expand(keep, kept);
  }
  static INTFLASH_INLINE void narrow(const std::int32_t* from, std::int16_t* to) {
    for (std::int32_t i = 0; i < kScoreBlock; i += 32)
      Amx::store(to + i, Amx::pack16(Amx::load(from + i), Amx::load(from + i + 16)));
  }
};

}  // namespace
}  // namespace intflash::internal
