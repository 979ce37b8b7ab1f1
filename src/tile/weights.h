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

// The fixed point of the general score form.
constexpr RowScale kGeneralScale = {-kExponentBits, 0, 0};

// 4080 * 2^(-distance * 2^exponent) for 0 <= distance < 2^16 and exponent <= 0, rounded.
INTFLASH_INLINE std::int32_t weight_of(std::int32_t distance, std::int32_t exponent) {
  const std::int32_t places = -exponent;
  const std::int32_t whole = distance >> places;
  const std::int32_t fraction = (distance << (15 - places)) & 0x7fff;
  const std::int32_t power =
      kExp2One - multiply_q15(fraction, kExp2Linear - multiply_q15(fraction, kExp2Square));
  return whole > 13 ? 0 : ((power >> (whole + kWeightPlaces)) + 1) >> 1;
}

}  // namespace
}  // namespace intflash::internal
