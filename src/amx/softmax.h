// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Softmax of rows over one score block for AMX: the arithmetic of tile/online_softmax.h cut in two
// passes, so that each runs beside its own matrix product. The ports that multiply and shift are
// what limits it: vpmultishiftqb, of the shuffle port, shifts and narrows, and the powers of all
// fractions are looked up.
#pragma once

#include <cstdint>

#include "amx/simd.h"
#include "tile/attend_tile.h"

namespace intflash::internal {
namespace {

constexpr std::int32_t kKeyVectors = kScoreBlock / 32;  // of 16-bit numbers

// ---- Scores ----

// For shifts of 16 rows: where `dot >> shift` starts in each half of a 64-bit word of two dots.
// |dot| < 2^24, so from bit 24 on there is only sign.
INTFLASH_INLINE Amx::I32 shift_controls(Amx::I32 shift) {
  const Amx::I32 sign = Amx::broadcast32(24);
  const Amx::I32 low = Amx::min32(shift, sign);
  const Amx::I32 high = Amx::min32(Amx::add32(shift, Amx::broadcast32(8)), sign);
  const Amx::I32 pair = Amx::bit_or(low, Amx::shift_left32<8>(high));
  return Amx::add32(Amx::bit_or(pair, Amx::shift_left32<16>(pair)), Amx::broadcast32(0x20200000));
}

struct KeyFactors {
  Amx::I16 vector[kKeyVectors];
};
INTFLASH_INLINE KeyFactors load_factors(const std::int16_t* factors) {
  KeyFactors loaded;
  INTFLASH_UNROLL
  for (std::int32_t v = 0; v < kKeyVectors; ++v) loaded.vector[v] = Amx::load(factors + v * 32);
  return loaded;
}

struct ScoreRow {
  std::uint32_t shift;      // of shift_controls
  std::int32_t multiplier;  // in both halves
};

// What is the same for all rows of a block.
struct ScoreConstants {
  KeyFactors key_factor;
  KeyFactors value_log2;
  Amx::HighBytes high = Amx::high_bytes();

  INTFLASH_INLINE explicit ScoreConstants(const ScoreBlock& block)
      : key_factor(load_factors(block.key_factor)), value_log2(load_factors(block.value_log2)) {}
};

// Folded scores of one row, to vectors of x that lie kStride bytes apart; the result's lanes are
// maxima over some of them. dots(i): the row's dots with keys 16 i ... 16 i + 15.
template <std::int32_t kStride, class Dots>
INTFLASH_INLINE Amx::I16 score_plain_row(const ScoreRow& row, Dots dots, const ScoreConstants& c,
                                         void* x) {
  const Amx::Control shift = Amx::repeat32(row.shift);
  const Amx::I16 multiplier = Amx::broadcast32(row.multiplier);
  Amx::I16 largest;
  INTFLASH_UNROLL
  for (std::int32_t v = 0; v < kKeyVectors; ++v) {
    const Amx::I16 dot =
        Amx::narrow(shift, Amx::load(dots(2 * v)), Amx::load(dots(2 * v + 1)), c.high);
    const Amx::I16 folded = Amx::multiply_q15_add(
        c.value_log2.vector[v], Amx::multiply_q15(dot, c.key_factor.vector[v]), multiplier);
    Amx::store(static_cast<char*>(x) + v * kStride, folded);
    largest = v == 0 ? folded : Amx::max(largest, folded);
  }
  return largest;
}

// ---- Weights ----

// kWeightPlaces octaves in fixed point: what is added to a row's maximum, in both halves.
constexpr std::int32_t kOctavesAbove = (kWeightPlaces << kFractionBits) * 0x10001;

// exp2_of_fraction of all fractions.
struct Powers {
  std::int16_t of[1 << kFractionBits];
};
constexpr Powers powers_of_fractions() {
  Powers powers{};
  for (std::int32_t fraction = 0; fraction < 1 << kFractionBits; ++fraction)
    powers.of[fraction] = static_cast<std::int16_t>(exp2_of_fraction(fraction));
  return powers;
}
alignas(64) constexpr Powers kPowers = powers_of_fractions();

// P's bytes come in the order of narrowing twice; the tiles of V have them in natural order.
struct NaturalBytes {
  std::uint8_t place[64];
};
constexpr NaturalBytes natural_bytes() {
  NaturalBytes bytes{};
  for (std::int32_t key = 0; key < 64; ++key) {
    const std::int32_t place = NarrowedOrder<Amx>{}(key) % 32;
    bytes.place[key] = static_cast<std::uint8_t>(place / 4 * 8 + key / 32 * 4 + place % 4);
  }
  return bytes;
}
alignas(64) constexpr NaturalBytes kNaturalBytes = natural_bytes();
INTFLASH_INLINE Amx::I32 natural_order(Amx::I32 weights) {
  return Amx::permute_bytes(weights, Amx::load(kNaturalBytes.place));
}

// The same for the weights of all rows of a block.
struct WeighConstants {
  KeyFactors value_weight;
  Amx::I32 sums_of_none;  // -8 * value_weight, lane by lane: weights come with 8 added
  Amx::I16 powers[2] = {Amx::held(Amx::load(kPowers.of)), Amx::held(Amx::load(kPowers.of + 32))};
  // A rounded product with kWeightToU8 is (weight + 8) >> 4: eight bits from bit 4 on.
  Amx::I16 twice_eight = Amx::held(Amx::broadcast16(16));
  Amx::Control eight_bits = Amx::held(Amx::repeat32(0x34241404));
  Amx::I32 natural = Amx::held(Amx::load(kNaturalBytes.place));
  Amx::HighBytes high = Amx::high_bytes();

