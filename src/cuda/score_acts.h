// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What acts on a tile's scores beside products: a cap, slopes, and masks that are data, of a row
// and a lane's keys at a time. A kernel for rules alone knows nothing of it.
#pragma once

#include <cstdint>

#include "cuda/row_mask.h"
#include "cuda/simt.h"
#include "cuda/tile_rows.h"
#include "cuda/weights.h"
#include "tile/general_score.h"

namespace intflash::internal {
namespace {

// On a row's scores of a lane's keys. src/tile/general_scores.h has the same, loop by loop.
struct ScoreActs {
  float cap, center_term;
  bool is_biased, has_elements;  // in this block; by elements too
  float half_factor, slope;
  std::int32_t distance;  // of the first key
  float element[kLaneKeys];

  INTFLASH_DEVICE bool are_any() const { return cap > 0.0f || is_biased; }
  INTFLASH_DEVICE float term() const { return center_term; }
  INTFLASH_DEVICE float on(float score, std::int32_t i) const {
    if (cap > 0.0f) {
      const float ratio = cap_ratio(score, cap, 1.0f / cap);
      score = capped_score(score, cap, ratio, cap_decay(ratio));
    }
    if (!is_biased) return score;
    const std::int32_t from = distance + i;
    if (!has_elements) return biased_score<false, true>(score, 0.0f, half_factor, slope, from);
    return slope == 0.0f ? biased_score<true, false>(score, element[i], half_factor, slope, from)
                         : biased_score<true, true>(score, element[i], half_factor, slope, from);
  }
};

// Takes from a lane's keys, a bit each, what the row's masks hide; by all lanes.
INTFLASH_DEVICE ScoreActs mask_acts(const RowMask& mask, std::int64_t first_key,
                                    std::uint32_t& kept) {
  ScoreActs acts{};
  bool is_nonzero = false;
  for (std::int32_t i = 0; i < kLaneKeys; ++i) {
    if ((kept >> i & 1) == 0) continue;
    const MaskElement element = mask.at(first_key + i);
    acts.element[i] = element.x;
    is_nonzero |= !element.hides && element.x != 0.0f;
    kept &= ~((element.hides ? 1u : 0u) << i);
  }
  is_nonzero = warp_any(is_nonzero);
  acts.has_elements = mask.elements != nullptr && mask.factor != 0.0f;
  acts.is_biased =
      warp_any(kept != 0) && (mask.slope != 0.0f || (is_nonzero && mask.factor != 0.0f));
  acts.half_factor = 0.5f * mask.factor;
  acts.slope = mask.slope;
  acts.distance = distance_of(first_key, mask.position);
  return acts;
}

// Of a warp's rows, where requests have rules alone.
struct RuleMasks {
  INTFLASH_DEVICE NoActs acts_of(std::int32_t, std::int32_t, std::uint32_t&) const { return {}; }
};

// The same where they have more.
struct DataMasks {
  const CudaCall& call;
  const TileThread& at;

  // Of row r of the warp's and a lane's keys, of which those are taken from `kept` that masks hide.
  INTFLASH_DEVICE ScoreActs acts_of(std::int32_t r, std::int32_t first_key,
                                    std::uint32_t& kept) const {
    const std::int32_t row = at.first_row + r;
    ScoreActs acts = mask_acts(row_mask(call, *at.request, at.kv_head, row), first_key, kept);
    acts.cap = call.score_cap;
    const bool has_term = acts.cap > 0.0f && call.center_score != nullptr && row <= at.last_row;
    constexpr double kLog2E = 1.44269504088896340736;
    if (has_term)
      acts.center_term = static_cast<float>(
          call.center_score[query_index(call, *at.request, at.kv_head, row)] * kLog2E);
    return acts;
  }

  // Whether nothing acts on the scores of a block which all rows see, and all keys are left.
  INTFLASH_DEVICE bool leave_whole(std::int32_t block_key) const {
    if (call.score_cap > 0.0f || call.alibi_slopes != nullptr) return false;
    const CudaMask& masks = at.request->mask;
    const bool has_bits = masks.bits != nullptr && masks.bits_begin < block_key + kScoreBlock;
    if (masks.elements == nullptr && !has_bits) return true;
    constexpr std::uint32_t kAll = (1u << kLaneKeys) - 1;
    for (std::int32_t row = at.first_row; row < at.first_row + kWarpRows; ++row) {
      if (row > at.last_row) return true;
      std::uint32_t kept = kAll;
      const ScoreActs acts = mask_acts(row_mask(call, *at.request, at.kv_head, row),
                                       block_key + kLaneKeys * at.lane.index, kept);
      if (warp_any(kept != kAll) || acts.is_biased) return false;
    }
    return true;
  }
};

template <bool kActs>
INTFLASH_DEVICE auto masks_of(const CudaCall& call, const TileThread& at) {
  if constexpr (kActs) {
    return DataMasks{call, at};
  } else {
    return RuleMasks{};
  }
}

}  // namespace
}  // namespace intflash::internal
