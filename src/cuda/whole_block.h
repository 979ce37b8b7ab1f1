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

// As ScoreBlock has them.
struct alignas(8) KeyFactors {
  std::int16_t factor, value_log2, value_weight, padding;
};

// What all rows have in common.
struct WholeBlock {
  LargestScales largest;
  bool is_plain;  // no value is light or faint
};

// By all warps: each lane looks at four keys, and leaves the factors of the one of them that has
// its warp's number, where its side is the first.
INTFLASH_DEVICE WholeBlock prepare_whole_block(const LaneScales& scales, std::int32_t lane,
                                               std::int32_t warp, std::int32_t side,
                                               Shared<KeyFactors> factors) {
  LaneProducts all{};
  all.kept = (1u << kLaneKeys) - 1;
  WholeBlock block{largest_seen(scales, all), true};
  const LargestScales& largest = block.largest;
  std::int32_t least = 0, own_log2 = 0, own_scale = 0;
  for (std::int32_t i = 0; i < kLaneKeys; ++i) {
    const std::int32_t log2 =
        largest.any_value ? value_log2_of(scales.value[i], largest.value_exponent) : 0;
    least = min_of(least, log2);
    own_log2 = i == warp ? log2 : own_log2;
    own_scale = i == warp ? scales.key[i] : own_scale;
  }
  block.is_plain = !warp_any(least < kLightValueLog2);
  const float keyed = bits_as<float>(own_scale) * power_of_two(15 - largest.key_exponent);
  const std::int32_t value_log2 = min_of(max_of(own_log2, kValueLog2Min), 0);
  const KeyFactors own = {static_cast<std::int16_t>(round_to_int(min_of(keyed, 32767.0f))),
                          static_cast<std::int16_t>(value_log2),
                          static_cast<std::int16_t>(value_weight_of(value_log2)), 0};
  if (side == 0) factors.store(kLaneKeys * lane + warp, own);
  return block;
}

// The scales of a thread's rows in such a block; or that one of them is no such row.
struct ThreadScales {
  RowScale scale[2];
  bool are_plain;
};
INTFLASH_DEVICE ThreadScales scales_of_rows(Shared<TileRow> rows, Lane lane,
                                            const WholeBlock& block, std::int32_t first_key) {
  ThreadScales found{};
  found.are_plain = block.is_plain;
  INTFLASH_UNROLL
  for (std::int32_t h = 0; h < 2; ++h) {
    const TileRow row = rows.load(lane.group + 8 * h);
    found.scale[h] =
        row_scale(row.query().scale, block.largest.key_exponent, block.largest.key_mantissa);
    const bool is_whole = row.begin <= first_key && row.end >= first_key + kScoreBlock;
    const std::int32_t exponent = found.scale[h].exponent;
    // Rows behind the last have products of 0.
    found.are_plain &=
        row.is_absent() || (is_whole && is_fixed(exponent) && exponent <= row.digits_above);
  }
  return found;
}

// Numbers of a thread's rows.
struct TwoRows {
  std::int32_t row[2];
};

// Makes folded scores of a thread's products; returns the largest of its rows'. Keys of the warp's
// begin at first_key of the block.
template <int kDim>
INTFLASH_DEVICE TwoRows score_whole_rows(BlockProducts<kDim>& products, const ThreadScales& rows,
                                         std::int32_t quad, std::int32_t first_key,
                                         Shared<KeyFactors> factors) {
  std::int32_t largest[2] = {-32768, -32768};
  INTFLASH_UNROLL
  for (std::int32_t tile = 0; tile < BlockProducts<kDim>::kTiles; ++tile) {
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < kLaneKeys; ++i) {
      const KeyFactors key = factors.load(first_key + tile * 16 + kLaneKeys * quad + i);
      INTFLASH_UNROLL
      for (std::int32_t h = 0; h < 2; ++h) {
        std::int32_t& x = products.at(tile, h, i);
        const std::int32_t keyed = multiply_q15(x >> rows.scale[h].shift, key.factor);
        x = multiply_q15(keyed, rows.scale[h].multiplier) + key.value_log2;
        largest[h] = max_of(largest[h], x);
      }
    }
  }
  return {{quad_max(largest[0]), quad_max(largest[1])}};
}

// Leaves P of such scores in the thread's fragments; returns the sums of its rows' weights.
template <int kDim, std::int32_t kFragments>
INTFLASH_DEVICE TwoRows weigh_scores(BlockProducts<kDim>& scores, const TwoRows& largest,
                                     std::int32_t quad, std::int32_t first_key,
                                     Shared<KeyFactors> factors,
                                     std::uint32_t (&fragment)[kFragments][4]) {
  static_assert(kFragments == BlockProducts<kDim>::kTiles / 2);
  std::int32_t sum[2] = {};
  INTFLASH_UNROLL
  for (std::int32_t tile = 0; tile < BlockProducts<kDim>::kTiles; ++tile) {
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < kLaneKeys; ++i) {
      const std::int32_t value_weight =
          factors.load(first_key + tile * 16 + kLaneKeys * quad + i).value_weight;
      INTFLASH_UNROLL
      for (std::int32_t h = 0; h < 2; ++h) {
        const std::int32_t weight = weight_of(largest.row[h] - scores.at(tile, h, i));
        sum[h] += weight * value_weight;
        fragment[tile / 2][tile % 2 * 2 + h] |=
            static_cast<std::uint32_t>(multiply_q15(weight, kWeightToU8)) << 8 * i;
      }
    }
  }
  return {{quad_sum(sum[0]), quad_sum(sum[1])}};
}

INTFLASH_DEVICE void set_whole(const TwoRows& largest, const TwoRows& sum, const WholeBlock& block,
                               ThreadWeights& weights) {
  INTFLASH_UNROLL
  for (std::int32_t h = 0; h < 2; ++h) {
    weights.set(h,
                {static_cast<float>(largest.row[h]) * kScoreUnit, static_cast<float>(sum.row[h]),
                 power_of_two(block.largest.value_exponent)},
                true);
  }
}

// Rows of one of whose threads products are these, with all keys.
template <int kDim>
INTFLASH_DEVICE ThreadWeights weigh_whole_rows(BlockProducts<kDim>& products,
                                               const ThreadScales& rows, const WholeBlock& block,
                                               std::int32_t quad, Shared<KeyFactors> factors) {
  ThreadWeights weights{};
  const TwoRows largest = score_whole_rows<kDim>(products, rows, quad, 0, factors);
  const TwoRows sum = weigh_scores<kDim>(products, largest, quad, 0, factors, weights.fragment);
  set_whole(largest, sum, block, weights);
  return weights;
}

}  // namespace
}  // namespace intflash::internal
