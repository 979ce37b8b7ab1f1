// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The vector operations of the tile kernels in AVX-512, one intrinsic a line.
#pragma once

#include <cstdint>

#include "avx2/code_levels.h"
#include "avx512/instructions.h"
#include "tile/mask_words.h"
#include "tile/portability.h"

namespace intflash::internal {
namespace {

struct Avx512 : LevelsByAvx2 {
  using I32 = __m512i;  // 16 x int32
  using I16 = __m512i;  // 32 x int16
  using F32 = __m512;
  static constexpr std::int32_t kLanes = 16;

  static INTFLASH_INLINE I32 zero() { return _mm512_setzero_si512(); }
  static INTFLASH_INLINE I32 load(const void* p) { return _mm512_load_si512(p); }
  static INTFLASH_INLINE I32 load_any(const void* p) { return _mm512_loadu_si512(p); }
  static INTFLASH_INLINE void store(void* p, I32 a) { _mm512_store_si512(p, a); }
  static INTFLASH_INLINE I32 broadcast32(std::int32_t a) { return _mm512_set1_epi32(a); }
  static INTFLASH_INLINE I16 broadcast16(std::int32_t a) {
    return _mm512_set1_epi16(static_cast<std::int16_t>(a));
  }

  // A vector that stays what and where it is. Constants would be rebuilt from general registers at
  // each use, a shuffle every time; and the sums of a panel converted all at once, where those of
  // its last rows are not done yet.
  static INTFLASH_INLINE I32 held(I32 a) { return opaque(a); }

  static INTFLASH_INLINE I32 add32(I32 a, I32 b) { return _mm512_add_epi32(a, b); }
  static INTFLASH_INLINE I32 shift_right32(I32 a, I32 count) { return _mm512_srav_epi32(a, count); }
  static INTFLASH_INLINE I16 pack16(I32 a, I32 b) { return _mm512_packs_epi32(a, b); }
  static INTFLASH_INLINE I32 pack8(I16 a, I16 b) { return _mm512_packus_epi16(a, b); }

  static INTFLASH_INLINE I16 add(I16 a, I16 b) { return _mm512_add_epi16(a, b); }
  static INTFLASH_INLINE I16 sub(I16 a, I16 b) { return _mm512_sub_epi16(a, b); }
  static INTFLASH_INLINE I16 max(I16 a, I16 b) { return _mm512_max_epi16(a, b); }
  static INTFLASH_INLINE I16 bit_and(I16 a, I16 b) { return _mm512_and_si512(a, b); }
  // keep ? a : b, keep all ones or all zeros.
  static INTFLASH_INLINE I16 select(I16 keep, I16 a, I16 b) {
    return _mm512_ternarylogic_epi32(keep, a, b, 0xca);
  }
  static INTFLASH_INLINE I16 multiply_q15(I16 a, I16 b) { return _mm512_mulhrs_epi16(a, b); }
  static INTFLASH_INLINE I16 multiply_q15_add(I16 sum, I16 a, I16 b) {
    return _mm512_add_epi16(sum, _mm512_mulhrs_epi16(a, b));
  }
  template <unsigned kCount>
  static INTFLASH_INLINE I16 shift_left(I16 a) {
    return _mm512_slli_epi16(a, kCount);
  }
  template <unsigned kCount>
  static INTFLASH_INLINE I16 shift_right(I16 a) {
    return _mm512_srli_epi16(a, kCount);
  }
  // ((a >> count) + 1) >> 1 for a < 2^15 and count >= 2, by lane.
  static INTFLASH_INLINE I16 rounded_shift(I16 a, I16 count) {
    return _mm512_avg_epu16(_mm512_srlv_epi16(a, count), _mm512_setzero_si512());
  }
  static INTFLASH_INLINE I32 multiply_add_pairs(I32 sum, I16 a, I16 b) {
    return _mm512_dpwssd_epi32(sum, a, b);
  }

