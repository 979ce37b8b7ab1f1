// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Softmax of one row over one score block, in 16-bit fixed point: exact products in, P in u8 and
// the sum of weights out. The vector form of plain_scores and quantize_weights in
// src/scalar/port.cpp, where each step is spelled out.
#pragma once

#include <cstdint>

#include "tile/general_scores.h"
#include "tile/score_block.h"
#include "tile/weights.h"

namespace intflash::internal {
namespace {

// Narrowing two vectors of int32 interleaves their groups of four; narrowing again keeps every
// aligned four keys together. Keys are held in that order from the scores on: 16-bit arrays are
// stored in it, and P V reads P's quads where they then lie.
template <class Isa>
struct NarrowedOrder {
  INTFLASH_INLINE constexpr std::int32_t operator()(std::int32_t key) const {
    const std::int32_t pair = key / (2 * Isa::kLanes);
    const std::int32_t vector = key / Isa::kLanes % 2;
    const std::int32_t lane = key % Isa::kLanes;
    return pair * 2 * Isa::kLanes + lane / 4 * 8 + vector * 4 + lane % 4;
  }
  static INTFLASH_INLINE void expand(const std::uint64_t* keep, std::int32_t* kept) {
    for (std::int32_t i = 0; i < kScoreBlock; i += Isa::kLanes) {
      Isa::store(kept + i, Isa::keep_lanes(keep[i / kBlockTokens] >> (i % kBlockTokens)));
    }
  }
  static INTFLASH_INLINE void narrow(const std::int32_t* from, std::int16_t* to) {
    for (std::int32_t i = 0; i < kScoreBlock; i += 2 * Isa::kLanes) {
      Isa::store(to + i, Isa::pack16(Isa::load(from + i), Isa::load(from + i + Isa::kLanes)));
    }
  }
};

// x of each key; the result's lanes are maxima over some keys each.
template <class Isa, bool kMasked>
INTFLASH_INLINE typename Isa::I16 score_lanes(const std::int32_t* dots, const ScoreBlock& block,
                                              std::int32_t shift, std::int32_t multiplier,
                                              const std::uint64_t* keep, std::int16_t* x) {
  using I16 = typename Isa::I16;
  constexpr std::int32_t kStep = 2 * Isa::kLanes;
  const typename Isa::I32 row_shift = Isa::broadcast32(shift);
  const I16 row_factor = Isa::broadcast16(multiplier);
  I16 largest = Isa::broadcast16(-32768);
  INTFLASH_UNROLL
  for (std::int32_t i = 0; i < kScoreBlock; i += kStep) {
    const I16 dot = Isa::pack16(Isa::shift_right32(Isa::load(dots + i), row_shift),
                                Isa::shift_right32(Isa::load(dots + i + Isa::kLanes), row_shift));
    I16 folded =
        Isa::multiply_q15_add(Isa::load(block.value_log2 + i),
                              Isa::multiply_q15(dot, Isa::load(block.key_factor + i)), row_factor);
    if (kMasked) folded = Isa::select(Isa::keep_words(keep, i), folded, Isa::broadcast16(-32768));
    Isa::store(x + i, folded);
    largest = Isa::max(largest, folded);
  }
  return largest;
}

// weight_of on vectors, for one row. An instruction set with a shorter way specialises it.
template <class Isa>
class Weigher {
 public:
  using I16 = typename Isa::I16;

  // The two places between kExp2One and twice kWeightOne are added to all distances at once.
  INTFLASH_INLINE explicit Weigher(std::int32_t largest)
      : top_(Isa::broadcast16(largest + (kWeightPlaces << kFractionBits))) {}
  // How far below the row's largest score these are, as operator() takes it; far: beyond any
  // weight.
  INTFLASH_INLINE I16 below(I16 x) const { return Isa::sub(top_, x); }
  static INTFLASH_INLINE I16 far() { return Isa::broadcast16(32767); }

  INTFLASH_INLINE I16 operator()(I16 distance) const {
    const I16 whole = Isa::template shift_right<kFractionBits>(distance);
    const I16 fraction = Isa::bit_and(Isa::template shift_left<15 - kFractionBits>(distance),
                                      Isa::broadcast16(0x7fff));
    const auto slope = Isa::sub(Isa::broadcast16(kExp2Linear),
                                Isa::multiply_q15(fraction, Isa::broadcast16(kExp2Square)));
    const auto power = Isa::sub(Isa::broadcast16(kExp2One), Isa::multiply_q15(fraction, slope));
    return Isa::rounded_shift(power, whole);
  }
  // P of two vectors of weights.
  static INTFLASH_INLINE auto bytes(I16 low, I16 high) {
    const I16 to_u8 = Isa::broadcast16(kWeightToU8);
    return Isa::pack8(Isa::multiply_q15(low, to_u8), Isa::multiply_q15(high, to_u8));
  }

