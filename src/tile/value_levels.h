// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Values in four bits: each is one of 16 levels times its token's scale. The levels are those of
// Lloyd and Max for normal numbers (S. P. Lloyd, "Least squares quantization in PCM", IEEE Trans.
// Inf. Theory 28, 1982), with one at 0, and the largest at 127: they are INT8 codes. A code of 0 is
// level 0. docs/numerics.md, section "Codecs".
#pragma once

#include <cstdint>

#include "tile/portability.h"
#include "tile/types.h"

namespace intflash::internal {
namespace {

constexpr std::int32_t kNumLevels = 16;
constexpr std::int32_t kZeroLevel = 7;
constexpr std::int8_t kSortedLevels[kNumLevels] = {-123, -91, -71, -54, -39, -25, -13, 0,
                                                   11,   23,  34,  47,  61,  77,  97,  127};

// By the codes of four bits.
struct LevelTable {
  std::int8_t level[kNumLevels];
};
constexpr LevelTable level_table() {
  LevelTable table{};
  for (std::int32_t code = 0; code < kNumLevels; ++code)
    table.level[code] = kSortedLevels[code ^ kZeroLevel];
  return table;
}
alignas(16) constexpr LevelTable kLevels = level_table();

// Levels stand for INT8 codes that are 1, 2^-0.15 or 2^-0.3 times as large, in 128ths: the best of
// three for a row is taken, whatever the scale that then fits it best.
constexpr std::int32_t kNumSteps = 3;
constexpr std::int32_t kSteps[kNumSteps] = {128, 115, 104};

// Codes above bound[s][i] are nearer to step s times level i + 1 than to that of level i.
struct LevelBounds {
  std::int8_t bound[kNumSteps][kNumLevels - 1];
};
constexpr LevelBounds level_bounds() {
  LevelBounds bounds{};
  for (std::int32_t s = 0; s < kNumSteps; ++s) {
    for (std::int32_t i = 0; i + 1 < kNumLevels; ++i) {
      const std::int32_t sum = kSortedLevels[i] + kSortedLevels[i + 1];
      bounds.bound[s][i] = static_cast<std::int8_t>(sum * kSteps[s] >> 8);
    }
  }
  return bounds;
}
constexpr LevelBounds kLevelBounds = level_bounds();

// Of each code the level that is nearest. Loops over all levels, so that they vectorize.
[[maybe_unused]] INTFLASH_NOINLINE void levels_of(const std::int8_t* INTFLASH_RESTRICT codes,
                                                  std::int64_t count, const std::int8_t* bound,
                                                  std::int8_t* INTFLASH_RESTRICT levels) {
  for (std::int64_t c = 0; c < count; ++c) {
    std::int8_t level = kSortedLevels[0];
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i + 1 < kNumLevels; ++i) {
      const std::int32_t height = kSortedLevels[i + 1] - kSortedLevels[i];
      level = static_cast<std::int8_t>(level + (-(codes[c] > bound[i]) & height));
    }
    levels[c] = level;
  }
}
// Their codes.
[[maybe_unused]] INTFLASH_NOINLINE void codes_of(const std::int8_t* INTFLASH_RESTRICT levels,
                                                 std::int64_t count,
                                                 std::uint8_t* INTFLASH_RESTRICT nibbles) {
  for (std::int64_t c = 0; c < count; ++c) {
    std::int8_t index = 0;
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i + 1 < kNumLevels; ++i)
      index = static_cast<std::int8_t>(index + (levels[c] > kSortedLevels[i]));
    nibbles[c] = static_cast<std::uint8_t>(index ^ kZeroLevel);
  }
}

// codes . levels and levels . levels.
struct LevelFit {
  std::int32_t product;
  std::int32_t square;
};
[[maybe_unused]] INTFLASH_NOINLINE LevelFit fit_levels(const std::int8_t* INTFLASH_RESTRICT codes,
                                                       const std::int8_t* INTFLASH_RESTRICT levels,
                                                       std::int64_t count) {
  LevelFit fit = {0, 0};
  for (std::int64_t c = 0; c < count; ++c) fit.product += codes[c] * levels[c];
  for (std::int64_t c = 0; c < count; ++c) fit.square += levels[c] * levels[c];
  return fit;
}

// Codes of four bits, in bytes of their own, for a row of INT8 codes whose largest magnitude is
// near 127; returns the factor of the row's scale. Of the three steps the one whose levels, with
// the scale that fits them best, are nearest to the codes: by the largest product^2 / square, the
// first of equals. 0: all codes are 0.
[[maybe_unused]] float code_values(const std::int8_t* codes, std::int64_t count,
                                   std::uint8_t* nibbles) {
  std::int8_t levels[2][kMaxHeadDim];
  std::int32_t chosen = 0;
  double most = 0;
  float factor = 0;
  for (std::int32_t s = 0; s < kNumSteps; ++s) {
    const std::int32_t other = s == 0 ? 0 : 1 - chosen;
    levels_of(codes, count, kLevelBounds.bound[s], levels[other]);
    const LevelFit fit = fit_levels(codes, levels[other], count);
    const double product = fit.product;
    const double merit = fit.square == 0 ? 0 : product * product / fit.square;
    if (merit <= most) continue;
    most = merit;
    factor = static_cast<float>(product / fit.square);
    chosen = other;
  }
  codes_of(levels[chosen], count, nibbles);
  return factor;
}

// A block of values from four bits to page layout version 1. In each 64 bytes are two rows of 16
// channels and four tokens, eight rows apart.
template <class Ops>
void expand_values(const std::uint8_t* INTFLASH_RESTRICT packed, std::int64_t padded_dim_v,
                   std::int8_t* INTFLASH_RESTRICT codes) {
  constexpr std::int64_t kHalf = 16 * kBlockTokens / 2;
  for (std::int64_t channel = 0; channel < padded_dim_v; channel += 16) {
    for (std::int64_t row = 0; row < kHalf; row += 64)
      Ops::look_up_nibbles(packed + row, kLevels.level, codes + row, codes + kHalf + row);
    packed += kHalf;
    codes += 2 * kHalf;
  }
}

// The block of codec k8v4: keys are as they lie.
template <class Ops>
KvBlock expand_k8v4(const KvBlock& packed, std::int32_t, std::int32_t head_dim_v,
                    const WritableBlock& room) {
  expand_values<Ops>(reinterpret_cast<const std::uint8_t*>(packed.value_codes),
                     round_up(head_dim_v, 16), room.value_codes);
  KvBlock block = packed;
  block.value_codes = room.value_codes;
  return block;
}

}  // namespace
}  // namespace intflash::internal
