// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Four-bit codes for rows of INT8 ones: the search of levels and of a scale for them.
// docs/numerics.md, section "Codecs".
#pragma once

#include <cstddef>
#include <cstdint>

#include "tile/float_math.h"
#include "tile/portability.h"
#include "tile/scale_grid.h"
#include "tile/types.h"
#include "tile/value_levels.h"

namespace intflash::internal {
namespace {

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

// Rows are padded with zeros to whole pieces: loops over one of them become vectors of whatever
// length, with nothing left over.
constexpr std::int64_t kPiece = 32;

// Of a piece of codes the levels that are nearest.
INTFLASH_INLINE void find_levels(const std::int8_t* INTFLASH_RESTRICT codes,
                                 const std::int8_t* INTFLASH_RESTRICT bound,
                                 std::int8_t* INTFLASH_RESTRICT levels) {
  for (std::int64_t c = 0; c < kPiece; ++c) {
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
INTFLASH_INLINE void codes_of_levels(const std::int8_t* INTFLASH_RESTRICT levels,
                                     std::uint8_t* INTFLASH_RESTRICT nibbles) {
  for (std::int64_t c = 0; c < kPiece; ++c) {
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
INTFLASH_INLINE void add_piece(const std::int8_t* codes, const std::int8_t* levels, LevelFit& fit) {
  std::int16_t code[kPiece], level[kPiece];
  for (std::int64_t c = 0; c < kPiece; ++c) code[c] = codes[c];
  for (std::int64_t c = 0; c < kPiece; ++c) level[c] = levels[c];
  for (std::int64_t c = 0; c < kPiece; ++c) fit.product += code[c] * level[c];
  for (std::int64_t c = 0; c < kPiece; ++c) fit.square += level[c] * level[c];
}

// Of three steps the one whose levels, with the scale that fits them best, are nearest to the
// codes: by the largest product^2 / square, the first of equals. Returns the scale over that of the
// codes; 0: all codes are 0.
INTFLASH_INLINE float search_levels(const std::int8_t* codes, std::int64_t padded,
                                    std::uint8_t* nibbles) {
  std::int8_t levels[2][kMaxHeadDim];
  std::int32_t chosen = 0;
  double most = 0;
  float factor = 0;
  for (std::int32_t s = 0; s < kNumSteps; ++s) {
    const std::int32_t other = s == 0 ? 0 : 1 - chosen;
    LevelFit fit = {0, 0};
    for (std::int64_t c = 0; c < padded; c += kPiece) {
      find_levels(codes + c, kLevelBounds.bound[s], levels[other] + c);
      add_piece(codes + c, levels[other] + c, fit);
    }
    const double product = fit.product;
    const double merit = fit.square == 0 ? 0 : product * product / fit.square;
    if (merit <= most) continue;
    most = merit;
    factor = static_cast<float>(product / fit.square);
    chosen = other;
  }
  for (std::int64_t c = 0; c < padded; c += kPiece)
    codes_of_levels(levels[chosen] + c, nibbles + c);
  return factor;
}

// Rows that came as INT8 may have small codes: these are stretched to 127, by the returned factor.
INTFLASH_INLINE float stretch(std::int8_t* codes, std::int64_t padded) {
  std::int8_t most = 0, least = 0;
  for (std::int64_t p = 0; p < padded; p += kPiece) {
    for (std::int64_t c = 0; c < kPiece; ++c) most = max_of(most, codes[p + c]);
    for (std::int64_t c = 0; c < kPiece; ++c) least = min_of(least, codes[p + c]);
  }
  const std::int32_t largest = max_of<std::int32_t>(most, -least);
  if (largest == 0 || largest >= 120) return 1;
  const float factor = 127.0f / static_cast<float>(largest);
  for (std::int64_t c = 0; c < padded; ++c)
    codes[c] = static_cast<std::int8_t>(round_to_int(static_cast<float>(codes[c]) * factor));
  return factor;
}

// The power of 2^(1/64) that is nearest to a scale.
INTFLASH_INLINE float nearest_on_grid(float scale) {
  const std::int32_t steps =
      round_to_int(log2_of_mantissa(mantissa_of(scale)) * static_cast<float>(kScaleSteps));
  return kScaleGrid.mantissa[kScaleSteps + steps] * power_of_two(exponent_of(scale));
}

// KernelTable::code_values.
void code_values(const std::int8_t* codes, std::int64_t count, float& scale,
                 std::uint8_t* nibbles) {
  std::int8_t row[kMaxHeadDim];
  std::uint8_t coded[kMaxHeadDim];
  const std::int64_t padded = round_up(count, kPiece);
  __builtin_memset(row, 0, static_cast<std::size_t>(padded));
  __builtin_memcpy(row, codes, static_cast<std::size_t>(count));
  const float stretching = stretch(row, padded);
  const float factor = search_levels(row, padded, coded);
  __builtin_memcpy(nibbles, coded, static_cast<std::size_t>(count));
  scale = factor == 0 || scale == 0 ? 0 : nearest_on_grid(scale / stretching * factor);
}

}  // namespace
}  // namespace intflash::internal