  INTFLASH_INLINE explicit WeighConstants(const ScoreBlock& block)
      : value_weight(load_factors(block.value_weight)), sums_of_none(Amx::zero()) {
    INTFLASH_UNROLL
    for (std::int32_t v = 0; v < kKeyVectors; ++v)
      sums_of_none =
          Amx::multiply_add_pairs(sums_of_none, value_weight.vector[v], Amx::broadcast16(-8));
  }
};
static_assert(kWeightToU8 == 1 << 11);

// P of one row from its folded scores, whose vectors lie kStride bytes apart, top being the largest
// and kOctavesAbove: keys 0 ... 63 to low, the others to high. The result's lanes add up to the sum
// of unfolded weights.
template <std::int32_t kStride>
INTFLASH_INLINE Amx::I32 weigh_plain_row(const void* x, std::int32_t top, const WeighConstants& c,
                                         std::uint8_t* low, std::uint8_t* high) {
  const Amx::I16 from = Amx::broadcast32(top);
  Amx::I32 sum = c.sums_of_none;
  INTFLASH_UNROLL
  for (std::int32_t group = 0; group < 2; ++group) {
    Amx::I16 rounded[2];
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < 2; ++i) {
      const std::int32_t v = group * 2 + i;
      const Amx::I16 distance =
          Amx::sub(from, Amx::load(static_cast<const char*>(x) + v * kStride));
      const Amx::I16 power = Amx::look_up(c.powers[0], c.powers[1], distance);
      // The average with 16 is the rounded half, and 8.
      rounded[i] = Amx::average(Amx::shift_right(power, Amx::shift_right<kFractionBits>(distance)),
                                c.twice_eight);
      sum = Amx::multiply_add_pairs(sum, rounded[i], c.value_weight.vector[v]);
    }
    const Amx::I32 narrowed = Amx::narrow(c.eight_bits, rounded[0], rounded[1], c.high);
    Amx::store(group == 0 ? low : high, Amx::permute_bytes(narrowed, c.natural));
  }
  return sum;
}

}  // namespace
}  // namespace intflash::internal
