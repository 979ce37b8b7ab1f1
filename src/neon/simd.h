// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The vector operations of the tile kernels in NEON, one intrinsic a line where there is one.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "tile/portability.h"
#include "tile/row_ops.h"

namespace intflash::internal {
namespace {

struct Neon : RowLoops {
  using I32 = int32x4_t;
  using I16 = int16x8_t;
  using F32 = float32x4_t;
  static constexpr std::int32_t kLanes = 4;  // as few as keep keys in natural order when narrowed

  // Bytes that a row's next eight codes take in packed rows, and their way there.
  static constexpr std::int32_t kOctetBytes = 8;
  static INTFLASH_INLINE void pack_octet(std::int8_t* to, std::uint64_t eight) {
    store_as(to, eight);
  }
  // No load moves across: g++ 12 would load so far ahead that sums lose their registers.
  static INTFLASH_INLINE void keep_loads_here() { __asm__ volatile("" : : : "memory"); }

  static INTFLASH_INLINE I32 zero() { return vdupq_n_s32(0); }
  static INTFLASH_INLINE I32 load(const std::int32_t* p) { return vld1q_s32(p); }
  static INTFLASH_INLINE I16 load(const std::int16_t* p) { return vld1q_s16(p); }
  static INTFLASH_INLINE int8x16_t load(const std::int8_t* p) { return vld1q_s8(p); }
  static INTFLASH_INLINE uint8x16_t load(const std::uint8_t* p) { return vld1q_u8(p); }
  static INTFLASH_INLINE I32 load_any(const float* p) {
    return vreinterpretq_s32_f32(vld1q_f32(p));
  }
  static INTFLASH_INLINE void store(std::int32_t* p, I32 a) { vst1q_s32(p, a); }
  static INTFLASH_INLINE void store(std::int16_t* p, I16 a) { vst1q_s16(p, a); }
  static INTFLASH_INLINE void store(std::int8_t* p, int8x16_t a) { vst1q_s8(p, a); }
  static INTFLASH_INLINE void store(std::uint8_t* p, uint8x8x2_t a) {
    vst1_u8(p, a.val[0]);
    vst1_u8(p + 8, a.val[1]);
  }
  static INTFLASH_INLINE I32 broadcast32(std::int32_t a) { return vdupq_n_s32(a); }
  static INTFLASH_INLINE I16 broadcast16(std::int32_t a) {
    return vdupq_n_s16(static_cast<std::int16_t>(a));
  }

  static INTFLASH_INLINE LevelFit code_levels(const std::int8_t* codes, std::int64_t padded,
                                              const LevelBounds& bounds, std::uint8_t* levels) {
    const uint8x16_t below = vld1q_u8(bounds.below);
    const uint8x16_t first = vld1q_u8(bounds.first);
    const uint8x16_t second = vld1q_u8(bounds.second);
    const int8x16_t level_of = load(kLevels.level);
    int32x4_t products = vdupq_n_s32(0), squares = vdupq_n_s32(0);
    for (std::int64_t c = 0; c < padded; c += 16) {
      const int8x16_t code = load(codes + c);
      const uint8x16_t above = veorq_u8(vreinterpretq_u8_s8(code), vdupq_n_u8(128));
      const uint8x16_t low = vandq_u8(above, vdupq_n_u8(15));
      const uint8x16_t high = vshrq_n_u8(above, 4);
      // A comparison gives -1.
      uint8x16_t index = vqtbl1q_u8(below, high);
      index = vsubq_u8(index, vcgtq_u8(low, vqtbl1q_u8(first, high)));
      index = vsubq_u8(index, vcgtq_u8(low, vqtbl1q_u8(second, high)));
      index = veorq_u8(index, vdupq_n_u8(kZeroLevel));
      vst1q_u8(levels + c, index);
      const int8x16_t level = vqtbl1q_s8(level_of, index);
      const int8x8_t low_code = vget_low_s8(code), low_level = vget_low_s8(level);
      products = vpadalq_s16(products, vmull_s8(low_code, low_level));
      products = vpadalq_s16(products, vmull_high_s8(code, level));
      squares = vpadalq_s16(squares, vmull_s8(low_level, low_level));
      squares = vpadalq_s16(squares, vmull_high_s8(level, level));
    }
    return {vaddvq_s32(products), vaddvq_s32(squares)};
  }
  static INTFLASH_INLINE void look_up_nibbles(const std::uint8_t* bytes, const std::int8_t* table,
                                              std::int8_t* low, std::int8_t* high) {
    const int8x16_t looked_up = load(table);
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < 64; i += 16) {
      const uint8x16_t both = load(bytes + i);
      store(low + i, vqtbl1q_s8(looked_up, vandq_u8(both, vdupq_n_u8(15))));
      store(high + i, vqtbl1q_s8(looked_up, vshrq_n_u8(both, 4)));
    }
  }

