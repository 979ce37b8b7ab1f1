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

// Codes above ((level + next level) * step) >> 8 are nearer to step times the next level.
constexpr LevelBounds level_bounds(std::int32_t step) {
  LevelBounds bounds{};
  for (std::int32_t high = 0; high < 16; ++high) {
    bounds.first[high] = bounds.second[high] = 15;                         // no code is above
    std::uint8_t* within[] = {&bounds.first[high], &bounds.second[high]};  // no third one
    std::int32_t num_within = 0;
    for (std::int32_t i = 0; i + 1 < kNumLevels; ++i) {
      const std::int32_t bound = (kSortedLevels[i] + kSortedLevels[i + 1]) * step >> 8;
      const std::int32_t low = bound - (16 * high - 128);
      if (low < 0) ++bounds.below[high];
      if (low >= 0 && low < 15) *within[num_within++] = static_cast<std::uint8_t>(low);
    }
  }
  return bounds;
}
constexpr LevelBounds kLevelBounds[kNumSteps] = {level_bounds(kSteps[0]), level_bounds(kSteps[1]),
                                                 level_bounds(kSteps[2])};

// Rows are padded with zeros to whole pieces.
constexpr std::int64_t kPiece = 32;

// Of three steps the one whose levels, with the scale that fits them best, are nearest to the
// codes: by the largest product^2 / square, the first of equals. Returns the scale over that of the
// codes; 0: all codes are 0.
template <class Ops>
INTFLASH_INLINE float search_levels(const std::int8_t* codes, std::int64_t count,
                                    std::int64_t padded, std::uint8_t* nibbles) {
  std::uint8_t levels[kMaxHeadDim];
  double most = 0;
  float factor = 0;
  for (const LevelBounds& bounds : kLevelBounds) {
    const LevelFit fit = Ops::code_levels(codes, padded, bounds, levels);
    const double product = fit.product;
    const double merit = fit.square == 0 ? 0 : product * product / fit.square;
    if (merit <= most) continue;
    most = merit;
    factor = static_cast<float>(product / fit.square);
    __builtin_memcpy(nibbles, levels, static_cast<std::size_t>(count));
  }
  if (most == 0) __builtin_memset(nibbles, 0, static_cast<std::size_t>(count));
  return factor;
}

// Rows that came as INT8 may have small codes: these are stretched to 127, by the returned factor.
INTFLASH_INLINE float stretch(std::int8_t* codes, std::int64_t padded) {
  using Sixteen = std::int8_t __attribute__((vector_size(16)));
  Sixteen most{}, least{};
  for (std::int64_t c = 0; c < padded; c += 16) {
    const auto some = load_as<Sixteen>(codes + c);
    most = most > some ? most : some;
    least = least < some ? least : some;
  }
  most = most > -least ? most : -least;  // no code is -128
  std::int8_t largest = 0;
  for (std::int32_t i = 0; i < 16; ++i) largest = max_of(largest, most[i]);
  if (largest == 0 || largest >= 120) return 1;
  const float factor = 127.0f / static_cast<float>(largest);
  for (std::int64_t c = 0; c < padded; ++c)
    codes[c] = static_cast<std::int8_t>(round_to_int(static_cast<float>(codes[c]) * factor));
  return factor;
}

// The least scale of a row that does not count as zero: kTinyMagnitude / 127, rounded up to the
// grid.
constexpr float kLeastScale = kScaleGrid.mantissa[1] * 0x1p-106f;

// The power of 2^(1/64) that is nearest to a scale.
INTFLASH_INLINE float nearest_on_grid(float scale) {
  const std::int32_t steps =
      round_to_int(log2_of_mantissa(mantissa_of(scale)) * static_cast<float>(kScaleSteps));
  return kScaleGrid.mantissa[kScaleSteps + steps] * power_of_two(exponent_of(scale));
}

// RowKernels::code_values.
template <class Ops>
void code_values(const std::int8_t* codes, std::int64_t count, float& scale,
                 std::uint8_t* nibbles) {
  std::int8_t row[kMaxHeadDim];
  const std::int64_t padded = round_up(count, kPiece);
  __builtin_memset(row, 0, static_cast<std::size_t>(padded));
  __builtin_memcpy(row, codes, static_cast<std::size_t>(count));
  const float stretching = stretch(row, padded);
  const float factor = search_levels<Ops>(row, count, padded, nibbles);
  const float fitted = scale / stretching * factor;
  scale = fitted == 0 ? 0 : max_of(nearest_on_grid(fitted), kLeastScale);
}

}  // namespace
}  // namespace intflash::internal
