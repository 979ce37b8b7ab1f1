// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The operations on rows of channels that an instruction set may have a better way for, as loops.
#pragma once

#include <cstdint>

#include "tile/float_math.h"
#include "tile/halves.h"
#include "tile/key_codes.h"
#include "tile/portability.h"
#include "tile/value_levels.h"

namespace intflash::internal {
namespace {

// OCP's 8-bit floats (arXiv 2209.05433, table 1): below the sign, the upper bits of an f32 with
// another bias of exponents.
struct ByteFloat {
  std::uint32_t shift;          // of these bits to where f32 has them
  float factor;                 // 2 to the power of what f32's bias has more
  std::uint32_t least_special;  // infinities and NaN
};
constexpr ByteFloat kE4m3 = {20, 0x1p120f, 0x7f};
constexpr ByteFloat kE5m2 = {21, 0x1p112f, 0x7c};

// A class of an instruction set's operations that has ways of its own hides these.
struct RowLoops {
  // Vectors that every CPU has.
  static constexpr std::int32_t kLanes = 4;
  using F32 = float __attribute__((vector_size(16)));
  using I32 = std::int32_t __attribute__((vector_size(16)));

  static INTFLASH_INLINE I32 zero() { return I32{}; }
  static INTFLASH_INLINE I32 max32(I32 a, I32 b) { return a > b ? a : b; }
  static INTFLASH_INLINE std::int32_t max_lane32(I32 a) {
    return max_of(max_of(a[0], a[1]), max_of(a[2], a[3]));
  }
  static INTFLASH_INLINE F32 load_f32(const float* p) { return load_as<F32>(p); }
  static INTFLASH_INLINE F32 load_any_f32(const float* p) { return load_as<F32>(p); }
  static INTFLASH_INLINE void store_any_f32(float* p, F32 a) { store_as(p, a); }
  static INTFLASH_INLINE F32 broadcast_f32(float a) { return F32{a, a, a, a}; }
  static INTFLASH_INLINE F32 add_f32(F32 a, F32 b) { return a + b; }
  static INTFLASH_INLINE F32 sub_f32(F32 a, F32 b) { return a - b; }
  static INTFLASH_INLINE F32 mul_f32(F32 a, F32 b) { return a * b; }
  // sum + a * signs, each 1 or -1, so that the product is exact.
  static INTFLASH_INLINE F32 add_signed(F32 sum, F32 a, F32 signs) { return sum + a * signs; }
  // Bit 31 flips.
  static INTFLASH_INLINE F32 flip_signs(F32 a, const std::uint32_t* bits) {
    return bits_as<F32>(bits_as<I32>(a) ^ load_as<I32>(bits));
  }
  static INTFLASH_INLINE I32 magnitude_bits(F32 a) { return bits_as<I32>(a) & 0x7fffffff; }
  // Lanes i and i ^ kDistance.
  template <std::int32_t kDistance>
  static INTFLASH_INLINE F32 swapped(F32 a) {
    return kDistance == 1 ? __builtin_shufflevector(a, a, 1, 0, 3, 2)
                          : __builtin_shufflevector(a, a, 2, 3, 0, 1);
  }

  // count: a multiple of 8.
  static INTFLASH_INLINE void widen_halves(const std::uint16_t* halves, std::int64_t count,
                                           float* INTFLASH_RESTRICT elements) {
    for (std::int64_t i = 0; i < count; ++i) elements[i] = widen_f16(halves[i]);
  }
  // The products are exact, of subnormal numbers too.
  static INTFLASH_NOINLINE void widen_bytes(const std::uint8_t* bytes, ByteFloat format,
                                            std::int64_t count, float* INTFLASH_RESTRICT elements) {
    for (std::int64_t i = 0; i < count; ++i) {
      const std::uint32_t code = bytes[i] & 0x7fu;
      const std::uint32_t magnitude = code << format.shift;
      const std::uint32_t finite =
          bits_as<std::uint32_t>(bits_as<float>(magnitude) * format.factor);
      const std::uint32_t bits = code >= format.least_special ? magnitude | 0x7f800000u : finite;
      elements[i] = bits_as<float>((bytes[i] & 0x80u) << 24 | bits);
    }
  }
  // 32 codes times their scale, a half.
  static INTFLASH_INLINE void scale_codes(const std::uint8_t* codes, std::uint16_t half,
                                          float* INTFLASH_RESTRICT elements) {
    const float scale = widen_f16(half);
    for (std::int64_t i = 0; i < 32; ++i)
      elements[i] = static_cast<float>(static_cast<std::int8_t>(codes[i])) * scale;
  }
  // 32 codes of 4 bits plus 8 times their scale, a half: i in the lower bits, i + 16 in the upper.
  static INTFLASH_INLINE void scale_nibbles(const std::uint8_t* pairs, std::uint16_t half,
                                            float* INTFLASH_RESTRICT elements) {
    const float scale = widen_f16(half);
    for (std::int64_t i = 0; i < 16; ++i) {
      elements[i] = static_cast<float>((pairs[i] & 15) - 8) * scale;
      elements[i + 16] = static_cast<float>((pairs[i] >> 4) - 8) * scale;
    }
  }
  // 64 channels times inverse, to the nearest code.
  static INTFLASH_INLINE void quantize_64(const float* row, float inverse,
                                          std::int8_t* INTFLASH_RESTRICT codes) {
    for (std::int64_t c = 0; c < 64; ++c)
      codes[c] = static_cast<std::int8_t>(round_to_int(row[c] * inverse));
  }

