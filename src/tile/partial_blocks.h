// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Rows that see only part of a score block: which factors they share, and one such row at a time.
#pragma once

#include <cstdint>

#include "tile/online_softmax.h"
#include "tile/score_block.h"
#include "tile/types.h"

namespace intflash::internal {
namespace {

// The largest of 128 scales >= 0 whose keys are kept, as bits.
template <class Isa>
INTFLASH_INLINE std::int32_t largest_kept(const float* low, const float* high,
                                          const std::uint64_t* keep) {
  typename Isa::I32 largest = Isa::zero();
  INTFLASH_UNROLL
  for (std::int32_t key = 0; key < kBlockTokens; key += Isa::kLanes) {
    const auto low_kept = Isa::bit_and(Isa::load_any(low + key), Isa::keep_lanes(keep[0] >> key));
    const auto high_kept = Isa::bit_and(Isa::load_any(high + key), Isa::keep_lanes(keep[1] >> key));
    largest = Isa::max32(largest, Isa::max32(low_kept, high_kept));
  }
  return Isa::max_lane32(largest);
}

// Factors of a block for rows that see only part of it. They depend on the exponents of the largest
// scales that the row sees, of which the rows of a tile have few: mostly those of the whole block.
template <class Isa>
class PartialFactors {
 public:
  // seen: keys that any of the rows sees. others [capacity] holds what differs from block; where it
  // is full, its last entry is given up.
  INTFLASH_INLINE PartialFactors(const ScoreBlock& block, const std::uint64_t* seen,
                                 ScoreBlock* others, std::int32_t capacity)
      : block_(block), others_(others), capacity_(capacity), seen_{seen[0], seen[1]} {}

  INTFLASH_INLINE const ScoreBlock& of(LargestScales largest) {
    if (serves(block_, largest)) return block_;
    for (std::int32_t i = 0; i < num_others_; ++i) {
      if (serves(others_[i], largest)) return others_[i];
    }
    if (num_others_ < capacity_) ++num_others_;
    ScoreBlock& other = others_[num_others_ - 1];
    fill<NarrowedOrder<Isa>>(block_, seen_, largest, other);
    return other;
  }

 private:
  static INTFLASH_INLINE bool serves(const ScoreBlock& factors, LargestScales largest) {
    return largest.any_value && largest.key_mantissa > 0.0f &&
           largest.key_exponent == factors.key_exponent &&
           largest.value_exponent == factors.value_exponent;
  }
  template <class Order>
  static INTFLASH_NOINLINE void fill(const ScoreBlock& block, const std::uint64_t* seen,
                                     LargestScales largest, ScoreBlock& other) {
    alignas(64) std::int32_t kept[kScoreBlock];
    alignas(64) std::int32_t key_scale[kScoreBlock];
    alignas(64) std::int32_t value_scale[kScoreBlock];
    Order::expand(seen, kept);
    const KvBlock* half = block.half;
    gather_scales(half[0].key_scale, half[1].key_scale, kept, key_scale);
    gather_scales(half[0].value_scale, half[1].value_scale, kept, value_scale);
    other.half[0] = half[0];
    other.half[1] = half[1];
    fill_factors_beside<Order>(other, kept, key_scale, value_scale, largest);
  }

  const ScoreBlock& block_;
  ScoreBlock* others_;
  std::int32_t capacity_;
  std::int32_t num_others_ = 0;
  std::uint64_t seen_[2];
};

template <class Isa>
INTFLASH_INLINE LargestScales largest_seen(const ScoreBlock& block, const std::uint64_t* keep) {
  const KvBlock* half = block.half;
  return largest_scales(largest_kept<Isa>(half[0].key_scale, half[1].key_scale, keep),
                        largest_kept<Isa>(half[0].value_scale, half[1].value_scale, keep));
}

}  // namespace
}  // namespace intflash::internal
