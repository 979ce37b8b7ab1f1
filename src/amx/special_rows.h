// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Rows of a block that is masked, capped, coarse or has light keys, one by one in the generic form.
#pragma once

#include <cstdint>

#include "amx/rows.h"
#include "amx/softmax.h"
#include "tile/attend_tile.h"

namespace intflash {
namespace {

class SpecialRows {
 public:
  // keep [rows of the tile][2]; nullptr: all keys are seen.
  INTFLASH_INLINE SpecialRows(const TileTask& task, const AttentionState& state,
                              const ScoreBlock& block, const std::uint64_t* keep,
                              AmxScratch& scratch)
      : task_(task),
        state_(state),
        block_(block),
        keep_(keep),
        scratch_(scratch),
        partial_(block, Seen(keep, task.query->rows).keys, &scratch.row_block, 1) {}

  // Leaves the row's P and gain, and takes the block into its state. low and high: its products
  // with keys 0 ... 63 and 64 ... 127.
  INTFLASH_INLINE void weigh(std::int32_t row, const std::int32_t* low, const std::int32_t* high) {
    const std::uint64_t* keep = keep_ == nullptr ? nullptr : keep_ + 2 * row;
    std::uint8_t* weights = scratch_.weights[row];
    if (keep != nullptr && (keep[0] | keep[1]) == 0) {
      // What the row then adds is -0, which changes no accumulator, not even one of -0.
      for (std::int32_t at = 0; at < kScoreBlock; at += 64) Amx::store(weights + at, Amx::zero());
      scratch_.gain[row] = -0.0f;
      return;
    }
    for (std::int32_t at = 0; at < 64; at += 16) {
      Amx::store(scratch_.dots + at, Amx::load(low + at));
      Amx::store(scratch_.dots + 64 + at, Amx::load(high + at));
    }
    std::int32_t value_exponent = block_.value_exponent;
    const BlockWeight weight = keep == nullptr && !(task_.score_cap > 0.0f)
                                   ? weigh_whole(row, weights)
                                   : weigh_part(row, keep, weights, value_exponent);
    order_weights(weights);
    keep_in_reach(state_, row, task_.head_dim_v, weight.exponent);
    const float alpha = exp2_of(weight.exponent - state_.reference[row]);
    state_.row_sum[row] = fused(weight.sum, alpha, state_.row_sum[row]);
    scratch_.gain[row] = alpha * power_of_two(value_exponent);
  }

 private:
  // Keys that any row sees.
  struct Seen {
    std::uint64_t keys[2] = {};
    INTFLASH_INLINE Seen(const std::uint64_t* keep, std::int32_t rows) {
      for (std::int32_t r = 0; keep != nullptr && r < rows; ++r) {
        keys[0] |= keep[2 * r];
        keys[1] |= keep[2 * r + 1];
      }
    }
  };

  INTFLASH_INLINE BlockWeight weigh_whole(std::int32_t row, std::uint8_t* weights) {
    const QueryTile& query = scratch_.query;
    const RowScale scale = row_scale(query, row, block_.key_exponent, block_.key_mantissa);
    std::int16_t* x = scratch_.softmax.x;
    const std::int32_t largest =
        score_row<Amx, false>(scratch_.dots, block_, scale, query.multiplier[row], nullptr, x);
    const std::int32_t sum = weigh_row<Amx, false>(x, largest, scale, block_, nullptr, weights);
    return block_weight<Amx>(largest, sum, scale, block_, nullptr, x);
  }

  INTFLASH_INLINE BlockWeight weigh_part(std::int32_t row, const std::uint64_t* keep,
                                         std::uint8_t* weights, std::int32_t& value_exponent) {
    LargestScales largest{};
    const ScoreBlock* factors = &block_;
    if (keep != nullptr) {
      const KvBlock* half = block_.half;
      largest = largest_scales(largest_kept<Amx>(half[0].key_scale, half[1].key_scale, keep),
                               largest_kept<Amx>(half[0].value_scale, half[1].value_scale, keep));
      factors = &partial_.of(largest);
    }
    value_exponent = factors->value_exponent;
    return weigh_special_row<Amx>(task_, row, *factors, largest, scratch_.dots, keep,
                                  scratch_.softmax, weights);
  }

  // P in narrowed order to P in natural order.
  static INTFLASH_INLINE void order_weights(std::uint8_t* weights) {
    for (std::int32_t group = 0; group < kScoreBlock; group += 64) {
      Amx::store(weights + group,
                 Amx::permute_bytes(Amx::load(weights + group), Amx::load(kNaturalBytes.place)));
    }
  }

  const TileTask& task_;
  const AttentionState& state_;
  const ScoreBlock& block_;
  const std::uint64_t* keep_;
  AmxScratch& scratch_;
  PartialFactors<Amx> partial_;
};

}  // namespace
}  // namespace intflash