  static INTFLASH_INLINE MaskWords words_of_64(const std::uint16_t* elements, std::uint16_t least) {
    const I16 lowest = broadcast16(least);
    const I16 magnitude = broadcast16(0x7fff);
    MaskWords words{};
    for (std::int32_t i = 0; i < 64; i += 32) {
      const I16 a = load_any(elements + i);
      words.hidden |= std::uint64_t{_mm512_cmpge_epu16_mask(a, lowest)} << i;
      words.nonzero |= std::uint64_t{_mm512_test_epi16_mask(a, magnitude)} << i;
    }
    return words;
  }
  static INTFLASH_INLINE MaskWords words_of_64(const std::uint32_t* elements, std::uint32_t least) {
    const I32 lowest = broadcast32(static_cast<std::int32_t>(least));
    const I32 magnitude = broadcast32(0x7fffffff);
    MaskWords words{};
    for (std::int32_t i = 0; i < 64; i += 16) {
      const I32 a = load_any(elements + i);
      words.hidden |= std::uint64_t{_mm512_cmpge_epu32_mask(a, lowest)} << i;
      words.nonzero |= std::uint64_t{_mm512_test_epi32_mask(a, magnitude)} << i;
    }
    return words;
  }

  static INTFLASH_INLINE I32 max32(I32 a, I32 b) { return _mm512_max_epi32(a, b); }
  static INTFLASH_INLINE std::int32_t max_lane32(I32 a) { return _mm512_reduce_max_epi32(a); }

  // All ones in lane i where bit i is set.
  static INTFLASH_INLINE I32 keep_lanes(std::uint64_t bits) {
    return _mm512_movm_epi32(static_cast<__mmask16>(bits));
  }
  // All ones where a key is kept, for 32 keys in narrowed order: groups of four of the first 16
  // keys and of the second in turn.
  static INTFLASH_INLINE I16 keep_words(const std::uint64_t* keep, std::int32_t first_key) {
    const std::uint32_t bits = static_cast<std::uint32_t>(keep[first_key / 64] >> (first_key % 64));
    return _mm512_movm_epi16(_pdep_u32(bits, 0x0f0f0f0fu) | _pdep_u32(bits >> 16, 0xf0f0f0f0u));
  }

