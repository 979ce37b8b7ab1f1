// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The vector operations of the tile kernels in AVX2 with FMA, one intrinsic a line where there is
// one.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "avx2/code_levels.h"
#include "tile/portability.h"

namespace intflash::internal {
namespace {

struct Avx2 : LevelsByAvx2 {
  using I32 = __m256i;  // 8 x int32
  using I16 = __m256i;  // 16 x int16
  using F32 = __m256;
  static constexpr std::int32_t kLanes = 8;

  static INTFLASH_INLINE I32 zero() { return _mm256_setzero_si256(); }
  static INTFLASH_INLINE I32 load(const void* p) {
    return _mm256_load_si256(static_cast<const __m256i*>(p));
  }
  static INTFLASH_INLINE I32 load_any(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  static INTFLASH_INLINE void store(void* p, I32 a) {
    _mm256_store_si256(static_cast<__m256i*>(p), a);
  }
  static INTFLASH_INLINE I32 broadcast32(std::int32_t a) { return _mm256_set1_epi32(a); }
  static INTFLASH_INLINE I16 broadcast16(std::int32_t a) {
    return _mm256_set1_epi16(static_cast<std::int16_t>(a));
  }
  static INTFLASH_INLINE I32 broadcast_load32(const void* p) {
    return _mm256_set1_epi32(load_as<std::int32_t>(p));
  }

  // A vector that stays where it is.
  static INTFLASH_INLINE I32 held(I32 a) {
    __asm__("" : "+x"(a));
    return a;
  }

  static INTFLASH_INLINE I32 add32(I32 a, I32 b) { return _mm256_add_epi32(a, b); }
  static INTFLASH_INLINE I32 minus_128_times(I32 a) {
    return _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32(a, 7));
  }
  // The count is the same in all lanes.
  static INTFLASH_INLINE I32 shift_right32(I32 a, I32 count) {
    return _mm256_sra_epi32(a, _mm_cvtepu32_epi64(_mm256_castsi256_si128(count)));
  }
  static INTFLASH_INLINE I16 pack16(I32 a, I32 b) { return _mm256_packs_epi32(a, b); }
  static INTFLASH_INLINE I32 pack8(I16 a, I16 b) { return _mm256_packus_epi16(a, b); }