  static INTFLASH_INLINE int8x16_t scaled_nibbles(uint8x16_t nibbles, uint8x16_t step,
                                                  uint8x16_t offset) {
    const uint8x16_t codes = vmlaq_u8(offset, nibbles, step);
    return vreinterpretq_s8_u8(veorq_u8(codes, vdupq_n_u8(128)));
  }
  static INTFLASH_INLINE void expand_key_quads(const std::uint8_t* bytes, std::uint32_t steps,
                                               std::uint32_t offsets, std::int8_t* low,
                                               std::int8_t* high) {
    const uint8x16_t step = vreinterpretq_u8_u32(vdupq_n_u32(steps));
    const uint8x16_t offset = vreinterpretq_u8_u32(vdupq_n_u32(offsets));
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < 64; i += 16) {
      const uint8x16_t both = load(bytes + i);
      store(low + i, scaled_nibbles(vandq_u8(both, vdupq_n_u8(15)), step, offset));
      store(high + i, scaled_nibbles(vshrq_n_u8(both, 4), step, offset));
    }
  }

  static INTFLASH_INLINE I32 add32(I32 a, I32 b) { return vaddq_s32(a, b); }
  static INTFLASH_INLINE I32 times_128(I32 a) { return vshlq_n_s32(a, 7); }
  static INTFLASH_INLINE I32 shift_right32(I32 a, I32 count) {
    return vshlq_s32(a, vnegq_s32(count));
  }
  // For values that fit.
  static INTFLASH_INLINE I16 pack16(I32 a, I32 b) {
    return vuzp1q_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
  }
  // (a + 8) >> 4 as unsigned bytes, for values that fit.
  static INTFLASH_INLINE uint8x8x2_t pack8_sixteenths(I16 a, I16 b) {
    return {vrshrn_n_u16(vreinterpretq_u16_s16(a), 4), vrshrn_n_u16(vreinterpretq_u16_s16(b), 4)};
  }

  static INTFLASH_INLINE I16 add(I16 a, I16 b) { return vaddq_s16(a, b); }
  static INTFLASH_INLINE I16 sub(I16 a, I16 b) { return vsubq_s16(a, b); }
  static INTFLASH_INLINE I16 max(I16 a, I16 b) { return vmaxq_s16(a, b); }
  static INTFLASH_INLINE I16 max_unsigned(I16 a, I16 b) {
    return vreinterpretq_s16_u16(vmaxq_u16(vreinterpretq_u16_s16(a), vreinterpretq_u16_s16(b)));
  }
  static INTFLASH_INLINE I32 bit_and(I32 a, I32 b) { return vandq_s32(a, b); }
  static INTFLASH_INLINE I16 bit_and_not(I16 a, I16 b) { return vbicq_s16(a, b); }
  // keep ? a : b, keep all ones or all zeros.
  static INTFLASH_INLINE I16 select(I16 keep, I16 a, I16 b) {
    return vbslq_s16(vreinterpretq_u16_s16(keep), a, b);
  }
  static INTFLASH_INLINE I16 multiply_q15(I16 a, I16 b) { return vqrdmulhq_s16(a, b); }
  static INTFLASH_INLINE I16 multiply_q15_add(I16 sum, I16 a, I16 b) {
    return vaddq_s16(sum, vqrdmulhq_s16(a, b));
  }
  template <int kCount>
  static INTFLASH_INLINE I16 shift_left(I16 a) {
    return vshlq_n_s16(a, kCount);
  }
  // Arithmetically.
  template <int kCount>
  static INTFLASH_INLINE I16 shift_right(I16 a) {
    return vshrq_n_s16(a, kCount);
  }
  // The same of unsigned numbers, rounded.
  static INTFLASH_INLINE I16 rounded_shift_unsigned(I16 a, I16 count) {
    return vreinterpretq_s16_u16(vrshlq_u16(vreinterpretq_u16_s16(a), count));
  }
  static INTFLASH_INLINE I32 multiply_add_pairs(I32 sum, I16 a, I16 b) {
    return vmlal_high_s16(vmlal_s16(sum, vget_low_s16(a), vget_low_s16(b)), a, b);
  }

