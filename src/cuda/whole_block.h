// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Weights of a warp's 16 rows in the registers that hold their products: where all of them see the
// whole block, have their scores in fixed point and take no second digits, and no value is light or
// faint. The keys' factors are then the same for all rows, and made once, a key to a thread.
#pragma once

#include <cstdint>

#include "cuda/tile_block.h"
#include "cuda/tile_rows.h"
#include "cuda/weights.h"

namespace intflash::internal {
namespace {

// What all rows have in common.
struct WholeBlock {
  LargestScales largest;
  bool is_plain;  // no value is light or faint
};

// By all warps: each lane looks at four keys, and leaves the factors of the one of them that has
// its warp's number, whose scales are own, where its side is the first.
INTFLASH_DEVICE WholeBlock prepare_whole_block(const LaneScales& scales, const OneScale& own,
                                               std::int32_t lane, std::int32_t warp,
                                               std::int32_t side, const KeyFactors& factors) {
  LaneProducts all{};
  all.kept = (1u << kLaneKeys) - 1;
  WholeBlock block{largest_seen(scales, all), true};
  const LargestScales& largest = block.largest;
  // By exponents alone: values of 2^-4, which are not light yet, are taken for such.
  constexpr std::int32_t kLightExponent = kLightValueLog2 >> kFractionBits;
  std::int32_t least = scales.value[0];
  for (std::int32_t i = 1; i < kLaneKeys; ++i) least = min_of(least, scales.value[i]);
  block.is_plain = !warp_any(largest.any_value && exponent_of(bits_as<float>(least)) <=
                                                      largest.value_exponent + kLightExponent);
  const std::int32_t own_log2 =
      largest.any_value ? value_log2_of(own.value, largest.value_exponent) : 0;
  const float keyed = bits_as<float>(own.key) * power_of_two(15 - largest.key_exponent);
  const std::int32_t value_log2 = min_of(max_of(own_log2, kValueLog2Min), 0);
  const std::int32_t value_weight = value_weight_of(value_log2);
  const std::int32_t sum = warp_sum(value_weight);
  if (side == 0) {
    factors.store(kLaneKeys * lane + warp, round_to_int(min_of(keyed, 32767.0f)), value_log2,
                  value_weight);
    if (lane == 0) factors.store_sum(warp, sum);
  }
  return block;
}

// The scales of a thread's rows in such a block; or that one of them is no such row.
struct ThreadScales {
  RowScale scale[2];
  bool are_plain;
};
template <int kDim>
INTFLASH_DEVICE ThreadScales scales_of_rows(const TileRows<kDim>& rows, Lane lane,
                                            const WholeBlock& block, std::int32_t first_key) {
  ThreadScales found{};
  found.are_plain = block.is_plain;
  INTFLASH_UNROLL
  for (std::int32_t h = 0; h < 2; ++h) {
    const TileRow row = rows.load(lane.group + 8 * h);
    found.scale[h] =
        row_scale(row.query.scale, block.largest.key_exponent, block.largest.key_mantissa);
    const bool is_whole = row.begin <= first_key && row.end >= first_key + kScoreBlock;
    const std::int32_t exponent = found.scale[h].exponent;
    // Rows behind the last have products of 0.
    found.are_plain &=
        row.is_absent() || (is_whole && is_fixed(exponent) && exponent <= row.query.digits_above);
  }
  return found;
}

// A weight of weight_of, plus half a step of P, in units of 2^-20: P is the highest byte.
// doubled: twice the distance; its lowest bit says nothing.
constexpr std::int32_t kWeightBits = 20;
constexpr std::uint32_t kHalfP = 1u << (23 - kWeightBits);  // of a weight
INTFLASH_DEVICE std::uint32_t fine_weight(std::uint32_t doubled, const PowerTable& powers) {
  static_assert(kWeightToU8 == 1 << (15 - 4) && kWeightBits + 4 == 24);
  constexpr std::uint32_t kOne = 1u << (kWeightBits - kWeightPlaces - 1);
  constexpr std::uint32_t kRounding = (1u << (kWeightBits - 1)) + (kHalfP << kWeightBits);
  const std::uint32_t fraction = doubled >> 1 & ((1u << kFractionBits) - 1);
  return powers.load(fraction) * shift_right(kOne, doubled >> (kFractionBits + 1)) + kRounding;
}

// Numbers of a thread's rows.
struct TwoRows {
  std::int32_t row[2];
};

// Makes scores of a thread's products; returns the largest of its rows'. The warp's keys begin with
// such a tile of the block. In place of a score x stands ~(x * 2^15 + a fraction), as the sum that
// it is shifted from has it: negative, so that shifting and adding once makes distances of it.
template <int kDim>
INTFLASH_DEVICE TwoRows score_whole_rows(BlockProducts<kDim>& products, const ThreadScales& rows,
                                         std::int32_t quad, std::int32_t first_tile,
                                         const KeyFactors& factors) {
  std::int32_t least[2] = {0x7fffffff, 0x7fffffff};
  const std::int32_t multiplier[2] = {made_once(-rows.scale[0].multiplier),
                                      made_once(-rows.scale[1].multiplier)};
  INTFLASH_UNROLL
  for (std::int32_t tile = 0; tile < BlockProducts<kDim>::kTiles; ++tile) {
    const FourKeys factor = factors.factors((first_tile + tile) * 4 + quad);
    const FourKeys addend = factors.addends((first_tile + tile) * 4 + quad);
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < kLaneKeys; ++i) {
      INTFLASH_UNROLL
      for (std::int32_t h = 0; h < 2; ++h) {
        std::int32_t& x = products.at(tile, h, i);
        const std::int32_t keyed = multiply_q15(x >> rows.scale[h].shift, factor.of[i]);
        x = keyed * multiplier[h] + addend.of[i];
        least[h] = min_of(least[h], x);
      }
    }
  }
  return {{quad_max(~least[0]) >> 15, quad_max(~least[1]) >> 15}};
}

// Leaves P of such scores in the thread's fragments; returns its part of the sums of its rows'
// weights, each with half a step of P.
template <int kDim, std::int32_t kFragments>
INTFLASH_DEVICE TwoRows weigh_scores(BlockProducts<kDim>& scores, const TwoRows& largest,
                                     std::int32_t quad, std::int32_t first_tile,
                                     const KeyFactors& factors, const PowerTable& powers,
                                     std::uint32_t (&fragment)[kFragments][4]) {
  static_assert(kFragments == BlockProducts<kDim>::kTiles / 2);
  const std::int32_t above[2] = {made_once(2 * (largest.row[0] + 1)),
                                 made_once(2 * (largest.row[1] + 1))};
  std::uint32_t sum_low[2] = {}, sum_high[2] = {};
  FourKeys value_weights{};
  INTFLASH_UNROLL
  for (std::int32_t tile = 0; tile < BlockProducts<kDim>::kTiles; ++tile) {
    if (tile % 2 == 0) value_weights = factors.value_weights((first_tile + tile) / 2 * 4 + quad);
    INTFLASH_UNROLL
    for (std::int32_t h = 0; h < 2; ++h) {
      std::uint32_t pair[2];
      INTFLASH_UNROLL
      for (std::int32_t p = 0; p < 2; ++p) {
        std::uint32_t fine[2];
        INTFLASH_UNROLL
        for (std::int32_t i = 0; i < 2; ++i) {
          const std::int32_t x = scores.at(tile, h, 2 * p + i);
          fine[i] = fine_weight(static_cast<std::uint32_t>((x >> 14) + above[h]), powers);
        }
        // The upper halves: 12 bits of a weight and four of its fraction, to a key.
        pair[p] = pick_bytes(fine[0], fine[1], 0x7632);
        const std::uint32_t whole = pair[p] & 0xfff0fff0;
        const auto bytes = static_cast<std::uint32_t>(value_weights.of[tile % 2 * 2 + p]);
        sum_low[h] = add_low_products(sum_low[h], whole, bytes);
        sum_high[h] = add_high_products(sum_high[h], whole, bytes);
      }
      fragment[tile / 2][tile % 2 * 2 + h] = pick_bytes(pair[0], pair[1], 0x7531);
    }
  }
  // Of weights times 16, by low bytes and by high bytes.
  return {{static_cast<std::int32_t>((sum_low[0] >> 4) + (sum_high[0] << 4)),
           static_cast<std::int32_t>((sum_low[1] >> 4) + (sum_high[1] << 4))}};
}

// What the halves of a step of P are in a row's sum.
INTFLASH_DEVICE std::int32_t sum_of_halves(const KeyFactors& factors) {
  return factors.sum_of_value_weights() * static_cast<std::int32_t>(kHalfP);
}
// What the block comes to for a row, which enters its state.
template <int kDim>
INTFLASH_DEVICE void enter_whole(std::int32_t h, std::int32_t largest, std::int32_t sum,
                                 const WholeBlock& block, ThreadWeights& weights,
                                 RowStates<kDim>& state) {
  const BlockWeight weight = {static_cast<float>(largest) * kScoreUnit, static_cast<float>(sum),
                              power_of_two(block.largest.value_exponent)};
  weights.factor[h] = 1.0f;
  weights.gain[h] = state.enter(h, weight, weights.factor[h]);
}

// Rows of one of whose threads products are these, with all keys.
template <int kDim>
INTFLASH_DEVICE ThreadWeights weigh_whole_rows(BlockProducts<kDim>& products,
                                               const ThreadScales& rows, const WholeBlock& block,
                                               std::int32_t quad, const KeyFactors& factors,
                                               const PowerTable& powers, RowStates<kDim>& state) {
  ThreadWeights weights{};
  const TwoRows largest = score_whole_rows<kDim>(products, rows, quad, 0, factors);
  const TwoRows sums =
      weigh_scores<kDim>(products, largest, quad, 0, factors, powers, weights.fragment);
  const std::int32_t halves = sum_of_halves(factors);
  INTFLASH_UNROLL
  for (std::int32_t h = 0; h < 2; ++h)
    enter_whole(h, largest.row[h], quad_sum(sums.row[h]) - halves, block, weights, state);
  return weights;
}

}  // namespace
}  // namespace intflash::internal
