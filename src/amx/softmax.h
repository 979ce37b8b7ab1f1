// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Softmax of rows over one score block for AMX: the arithmetic of tile/online_softmax.h cut in two
// passes, so that each runs beside its own matrix product. Per 64 scores it takes 18 instructions
// of the multiply and shift port and 9 of the shuffle port, where the generic form takes 28 and 3:
// vpmultishiftqb shifts and narrows, and takes out fractions.
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
  const std::int16_t* value_term;
};

// Folded scores of one row, to vectors of x that lie kStride bytes apart; the result's lanes are
// maxima over some of them. dots(i): the row's dots with keys 16 i ... 16 i + 15.
template <std::int32_t kStride, class Dots>
INTFLASH_INLINE Amx::I16 score_plain_row(const ScoreRow& row, Dots dots,
                                         const KeyFactors& key_factor, Amx::HighBytes high,
                                         void* x) {
  const Amx::Control shift = Amx::repeat32(row.shift);
  const Amx::I16 multiplier = Amx::broadcast32(row.multiplier);
  Amx::I16 largest;
  INTFLASH_UNROLL
  for (std::int32_t v = 0; v < kKeyVectors; ++v) {
    const Amx::I16 dot =
        Amx::narrow(shift, Amx::load(dots(2 * v)), Amx::load(dots(2 * v + 1)), high);
    const Amx::I16 score =
        Amx::multiply_q15(Amx::multiply_q15(dot, key_factor.vector[v]), multiplier);
    const Amx::I16 folded = Amx::add(score, Amx::load(row.value_term + v * 32));
    Amx::store(static_cast<char*>(x) + v * kStride, folded);
    largest = v == 0 ? folded : Amx::max(largest, folded);
  }
  return largest;
}

// ---- Weights ----

// How a distance in units of 2^-places falls into a whole number of octaves and a fraction in Q15.
struct WeightControl {
  std::uint64_t fraction;  // where it starts in each 16-bit number
  std::uint32_t fraction_mask;
  std::uint32_t places;  // in both halves
};

constexpr WeightControl weight_control(std::int32_t places) {
  WeightControl control{};
  for (std::int32_t byte = 0; byte < 8; ++byte) {
    const std::int32_t start = byte / 2 * 16 + byte % 2 * 8;
    control.fraction |= std::uint64_t((start + places - 15) & 63) << 8 * byte;
  }
  control.places = static_cast<std::uint32_t>(places) * 0x10001u;
  control.fraction_mask = (0x8000u - (1u << (15 - places))) * 0x10001u;
  return control;
}

struct WeightControls {
  WeightControl at[kExponentBits + 1];
};
constexpr WeightControls weight_controls() {
  WeightControls controls{};
  for (std::int32_t places = 0; places <= kExponentBits; ++places)
    controls.at[places] = weight_control(places);
  return controls;
}
constexpr WeightControls kWeightControls = weight_controls();

// What is added to a row's maximum, in both halves: kWeightPlaces octaves.
INTFLASH_INLINE std::int32_t octaves_above(std::int32_t places) {
  return (kWeightPlaces * 0x10001) << places;
}

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

// What is the same for all rows of a block.
struct WeighConstants {
  KeyFactors value_weight;
  Amx::I16 square = Amx::held(Amx::broadcast16(kExp2Square));
  Amx::I16 linear = Amx::held(Amx::broadcast16(kExp2Linear));
  Amx::I16 one = Amx::held(Amx::broadcast16(kExp2One));
  // A rounded product with kWeightToU8 is (weight + 8) >> 4: eight bits from bit 4 on.
  Amx::I16 half = Amx::held(Amx::broadcast16(8));
  Amx::Control eight_bits = Amx::held(Amx::repeat32(0x34241404));
  Amx::I32 natural = Amx::held(Amx::load(kNaturalBytes.place));
  Amx::HighBytes high = Amx::high_bytes();
};
static_assert(kWeightToU8 == 1 << 11);

// P of one row from its folded scores, whose vectors lie kStride bytes apart, top being the largest
// and octaves_above: keys 0 ... 63 to low, the others to high. The result's lanes add up to the sum
// of unfolded weights.
template <std::int32_t kStride>
INTFLASH_INLINE Amx::I32 weigh_plain_row(const void* x, std::int32_t top,
                                         const WeightControl& control, const WeighConstants& c,
                                         std::uint8_t* low, std::uint8_t* high) {
  const Amx::I16 from = Amx::broadcast32(top);
  // Octaves by one shift, where vpmultishiftqb needs a mask behind it: 13 cycles a tile product,
  // against 15.
  const Amx::I16 places = Amx::repeat32(control.places);
  const Amx::Control fraction_start = Amx::repeat64(control.fraction);
  const Amx::I16 fraction_mask = Amx::repeat32(control.fraction_mask);
  Amx::I32 sum = Amx::zero();
  INTFLASH_UNROLL
  for (std::int32_t group = 0; group < 2; ++group) {
    Amx::I16 rounded[2];
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < 2; ++i) {
      const std::int32_t v = group * 2 + i;
      const Amx::I16 distance =
          Amx::sub(from, Amx::load(static_cast<const char*>(x) + v * kStride));
      const Amx::I16 whole = Amx::shift_right(distance, places);
      const Amx::I16 fraction = Amx::bit_and(Amx::bits_at(fraction_start, distance), fraction_mask);
      const Amx::I16 slope = Amx::sub(c.linear, Amx::multiply_q15(fraction, c.square));
      const Amx::I16 power = Amx::sub(c.one, Amx::multiply_q15(fraction, slope));
      const Amx::I16 weight = Amx::rounded_shift(power, whole);
      sum = Amx::multiply_add_pairs(sum, weight, c.value_weight.vector[v]);
      rounded[i] = Amx::add(weight, c.half);
    }
    const Amx::I32 narrowed = Amx::narrow(c.eight_bits, rounded[0], rounded[1], c.high);
    Amx::store(group == 0 ? low : high, Amx::permute_bytes(narrowed, c.natural));
  }
  return sum;
}

}  // namespace
}  // namespace intflash::internal
