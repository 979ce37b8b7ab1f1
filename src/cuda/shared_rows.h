// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Weights of 16 rows that two warps share, in registers as whole_block.h has them: each makes those
// of its own keys, and has the largest score, the sums and the weights of the others from the other
// warp, between barriers that the block has anyway.
#pragma once

#include <cstdint>

#include "cuda/tile_block.h"
#include "cuda/whole_block.h"

namespace intflash::internal {
namespace {

// A warp's rows, of which each side leaves a number of each kind.
template <int kDim>
class SharedRows {
 public:
  INTFLASH_DEVICE SharedRows(Lane lane, std::int32_t warp, std::int32_t side)
      : lane_(lane),
        warp_(warp),
        side_(side),
        words_(Place<kDim>::kDots + warp * Place<kDim>::kDotBytes) {}

  // Before a barrier: of the warp's keys.
  INTFLASH_DEVICE void begin(BlockProducts<kDim>& products, const ThreadScales& rows,
                             const KeyFactors& factors) {
    largest_ = score_whole_rows<kDim>(products, rows, lane_.quad, first_tile<kDim>(side_), factors);
    store(kLargest, largest_);
  }
  // Behind it, and before the next.
  INTFLASH_DEVICE void weigh(BlockProducts<kDim>& scores, const KeyFactors& factors) {
    constexpr std::int32_t kSteps = BlockProducts<kDim>::kTiles / 2;
    INTFLASH_UNROLL
    for (std::int32_t h = 0; h < 2; ++h)
      largest_.row[h] = max_of(largest_.row[h], words_.load(place(kLargest, h, 1 - side_)));
    std::uint32_t fragment[kSteps][4] = {};
    sum_ = weigh_scores<kDim>(scores, largest_, lane_.quad, first_tile<kDim>(side_), factors,
                              PowerTable(Place<kDim>::kPowers), fragment);
    INTFLASH_UNROLL
    for (std::int32_t h = 0; h < 2; ++h) sum_.row[h] = quad_sum(sum_.row[h]);
    store(kSum, sum_);
    INTFLASH_UNROLL
    for (std::int32_t step = 0; step < kSteps; ++step) {
      INTFLASH_UNROLL
      for (std::int32_t i = 0; i < 4; ++i)
        words_.store(place_of_fragment(lane_, side_ * kSteps + step, i),
                     bits_as<std::int32_t>(fragment[step][i]));
    }
  }
  // Behind that: enters the rows' state.
  INTFLASH_DEVICE ThreadWeights weights(const WholeBlock& block, const KeyFactors& factors,
                                        RowStates<kDim>& state) const {
    ThreadWeights all;
    load_fragments<kDim>(lane_, warp_, all);
    const std::int32_t halves = sum_of_halves(factors);
    INTFLASH_UNROLL
    for (std::int32_t h = 0; h < 2; ++h) {
      const std::int32_t sum = sum_.row[h] + words_.load(place(kSum, h, 1 - side_));
      enter_whole(h, largest_.row[h], sum - halves, block, all, state);
    }
    return all;
  }

 private:
  static constexpr std::int32_t kLargest = 0, kSum = 2;

  // Behind the rows' outcomes.
  INTFLASH_DEVICE std::int32_t place(std::int32_t kind, std::int32_t h, std::int32_t side) const {
    return (place_of_outcome(lane_.group + 8 * h) + 8) * 4 + kind + side;
  }
  INTFLASH_DEVICE void store(std::int32_t kind, const TwoRows& numbers) const {
    if (lane_.quad != 0) return;
    INTFLASH_UNROLL
    for (std::int32_t h = 0; h < 2; ++h) words_.store(place(kind, h, side_), numbers.row[h]);
  }

  Lane lane_;
  std::int32_t warp_, side_;
  Shared<std::int32_t> words_;
  TwoRows largest_{}, sum_{};
};

}  // namespace
}  // namespace intflash::internal