  static INTFLASH_INLINE I16 add(I16 a, I16 b) { return _mm256_add_epi16(a, b); }
  static INTFLASH_INLINE I16 sub(I16 a, I16 b) { return _mm256_sub_epi16(a, b); }
  static INTFLASH_INLINE I16 max(I16 a, I16 b) { return _mm256_max_epi16(a, b); }
  static INTFLASH_INLINE I16 bit_and(I16 a, I16 b) { return _mm256_and_si256(a, b); }
  // keep ? a : b, keep all ones or all zeros.
  static INTFLASH_INLINE I16 select(I16 keep, I16 a, I16 b) {
    return _mm256_blendv_epi8(b, a, keep);
  }
  static INTFLASH_INLINE I16 multiply_q15(I16 a, I16 b) { return _mm256_mulhrs_epi16(a, b); }
  static INTFLASH_INLINE I16 multiply_q15_add(I16 sum, I16 a, I16 b) {
    return _mm256_add_epi16(sum, _mm256_mulhrs_epi16(a, b));
  }
  template <int kCount>
  static INTFLASH_INLINE I16 shift_left(I16 a) {
    return _mm256_slli_epi16(a, kCount);
  }
  template <int kCount>
  static INTFLASH_INLINE I16 shift_right(I16 a) {
    return _mm256_srli_epi16(a, kCount);
  }
  // ((a >> count) + 1) >> 1 for a < 2^15 and count >= 2, by lane. There is no shift of 16-bit lanes
  // by lane; a rounded Q15 product with 2^(14 - count) is one, and two byte tables hold the halves
  // of that power of two.
  static INTFLASH_INLINE I16 rounded_shift(I16 a, I16 count) {
    const I16 low = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, -128, 64, 32, 16, 8, 4, 2, 1, 0));
    const I16 high =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 16, 8, 4, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0));
    const I16 index = _mm256_min_epu16(count, _mm256_set1_epi16(15));
    // An odd byte's index is 0 in the first lookup, and an even byte's is 0 in the second: both
    // tables hold 0 there.
    const I16 power = _mm256_or_si256(_mm256_shuffle_epi8(low, index),
                                      _mm256_shuffle_epi8(high, _mm256_slli_epi16(index, 8)));
    return _mm256_mulhrs_epi16(a, power);
  }
  static INTFLASH_INLINE I32 multiply_add_pairs(I32 sum, I16 a, I16 b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
  }

  static INTFLASH_INLINE I32 max32(I32 a, I32 b) { return _mm256_max_epi32(a, b); }
  static INTFLASH_INLINE std::int32_t max_lane32(I32 a) {
    __m128i half = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
  }

  // All ones in lane i where bit i is set.
  static INTFLASH_INLINE I32 keep_lanes(std::uint64_t bits) {
    const I32 bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(broadcast32(static_cast<std::int32_t>(bits)), bit),
                              bit);
  }
  // All ones where a key is kept, for 16 keys in narrowed order: groups of four of the first 8 keys
  // and of the second in turn.
  static INTFLASH_INLINE I16 keep_words(const std::uint64_t* keep, std::int32_t first_key) {
    const std::uint32_t bits = static_cast<std::uint32_t>(keep[first_key / 64] >> (first_key % 64));
    const std::uint32_t lanes = _pdep_u32(bits, 0x0f0fu) | _pdep_u32(bits >> 8, 0xf0f0u);
    const I16 bit = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192,
                                      16384, -32768);
    return _mm256_cmpeq_epi16(_mm256_and_si256(broadcast16(static_cast<std::int32_t>(lanes)), bit),
                              bit);
  }

  static INTFLASH_INLINE std::int32_t max_lane(I16 a) {
    const __m128i half = _mm_max_epi16(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    // minposuw finds an unsigned minimum: 32767 - a turns the signed maximum into one.
    const __m128i flipped = _mm_sub_epi16(_mm_set1_epi16(32767), half);
    return 32767 - (_mm_cvtsi128_si32(_mm_minpos_epu16(flipped)) & 0xffff);
  }
  static INTFLASH_INLINE std::int32_t sum_lanes(I32 a) {
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
  }

  // 16 rows of 64 bytes as 16 rows of [16][4 bytes]: four transpositions of 8 x 8 int32.
  static INTFLASH_INLINE void transpose_quads(const std::int8_t* from, std::int64_t stride,
                                              std::int8_t* to) {
    for (int token = 0; token < 16; token += 8) {
      for (int quad = 0; quad < 16; quad += 8) {
        transpose_8x8(from + token * stride + quad * 4, stride, to + quad * 64 + token * 4);
      }
    }
  }
  static INTFLASH_INLINE void transpose_8x8(const std::int8_t* from, std::int64_t stride,
                                            std::int8_t* to) {
    I32 a[8];
    I32 b[8];
    INTFLASH_UNROLL
    for (int i = 0; i < 8; ++i) a[i] = load_any(from + i * stride);
    INTFLASH_UNROLL
    for (int i = 0; i < 8; i += 2) {
      b[i] = _mm256_unpacklo_epi32(a[i], a[i + 1]);
      b[i + 1] = _mm256_unpackhi_epi32(a[i], a[i + 1]);
    }
    INTFLASH_UNROLL
    for (int i = 0; i < 8; i += 4) {
      a[i] = _mm256_unpacklo_epi64(b[i], b[i + 2]);
      a[i + 1] = _mm256_unpackhi_epi64(b[i], b[i + 2]);
      a[i + 2] = _mm256_unpacklo_epi64(b[i + 1], b[i + 3]);
      a[i + 3] = _mm256_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    INTFLASH_UNROLL
    for (int k = 0; k < 4; ++k) {
      store(to + k * 64, _mm256_permute2x128_si256(a[k], a[4 + k], 0x20));
      store(to + (4 + k) * 64, _mm256_permute2x128_si256(a[k], a[4 + k], 0x31));
    }
  }

  static INTFLASH_INLINE void sum_tokens(const std::int8_t* rows, std::int32_t num_rows,
                                         std::int32_t* sums) {
    for (std::int32_t token = 0; token < 16; token += 8) {
      I32 sum = zero();
      for (std::int32_t r = 0; r < num_rows; ++r) {
        const I16 pairs =
            _mm256_maddubs_epi16(_mm256_set1_epi8(1), load(rows + r * 64 + token * 4));
        sum = multiply_add_pairs(sum, pairs, broadcast16(1));
      }
      store(sums + token, sum);
    }
  }
  static INTFLASH_INLINE I32 load_table(const std::int8_t* table) {
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
  }
  // Of bytes their high four bits, with others above them.
  static INTFLASH_INLINE I32 high_nibbles(I32 both) { return _mm256_srli_epi16(both, 4); }
  static INTFLASH_INLINE I32 look_up_nibbles(I32 table, I32 both, bool high) {
    const I32 bits = high ? high_nibbles(both) : both;
    return _mm256_shuffle_epi8(table, _mm256_and_si256(bits, _mm256_set1_epi8(15)));
  }
  static INTFLASH_INLINE void look_up_nibbles(const std::uint8_t* bytes, const std::int8_t* table,
                                              std::int8_t* low, std::int8_t* high) {
    const I32 looked_up = load_table(table);
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < 64; i += 32) {
      const I32 both = load_any(bytes + i);
      store(low + i, look_up_nibbles(looked_up, both, false));
      store(high + i, look_up_nibbles(looked_up, both, true));
    }
  }
  // Of bytes their low four bits times steps; even and odd: those of bytes 2 i and 2 i + 1, as 16
  // bits.
  static INTFLASH_INLINE I32 scaled_nibbles(I32 bytes, I32 even, I32 odd) {
    const I32 of_even = _mm256_mullo_epi16(_mm256_and_si256(bytes, _mm256_set1_epi16(15)), even);
    const I32 of_odd = _mm256_mullo_epi16(_mm256_and_si256(bytes, _mm256_set1_epi16(15 << 8)), odd);
    return _mm256_or_si256(of_even, of_odd);
  }
  static INTFLASH_INLINE I32 offset_codes(I32 bytes, I32 offset) {
    return _mm256_xor_si256(_mm256_add_epi8(bytes, offset), _mm256_set1_epi8(-128));
  }
  static INTFLASH_INLINE void expand_key_quads(const std::uint8_t* bytes, std::uint32_t steps,
                                               std::uint32_t offsets, std::int8_t* low,
                                               std::int8_t* high) {
    const I32 step = _mm256_set1_epi32(static_cast<std::int32_t>(steps));
    const I32 even = _mm256_and_si256(step, _mm256_set1_epi16(255));
    const I32 odd = _mm256_srli_epi16(step, 8);
    const I32 offset = _mm256_set1_epi32(static_cast<std::int32_t>(offsets));
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < 64; i += 32) {
      const I32 both = load_any(bytes + i);
      store(low + i, offset_codes(scaled_nibbles(both, even, odd), offset));
      store(high + i, offset_codes(scaled_nibbles(high_nibbles(both), even, odd), offset));
    }
  }
  static INTFLASH_INLINE void interleave_tokens(const std::int8_t* tokens, std::int64_t stride,
                                                std::int8_t* rows, std::int64_t row_stride) {
    for (std::int32_t half = 0; half < 2; ++half) {
      const std::int8_t* from = tokens + half * 32;
      std::int8_t* to = rows + 2 * half * row_stride;
      const I32 a = load_any(from);
      const I32 b = load_any(from + stride);
      const I32 c = load_any(from + 2 * stride);
      const I32 d = load_any(from + 3 * stride);
      const I32 low_ab = _mm256_unpacklo_epi8(a, b);
      const I32 low_cd = _mm256_unpacklo_epi8(c, d);
      const I32 high_ab = _mm256_unpackhi_epi8(a, b);
      const I32 high_cd = _mm256_unpackhi_epi8(c, d);
      // In lane l four channels of row l each: 0 ... 3, 4 ... 7, and so on.
      const I32 four[4] = {
          _mm256_unpacklo_epi16(low_ab, low_cd), _mm256_unpackhi_epi16(low_ab, low_cd),
          _mm256_unpacklo_epi16(high_ab, high_cd), _mm256_unpackhi_epi16(high_ab, high_cd)};
      store(to, _mm256_permute2x128_si256(four[0], four[1], 0x20));
      store(to + 32, _mm256_permute2x128_si256(four[2], four[3], 0x20));
      store(to + row_stride, _mm256_permute2x128_si256(four[0], four[1], 0x31));
      store(to + row_stride + 32, _mm256_permute2x128_si256(four[2], four[3], 0x31));
    }
  }

  static INTFLASH_INLINE F32 load_halves(const std::uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static INTFLASH_INLINE F32 load_bf16(const std::uint16_t* p) {
    const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(eight), 16));
  }
  static INTFLASH_INLINE F32 load_codes(const std::uint8_t* p) {
    const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight));
  }
  // Codes from i on of the 32 that pairs hold, as scale_nibbles takes them.
  static INTFLASH_INLINE F32 load_nibbles(const std::uint8_t* pairs, std::int64_t i) {
    const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(pairs + i % 16));
    const I32 both = _mm256_cvtepu8_epi32(eight);
    const I32 codes = i < 16 ? _mm256_and_si256(both, broadcast32(15)) : _mm256_srli_epi32(both, 4);
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(codes, broadcast32(8)));
  }
  static INTFLASH_INLINE F32 broadcast_half(std::uint16_t half) {
    return _mm256_cvtph_ps(_mm_set1_epi16(static_cast<std::int16_t>(half)));
  }

  static INTFLASH_INLINE void widen_halves(const std::uint16_t* halves, std::int64_t count,
                                           float* elements) {
    for (std::int64_t i = 0; i < count; i += 8)
      _mm256_storeu_ps(elements + i, load_halves(halves + i));
  }
  static INTFLASH_INLINE void scale_codes(const std::uint8_t* codes, std::uint16_t half,
                                          float* elements) {
    const F32 scale = broadcast_half(half);
    for (std::int32_t i = 0; i < 32; i += 8)
      _mm256_storeu_ps(elements + i, _mm256_mul_ps(load_codes(codes + i), scale));
  }
  static INTFLASH_INLINE void scale_nibbles(const std::uint8_t* pairs, std::uint16_t half,
                                            float* elements) {
    const F32 scale = broadcast_half(half);
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < 32; i += 8)
      _mm256_storeu_ps(elements + i, _mm256_mul_ps(load_nibbles(pairs, i), scale));
  }
  static INTFLASH_INLINE void quantize_64(const float* row, float inverse, std::int8_t* codes) {
    for (std::int32_t i = 0; i < 64; i += 32) {
      I32 part[4];
      INTFLASH_UNROLL
      for (int k = 0; k < 4; ++k) {
        const F32 channels = _mm256_loadu_ps(row + i + 8 * k);
        part[k] = _mm256_cvtps_epi32(_mm256_mul_ps(channels, broadcast_f32(inverse)));
      }
      // Packing goes lane by lane: four codes of each part to a lane.
      const I32 packed = _mm256_packs_epi16(pack16(part[0], part[1]), pack16(part[2], part[3]));
      const I32 order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i),
                          _mm256_permutevar8x32_epi32(packed, order));
    }
  }

  static INTFLASH_INLINE F32 load_f32(const float* p) { return _mm256_load_ps(p); }
  static INTFLASH_INLINE void store_f32(float* p, F32 a) { _mm256_store_ps(p, a); }
  static INTFLASH_INLINE F32 broadcast_f32(float a) { return _mm256_set1_ps(a); }
  static INTFLASH_INLINE F32 load_any_f32(const float* p) { return _mm256_loadu_ps(p); }
  static INTFLASH_INLINE void store_any_f32(float* p, F32 a) { _mm256_storeu_ps(p, a); }
  static INTFLASH_INLINE F32 add_f32(F32 a, F32 b) { return _mm256_add_ps(a, b); }
  static INTFLASH_INLINE F32 sub_f32(F32 a, F32 b) { return _mm256_sub_ps(a, b); }
  static INTFLASH_INLINE F32 mul_f32(F32 a, F32 b) { return _mm256_mul_ps(a, b); }
  static INTFLASH_INLINE F32 add_signed(F32 sum, F32 a, F32 signs) { return fma(a, signs, sum); }
  static INTFLASH_INLINE F32 flip_signs(F32 a, const std::uint32_t* bits) {
    return _mm256_xor_ps(a, _mm256_castsi256_ps(load_any(bits)));
  }
  static INTFLASH_INLINE I32 magnitude_bits(F32 a) {
    return _mm256_and_si256(_mm256_castps_si256(a), broadcast32(0x7fffffff));
  }
  template <std::int32_t kDistance>
  static INTFLASH_INLINE F32 swapped(F32 a) {
    if constexpr (kDistance == 4) return _mm256_permute2f128_ps(a, a, 0x01);
    return _mm256_permute_ps(a, kDistance == 1 ? 0xb1 : 0x4e);
  }
  static INTFLASH_INLINE F32 to_f32(I32 a) { return _mm256_cvtepi32_ps(a); }
  static INTFLASH_INLINE F32 fma(F32 a, F32 b, F32 c) { return _mm256_fmadd_ps(a, b, c); }
};

}  // namespace
}  // namespace intflash::internal