  // 16 tokens of 64 codes as 16 rows of [16 tokens][4].
  static INTFLASH_INLINE void transpose_quads(const std::int8_t* tokens, std::int64_t stride,
                                              std::int8_t* rows) {
    for (std::int32_t quad = 0; quad < 16; ++quad) {
      for (std::int32_t token = 0; token < 16; ++token) {
        store_as(rows + quad * 64 + token * 4,
                 load_as<std::int32_t>(tokens + token * stride + quad * 4));
      }
    }
  }
  // The sums of 16 tokens' codes, which lie as rows of [16 tokens][4].
  static INTFLASH_INLINE void sum_tokens(const std::int8_t* rows, std::int32_t num_rows,
                                         std::int32_t* sums) {
    std::int32_t sum[16] = {};
    for (std::int32_t r = 0; r < num_rows; ++r) {
      for (std::int32_t i = 0; i < 64; ++i) sum[i / 4] += rows[r * 64 + i];
    }
    for (std::int32_t token = 0; token < 16; ++token) sums[token] = sum[token];
  }
  // 4 tokens of 64 codes as 4 rows of [16 channels][4 tokens].
  static INTFLASH_INLINE void interleave_tokens(const std::int8_t* tokens, std::int64_t stride,
                                                std::int8_t* rows, std::int64_t row_stride) {
    for (std::int32_t r = 0; r < 4; ++r) {
      std::int8_t* INTFLASH_RESTRICT row = rows + r * row_stride;
      for (std::int32_t channel = 0; channel < 16; ++channel) {
        for (std::int32_t token = 0; token < 4; ++token)
          row[channel * 4 + token] = tokens[token * stride + r * 16 + channel];
      }
    }
  }
  // For a row of INT8 codes, of which padded are a multiple of 32, the nearest levels' codes of
  // four bits.
  static INTFLASH_INLINE LevelFit code_levels(const std::int8_t* codes, std::int64_t padded,
                                              const LevelBounds& bounds, std::uint8_t* levels) {
    LevelFit fit = {0, 0};
    for (std::int64_t c = 0; c < padded; ++c) {
      const std::int32_t high = (codes[c] + 128) >> 4;
      const std::int32_t low = codes[c] & 15;
      const std::int32_t index = bounds.below[high] + (low > bounds.first[high] ? 1 : 0) +
                                 (low > bounds.second[high] ? 1 : 0);
      levels[c] = static_cast<std::uint8_t>(index ^ kZeroLevel);
      const std::int32_t level = kSortedLevels[index];
      fit.product += codes[c] * level;
      fit.square += level * level;
    }
    return fit;
  }
  // Of 64 bytes the table's bytes at their low and at their high four bits.
  static INTFLASH_INLINE void look_up_nibbles(const std::uint8_t* bytes, const std::int8_t* table,
                                              std::int8_t* low, std::int8_t* high) {
    for (std::int32_t i = 0; i < 64; ++i) {
      low[i] = table[bytes[i] & 15];
      high[i] = table[bytes[i] >> 4];
    }
  }
  // Of 64 bytes their low and their high four bits as codes of keys: byte i of four in a row has
  // byte i of steps and of offsets.
  static INTFLASH_INLINE void expand_key_quads(const std::uint8_t* bytes, std::uint32_t steps,
                                               std::uint32_t offsets, std::int8_t* low,
                                               std::int8_t* high) {
    for (std::int32_t i = 0; i < 64; ++i) {
      const auto step = static_cast<std::int32_t>(steps >> i % 4 * 8 & 255);
      const auto offset = static_cast<std::int32_t>(offsets >> i % 4 * 8 & 255);
      low[i] = static_cast<std::int8_t>(key_code(bytes[i] & 15, step, offset));
      high[i] = static_cast<std::int8_t>(key_code(bytes[i] >> 4, step, offset));
    }
  }
};

}  // namespace
}  // namespace intflash::internal
