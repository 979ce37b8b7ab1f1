// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The exponential: weights 2^-distance in fixed point. docs/numerics.md, section "Weights".
#pragma once

#include <cstdint>

#include "tile/score_block.h"

namespace intflash::internal {
namespace {

// 2^-f on [0, 1) as 1 - f (a - f b) in Q15, with 255 * 128 for one: relative error at most 2.4e-3,
// and exact at f = 0.
constexpr std::int32_t kExp2One = 255 * 128;
constexpr std::int32_t kExp2Linear = 21940;
constexpr std::int32_t kExp2Square = 5660;
constexpr std::int32_t kWeightPlaces = 2;   // kExp2One = 2^(2 + 1) * kWeightOne
constexpr std::int32_t kWeightToU8 = 2048;  // 4080 to 255 in Q15
constexpr float kWeightToP = 1.0f / 16;     // the same in f32

// kExp2One * 2^-f for f, a fraction in units of 2^-kFractionBits.
INTFLASH_INLINE constexpr std::int32_t exp2_of_fraction(std::int32_t fraction) {
  const std::int32_t f = fraction << (15 - kFractionBits);
  return kExp2One - multiply_q15(f, kExp2Linear - multiply_q15(f, kExp2Square));
}

// 4080 * 2^-distance for a distance in units of 2^-kFractionBits, 0 <= distance < 2^16, rounded.
INTFLASH_INLINE std::int32_t weight_of(std::int32_t distance) {
  const std::int32_t whole = distance >> kFractionBits;
  const std::int32_t power = exp2_of_fraction(distance & ((1 << kFractionBits) - 1));
  return whole > 13 ? 0 : ((power >> (whole + kWeightPlaces)) + 1) >> 1;
}

}  // namespace
}  // namespace intflash::internal