 private:
  I16 top_;
};

// P of each key; the result's lanes add up to the sum of unfolded weights.
template <class Isa, bool kMasked>
INTFLASH_INLINE typename Isa::I32 weigh_lanes(const std::int16_t* x, std::int32_t largest,
                                              const ScoreBlock& block, const std::uint64_t* keep,
                                              std::uint8_t* weights) {
  using I16 = typename Isa::I16;
  const Weigher<Isa> weigh(largest);
  typename Isa::I32 sum[2] = {Isa::zero(), Isa::zero()};
  INTFLASH_UNROLL
  for (std::int32_t i = 0; i < kScoreBlock; i += 4 * Isa::kLanes) {
    I16 weight[2];
    INTFLASH_UNROLL
    for (std::int32_t half = 0; half < 2; ++half) {
      const std::int32_t at = i + half * 2 * Isa::kLanes;
      I16 below = weigh.below(Isa::load(x + at));
      if (kMasked) below = Isa::select(Isa::keep_words(keep, at), below, weigh.far());
      weight[half] = weigh(below);
      sum[half] =
          Isa::multiply_add_pairs(sum[half], weight[half], Isa::load(block.value_weight + at));
    }
    Isa::store(weights + i, weigh.bytes(weight[0], weight[1]));
  }
  return Isa::add32(sum[0], sum[1]);
}

// P of each key in f32, in the order of keys.
template <class Isa, bool kMasked>
INTFLASH_INLINE void weights_in_f32(const std::int16_t* x, std::int32_t largest,
                                    const std::uint64_t* keep, float* INTFLASH_RESTRICT weights) {
  alignas(64) std::int16_t narrowed[kScoreBlock];
  const Weigher<Isa> weigh(largest);
  for (std::int32_t i = 0; i < kScoreBlock; i += 2 * Isa::kLanes) {
    typename Isa::I16 below = weigh.below(Isa::load(x + i));
    if (kMasked) below = Isa::select(Isa::keep_words(keep, i), below, weigh.far());
    Isa::store(narrowed + i, weigh(below));
  }
  for (std::int32_t key = 0; key < kScoreBlock; key += 4) {
    const std::int16_t* four = narrowed + NarrowedOrder<Isa>{}(key);
    for (std::int32_t i = 0; i < 4; ++i)
      weights[key + i] = static_cast<float>(four[i]) * kWeightToP;
  }
}

// The largest lane, or the sum of the lanes, of each row's vector. Lanes beyond the rows may be
// read and written, up to a multiple of 16 rows.
template <class Isa>
INTFLASH_INLINE void max_of_rows(const typename Isa::I16* lanes, std::int32_t rows,
                                 std::int32_t* largest) {
  if constexpr (requires { Isa::max_lanes_of_16(lanes, largest); }) {
    for (std::int32_t r = 0; r < rows; r += 16) Isa::max_lanes_of_16(lanes + r, largest + r);
  } else {
    for (std::int32_t r = 0; r < rows; ++r) largest[r] = Isa::max_lane(lanes[r]);
  }
}
template <class Isa>
INTFLASH_INLINE void sum_of_rows(const typename Isa::I32* lanes, std::int32_t rows,
                                 std::int32_t* sum) {
  if constexpr (requires { Isa::sum_lanes_of_16(lanes, sum); }) {
    for (std::int32_t r = 0; r < rows; r += 16) Isa::sum_lanes_of_16(lanes + r, sum + r);
  } else {
    for (std::int32_t r = 0; r < rows; ++r) sum[r] = Isa::sum_lanes(lanes[r]);
  }
}

// Adds the light keys of a row's block to its sum; their scores are looked up in x.
template <class Isa>
INTFLASH_NOINLINE float add_light_keys_of_row(float sum, std::int32_t largest,
                                              const ScoreBlock& block, const std::uint64_t* keep,
                                              const std::int16_t* x) {
  return add_light_keys(sum, largest, block, keep, x, NarrowedOrder<Isa>{});
}

struct GeneralScratch {
  alignas(64) std::int32_t fixed[kScoreBlock];
  // Kept of the row before, since the next one often shares it.
  alignas(64) std::int32_t kept[kScoreBlock];
  alignas(64) float elements[kScoreBlock];
};

// Folds the values of a block into x; the result's lanes are maxima over some keys each.
template <class Isa>
INTFLASH_INLINE typename Isa::I16 fold_values(const ScoreBlock& block, std::int16_t* x) {
  typename Isa::I16 largest = Isa::broadcast16(-32768);
  INTFLASH_UNROLL
  for (std::int32_t i = 0; i < kScoreBlock; i += 2 * Isa::kLanes) {
    const auto folded = Isa::add(Isa::load(x + i), Isa::load(block.value_log2 + i));
    Isa::store(x + i, folded);
    largest = Isa::max(largest, folded);
  }
  return largest;
}

}  // namespace
}  // namespace intflash::internal