  static INTFLASH_INLINE std::int32_t max_lane(I16 a) {
    const __m256i half =
        _mm256_max_epi16(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    const __m128i quarter =
        _mm_max_epi16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    // minposuw finds an unsigned minimum: 32767 - a turns the signed maximum into one.
    const __m128i flipped = _mm_sub_epi16(_mm_set1_epi16(32767), quarter);
    return 32767 - static_cast<std::int32_t>(_mm_cvtsi128_si32(_mm_minpos_epu16(flipped)) & 0xffff);
  }
  static INTFLASH_INLINE std::int32_t sum_lanes(I32 a) {
    const __m256i half =
        _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    __m128i quarter =
        _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    quarter = _mm_add_epi32(quarter, _mm_shuffle_epi32(quarter, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(quarter, _mm_shuffle_epi32(quarter, 0xb1)));
  }

  // Reduces a vector for each of 16 rows to one vector with a lane of 32 bits per row: 1.9 shuffles
  // a row, where rows one by one take 4.
  template <class Both>
  static INTFLASH_INLINE I32 reduce_16(const I32* row, Both both) {
    I32 four[4];
    INTFLASH_UNROLL
    for (int i = 0; i < 4; ++i) {
      I32 two[2];
      INTFLASH_UNROLL
      for (int k = 0; k < 2; ++k) {
        const I32 a = load(row + 4 * i + 2 * k);
        const I32 b = load(row + 4 * i + 2 * k + 1);
        two[k] = both(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
      }
      four[i] = both(_mm512_unpacklo_epi64(two[0], two[1]), _mm512_unpackhi_epi64(two[0], two[1]));
    }
    I32 eight[2];
    INTFLASH_UNROLL
    for (int i = 0; i < 2; ++i) {
      eight[i] = both(_mm512_shuffle_i64x2(four[2 * i], four[2 * i + 1], 0x44),
                      _mm512_shuffle_i64x2(four[2 * i], four[2 * i + 1], 0xee));
    }
    return both(_mm512_shuffle_i64x2(eight[0], eight[1], 0x88),
                _mm512_shuffle_i64x2(eight[0], eight[1], 0xdd));
  }
  // A row's maximum in both halves of its lane.
  static INTFLASH_INLINE I16 max_halves_of_16(const I16* row) {
    const I16 pairs = reduce_16(row, [](I16 a, I16 b) { return max(a, b); });
    return max(pairs, _mm512_rol_epi32(pairs, 16));
  }
  static INTFLASH_INLINE void max_lanes_of_16(const I16* row, std::int32_t* largest) {
    store(largest, _mm512_srai_epi32(max_halves_of_16(row), 16));
  }
  static INTFLASH_INLINE I32 sum_of_16(const I32* row) {
    return reduce_16(row, [](I32 a, I32 b) { return add32(a, b); });
  }
  static INTFLASH_INLINE void sum_lanes_of_16(const I32* row, std::int32_t* sum) {
    store(sum, sum_of_16(row));
  }

  // 16 rows of 64 bytes as 16 rows of [16][4 bytes]: a transposition of 16 x 16 int32.
  static INTFLASH_INLINE void transpose_quads(const std::int8_t* from, std::int64_t stride,
                                              std::int8_t* to) {
    I32 a[16];
    I32 b[16];
    INTFLASH_UNROLL
    for (int i = 0; i < 16; ++i) a[i] = load_any(from + i * stride);
    INTFLASH_UNROLL
    for (int i = 0; i < 16; i += 2) {
      b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
      b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    INTFLASH_UNROLL
    for (int i = 0; i < 16; i += 4) {
      a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
      a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
      a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
      a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    // a[4 g + k] now holds, in 128-bit lane l, column 4 l + k of rows 4 g ... 4 g + 3.
    INTFLASH_UNROLL
    for (int k = 0; k < 4; ++k) {
      const I32 low = _mm512_shuffle_i32x4(a[k], a[4 + k], 0x88);
      const I32 high = _mm512_shuffle_i32x4(a[k], a[4 + k], 0xdd);
      const I32 low2 = _mm512_shuffle_i32x4(a[8 + k], a[12 + k], 0x88);
      const I32 high2 = _mm512_shuffle_i32x4(a[8 + k], a[12 + k], 0xdd);
      store(to + k * 64, _mm512_shuffle_i32x4(low, low2, 0x88));
      store(to + (4 + k) * 64, _mm512_shuffle_i32x4(high, high2, 0x88));
      store(to + (8 + k) * 64, _mm512_shuffle_i32x4(low, low2, 0xdd));
      store(to + (12 + k) * 64, _mm512_shuffle_i32x4(high, high2, 0xdd));
    }
  }

  static INTFLASH_INLINE void sum_tokens(const std::int8_t* rows, std::int32_t num_rows,
                                         std::int32_t* sums) {
    I32 sum = zero();
    const I32 ones = _mm512_set1_epi8(1);
    for (std::int32_t r = 0; r < num_rows; ++r)
      sum = _mm512_dpbusd_epi32(sum, ones, load(rows + r * 64));
    store(sums, sum);
  }
  static INTFLASH_INLINE I32 load_table(const std::int8_t* table) {
    return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
  }
  // Of bytes their high four bits, with others above them.
  static INTFLASH_INLINE I32 high_nibbles(I32 both) { return _mm512_srli_epi16(both, 4); }
  static INTFLASH_INLINE I32 look_up_nibbles(I32 table, I32 both, bool high) {
    const I32 bits = high ? high_nibbles(both) : both;
    return _mm512_shuffle_epi8(table, _mm512_and_si512(bits, _mm512_set1_epi8(15)));
  }
  static INTFLASH_INLINE void look_up_nibbles(const std::uint8_t* bytes, const std::int8_t* table,
                                              std::int8_t* low, std::int8_t* high) {
    const I32 looked_up = load_table(table);
    const I32 both = load_any(bytes);
    store(low, look_up_nibbles(looked_up, both, false));
    store(high, look_up_nibbles(looked_up, both, true));
  }
  // Of bytes their low four bits times steps; even and odd: those of bytes 2 i and 2 i + 1, as 16
  // bits.
  static INTFLASH_INLINE I32 scaled_nibbles(I32 bytes, I32 even, I32 odd) {
    const I32 of_even = _mm512_mullo_epi16(_mm512_and_si512(bytes, _mm512_set1_epi16(15)), even);
    const I32 of_odd = _mm512_mullo_epi16(_mm512_and_si512(bytes, _mm512_set1_epi16(15 << 8)), odd);
    return _mm512_or_si512(of_even, of_odd);
  }
  static INTFLASH_INLINE I32 offset_codes(I32 bytes, I32 offset) {
    return _mm512_xor_si512(_mm512_add_epi8(bytes, offset), _mm512_set1_epi8(-128));
  }
  static INTFLASH_INLINE void expand_key_quads(const std::uint8_t* bytes, std::uint32_t steps,
                                               std::uint32_t offsets, std::int8_t* low,
                                               std::int8_t* high) {
    const I32 step = _mm512_set1_epi32(static_cast<std::int32_t>(steps));
    const I32 even = _mm512_and_si512(step, _mm512_set1_epi16(255));
    const I32 odd = _mm512_srli_epi16(step, 8);
    const I32 offset = _mm512_set1_epi32(static_cast<std::int32_t>(offsets));
    const I32 both = load_any(bytes);
    store(low, offset_codes(scaled_nibbles(both, even, odd), offset));
    store(high, offset_codes(scaled_nibbles(high_nibbles(both), even, odd), offset));
  }
  static INTFLASH_INLINE void interleave_tokens(const std::int8_t* tokens, std::int64_t stride,
                                                std::int8_t* rows, std::int64_t row_stride) {
    const I32 a = load_any(tokens);
    const I32 b = load_any(tokens + stride);
    const I32 c = load_any(tokens + 2 * stride);
    const I32 d = load_any(tokens + 3 * stride);
    const I32 low_ab = _mm512_unpacklo_epi8(a, b);
    const I32 low_cd = _mm512_unpacklo_epi8(c, d);
    const I32 high_ab = _mm512_unpackhi_epi8(a, b);
    const I32 high_cd = _mm512_unpackhi_epi8(c, d);
    // In lane l four channels of row l each: 0 ... 3, 4 ... 7, and so on.
    const I32 four[4] = {
        _mm512_unpacklo_epi16(low_ab, low_cd), _mm512_unpackhi_epi16(low_ab, low_cd),
        _mm512_unpacklo_epi16(high_ab, high_cd), _mm512_unpackhi_epi16(high_ab, high_cd)};
    const I32 front = _mm512_shuffle_i32x4(four[0], four[1], 0x44);
    const I32 front2 = _mm512_shuffle_i32x4(four[2], four[3], 0x44);
    const I32 back = _mm512_shuffle_i32x4(four[0], four[1], 0xee);
    const I32 back2 = _mm512_shuffle_i32x4(four[2], four[3], 0xee);
    store(rows, _mm512_shuffle_i32x4(front, front2, 0x88));
    store(rows + row_stride, _mm512_shuffle_i32x4(front, front2, 0xdd));
    store(rows + 2 * row_stride, _mm512_shuffle_i32x4(back, back2, 0x88));
    store(rows + 3 * row_stride, _mm512_shuffle_i32x4(back, back2, 0xdd));
  }

  static INTFLASH_INLINE F32 load_halves(const std::uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static INTFLASH_INLINE F32 load_bf16(const std::uint16_t* p) {
    const __m256i sixteen = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(sixteen), 16));
  }
  static INTFLASH_INLINE F32 load_codes(const std::uint8_t* p) {
    const __m128i sixteen = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(sixteen));
  }
  // Codes from i on of the 32 that pairs hold, as scale_nibbles takes them.
  static INTFLASH_INLINE F32 load_nibbles(const std::uint8_t* pairs, std::int64_t i) {
    const __m128i sixteen = _mm_loadu_si128(reinterpret_cast<const __m128i*>(pairs));
    const I32 both = _mm512_cvtepu8_epi32(sixteen);
    const I32 codes = i < 16 ? _mm512_and_si512(both, broadcast32(15)) : _mm512_srli_epi32(both, 4);
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(codes, broadcast32(8)));
  }
  static INTFLASH_INLINE F32 broadcast_half(std::uint16_t half) {
    return _mm512_cvtph_ps(_mm256_set1_epi16(static_cast<std::int16_t>(half)));
  }

  static INTFLASH_INLINE void widen_halves(const std::uint16_t* halves, std::int64_t count,
                                           float* elements) {
    for (std::int64_t i = 0; i < count; i += 16) {
      const __mmask16 some = count - i < 16 ? 0xff : 0xffff;
      const __m256i sixteen = _mm256_maskz_loadu_epi16(some, halves + i);
      _mm512_mask_storeu_ps(elements + i, some, _mm512_cvtph_ps(sixteen));
    }
  }
  static INTFLASH_INLINE void scale_codes(const std::uint8_t* codes, std::uint16_t half,
                                          float* elements) {
    const F32 scale = broadcast_half(half);
    for (std::int32_t i = 0; i < 32; i += 16)
      _mm512_storeu_ps(elements + i, _mm512_mul_ps(load_codes(codes + i), scale));
  }
  static INTFLASH_INLINE void scale_nibbles(const std::uint8_t* pairs, std::uint16_t half,
                                            float* elements) {
    const F32 scale = broadcast_half(half);
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < 32; i += 16)
      _mm512_storeu_ps(elements + i, _mm512_mul_ps(load_nibbles(pairs, i), scale));
  }
  static INTFLASH_INLINE void quantize_64(const float* row, float inverse, std::int8_t* codes) {
    I32 part[4];
    INTFLASH_UNROLL
    for (int i = 0; i < 4; ++i) {
      const F32 channels = _mm512_loadu_ps(row + 16 * i);
      part[i] = _mm512_cvtps_epi32(_mm512_mul_ps(channels, broadcast_f32(inverse)));
    }
    // Packing goes lane by lane: four codes of each part to a lane.
    const I32 packed = _mm512_packs_epi16(pack16(part[0], part[1]), pack16(part[2], part[3]));
    const I32 order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(codes, _mm512_permutexvar_epi32(order, packed));
  }

  static INTFLASH_INLINE F32 load_f32(const float* p) { return _mm512_load_ps(p); }
  static INTFLASH_INLINE void store_f32(float* p, F32 a) { _mm512_store_ps(p, a); }
  static INTFLASH_INLINE F32 broadcast_f32(float a) { return _mm512_set1_ps(a); }
  static INTFLASH_INLINE F32 load_any_f32(const float* p) { return _mm512_loadu_ps(p); }
  static INTFLASH_INLINE void store_any_f32(float* p, F32 a) { _mm512_storeu_ps(p, a); }
  static INTFLASH_INLINE F32 add_f32(F32 a, F32 b) { return _mm512_add_ps(a, b); }
  static INTFLASH_INLINE F32 sub_f32(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
  static INTFLASH_INLINE F32 mul_f32(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
  static INTFLASH_INLINE F32 add_signed(F32 sum, F32 a, F32 signs) { return fma(a, signs, sum); }
  static INTFLASH_INLINE F32 flip_signs(F32 a, const std::uint32_t* bits) {
    return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a), load_any(bits)));
  }
  static INTFLASH_INLINE I32 magnitude_bits(F32 a) {
    return _mm512_and_si512(_mm512_castps_si512(a), broadcast32(0x7fffffff));
  }
  template <std::int32_t kDistance>
  static INTFLASH_INLINE F32 swapped(F32 a) {
    if constexpr (kDistance >= 4) return _mm512_shuffle_f32x4(a, a, kDistance == 4 ? 0xb1 : 0x4e);
    return _mm512_permute_ps(a, kDistance == 1 ? 0xb1 : 0x4e);
  }
  static INTFLASH_INLINE F32 to_f32(I32 a) { return _mm512_cvtepi32_ps(a); }
  static INTFLASH_INLINE F32 fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
};

}  // namespace
}  // namespace intflash::internal
