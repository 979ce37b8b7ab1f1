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

template <class Products>
class Weigher<NeonTiles<Products>> {
 public:
  using I16 = Neon::I16;

  // The two places between kExp2One and twice kWeightOne are added to all distances at once.
  INTFLASH_INLINE explicit Weigher(std::int32_t largest)
      : top_(Neon::broadcast16(largest + (kWeightPlaces << kFractionBits) + 1)) {}
  INTFLASH_INLINE I16 below(I16 x) const { return Neon::sub(x, top_); }
  static INTFLASH_INLINE I16 far() { return Neon::broadcast16(~32767); }

  INTFLASH_INLINE I16 operator()(I16 complement) const {
    // urshl takes its count from a lane's low byte, which does not hold all whole parts.
    complement = Neon::max_unsigned(complement, Neon::broadcast16(~(kNoWeight << kFractionBits)));
    const I16 count = Neon::shift_right<kFractionBits>(complement);
    const I16 fraction = Neon::bit_and_not(Neon::broadcast16(kFractionMask),
                                           Neon::shift_left<15 - kFractionBits>(complement));
    const I16 slope = Neon::sub(Neon::broadcast16(kExp2Linear),
                                Neon::multiply_q15(fraction, Neon::broadcast16(kExp2Square)));
    const I16 power = Neon::sub(Neon::broadcast16(kExp2One), Neon::multiply_q15(fraction, slope));
    return Neon::rounded_shift_unsigned(power, count);
  }
  static_assert(kWeightToU8 == 1 << 11);  // a sixteenth in Q15
  static INTFLASH_INLINE auto bytes(I16 low, I16 high) { return Neon::pack8_sixteenths(low, high); }

 private:
  static constexpr std::int32_t kNoWeight = 20;  // octaves that leave nothing of kExp2One
  static constexpr std::int32_t kFractionMask = 0x8000 - (1 << (15 - kFractionBits));

  I16 top_;
};

}  // namespace
}  // namespace intflash::internal