  static INTFLASH_INLINE I32 max32(I32 a, I32 b) { return vmaxq_s32(a, b); }
  static INTFLASH_INLINE std::int32_t max_lane32(I32 a) { return vmaxvq_s32(a); }
  static INTFLASH_INLINE std::int32_t max_lane(I16 a) { return vmaxvq_s16(a); }
  static INTFLASH_INLINE std::int32_t sum_lanes(I32 a) { return vaddvq_s32(a); }

  // All ones in lane i where bit i is set.
  static INTFLASH_INLINE I32 keep_lanes(std::uint64_t bits) {
    const I32 bit = {1, 2, 4, 8};
    return vreinterpretq_s32_u32(vtstq_s32(broadcast32(static_cast<std::int32_t>(bits)), bit));
  }
  // All ones where a key is kept, for 8 keys.
  static INTFLASH_INLINE I16 keep_words(const std::uint64_t* keep, std::int32_t first_key) {
    const I16 bit = {1, 2, 4, 8, 16, 32, 64, 128};
    const std::int32_t bits = static_cast<std::int32_t>(keep[first_key / 64] >> (first_key % 64));
    return vreinterpretq_s16_u16(vtstq_s16(broadcast16(bits), bit));
  }

  // 16 rows of 64 bytes as 16 rows of [16][4 bytes]: transpositions of 4 x 4 int32.
  static INTFLASH_INLINE void transpose_quads(const std::int8_t* from, std::int64_t stride,
                                              std::int8_t* to) {
    for (int token = 0; token < 16; token += 4) {
      for (int quad = 0; quad < 16; quad += 4) {
        transpose_4x4(from + token * stride + quad * 4, stride, to + quad * 64 + token * 4);
      }
    }
  }
  static INTFLASH_INLINE void transpose_4x4(const std::int8_t* from, std::int64_t stride,
                                            std::int8_t* to) {
    I32 a[4];
    int64x2_t b[4];
    INTFLASH_UNROLL
    for (int i = 0; i < 4; ++i) a[i] = vreinterpretq_s32_s8(load(from + i * stride));
    INTFLASH_UNROLL
    for (int i = 0; i < 4; i += 2) {
      b[i] = vreinterpretq_s64_s32(vtrn1q_s32(a[i], a[i + 1]));
      b[i + 1] = vreinterpretq_s64_s32(vtrn2q_s32(a[i], a[i + 1]));
    }
    INTFLASH_UNROLL
    for (int i = 0; i < 2; ++i) {
      store(to + i * 64, vreinterpretq_s8_s64(vtrn1q_s64(b[i], b[i + 2])));
      store(to + (i + 2) * 64, vreinterpretq_s8_s64(vtrn2q_s64(b[i], b[i + 2])));
    }
  }

  static INTFLASH_INLINE F32 load_halves(const std::uint16_t* p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
  }
  static INTFLASH_INLINE F32 load_f32(const float* p) { return vld1q_f32(p); }
  static INTFLASH_INLINE void store_f32(float* p, F32 a) { vst1q_f32(p, a); }
  static INTFLASH_INLINE F32 broadcast_f32(float a) { return vdupq_n_f32(a); }
  static INTFLASH_INLINE F32 load_any_f32(const float* p) { return vld1q_f32(p); }
  static INTFLASH_INLINE void store_any_f32(float* p, F32 a) { vst1q_f32(p, a); }
  static INTFLASH_INLINE F32 add_f32(F32 a, F32 b) { return vaddq_f32(a, b); }
  static INTFLASH_INLINE F32 sub_f32(F32 a, F32 b) { return vsubq_f32(a, b); }
  static INTFLASH_INLINE F32 mul_f32(F32 a, F32 b) { return vmulq_f32(a, b); }
  static INTFLASH_INLINE F32 add_signed(F32 sum, F32 a, F32 signs) { return fma(a, signs, sum); }
  static INTFLASH_INLINE F32 flip_signs(F32 a, const std::uint32_t* bits) {
    return vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(a), vld1q_u32(bits)));
  }
  static INTFLASH_INLINE I32 magnitude_bits(F32 a) { return vreinterpretq_s32_f32(vabsq_f32(a)); }
  template <std::int32_t kDistance>
  static INTFLASH_INLINE F32 swapped(F32 a) {
    return kDistance == 1 ? vrev64q_f32(a) : vextq_f32(a, a, 2);
  }
  static INTFLASH_INLINE F32 to_f32(I32 a) { return vcvtq_f32_s32(a); }
  static INTFLASH_INLINE F32 fma(F32 a, F32 b, F32 c) { return vfmaq_f32(c, a, b); }
};

}  // namespace
}  // namespace intflash::internal
