// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// weight_of on NEON vectors. Scores are held against the row's largest as the complement of their
// distance: its shift to the right is then the count that urshl takes, and clearing its bits from
// the mask leaves the fraction.
#pragma once

#include <cstdint>

#include "neon/simd.h"
#include "tile/online_softmax.h"

namespace intflash::internal {
namespace {

template <class Products>
struct NeonTiles;

template <class Products, bool kCoarse>
class Weigher<NeonTiles<Products>, kCoarse> {
 public:
  using I16 = Neon::I16;
  // urshl takes its count from a lane's low byte: with 8 places of fraction whole parts of 16-bit
  // distances fit there, with fewer they are bounded first.
  static constexpr std::int32_t kMaxFineExponent = -8;

  INTFLASH_INLINE Weigher(std::int32_t largest, std::int32_t exponent) {
    const std::int32_t fraction_bits = -exponent;
    // The two places between kExp2One and twice kWeightOne are added to all distances at once.
    top_ = Neon::broadcast16(largest + (kWeightPlaces << fraction_bits) + 1);
    to_whole_ = Neon::broadcast16(-fraction_bits);
    to_fraction_ = Neon::broadcast16(15 - fraction_bits);
    fraction_mask_ = Neon::broadcast16(0x8000 - (1 << (15 - fraction_bits)));
    bound_ = Neon::broadcast16(~(kNoWeight << fraction_bits));
  }
  INTFLASH_INLINE I16 below(I16 x) const { return Neon::sub(x, top_); }
  static INTFLASH_INLINE I16 far() { return Neon::broadcast16(~32767); }

  INTFLASH_INLINE I16 operator()(I16 complement) const {
    if (kCoarse) complement = Neon::max_unsigned(complement, bound_);
    const I16 count = Neon::shift(complement, to_whole_);
    const I16 fraction = Neon::bit_and_not(fraction_mask_, Neon::shift(complement, to_fraction_));
    const I16 slope = Neon::sub(Neon::broadcast16(kExp2Linear),
                                Neon::multiply_q15(fraction, Neon::broadcast16(kExp2Square)));
    const I16 power = Neon::sub(Neon::broadcast16(kExp2One), Neon::multiply_q15(fraction, slope));
    return Neon::rounded_shift_unsigned(power, count);
  }
  static_assert(kWeightToU8 == 1 << 11);  // a sixteenth in Q15
  static INTFLASH_INLINE auto bytes(I16 low, I16 high) { return Neon::pack8_sixteenths(low, high); }

 private:
  static constexpr std::int32_t kNoWeight = 20;  // octaves that leave nothing of kExp2One

  I16 top_;
  I16 to_whole_;
  I16 to_fraction_;
  I16 fraction_mask_;
  I16 bound_;
};

}  // namespace
}  // namespace intflash::internal
