// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The general score form: scores in f32, for what acts on the score itself (a cap), then the same
// fixed point of weights.
#pragma once

#include <cstdint>

#include "tile/score_block.h"
#include "tile/types.h"

namespace intflash {
namespace {

// cap * tanh(score / cap), all in units of log2, by tanh z = (1 - e^-2z) / (1 + e^-2z).
INTFLASH_INLINE float capped(float score, float cap) {
  const float z = __builtin_fabsf(score) / cap;
  const float decay = exp2_of(max_of(z * -2.88539008f, -127.0f));
  // Near 0 the difference cancels: z - z^3 / 3 + 2 z^5 / 15 - 17 z^7 / 315 leaves 1e-9 of z there.
  const float z2 = z * z;
  float series = fused(z2, -0.053968254f, 0.13333333f);
  series = fused(series, z2, -0.33333333f);
  series = fused(series * z2, z, z);
  const float bounded = cap * (z < 0.125f ? series : (1.0f - decay) / (1.0f + decay));
  return __builtin_copysignf(bounded, score);
}

// The row's folded scores [128] in f32 in natural order, -infinity where a key is not kept; returns
// their maximum.
INTFLASH_INLINE float capped_scores(const QueryTile& query, std::int32_t row,
                                    const ScoreBlock& block, const std::int32_t* dots,
                                    const std::uint64_t* keep, const std::int16_t* value_log2,
                                    float cap, float* INTFLASH_RESTRICT scores) {
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    const float scale = block.half[key / kBlockTokens].key_scale[key % kBlockTokens];
    const float score =
        fused(static_cast<float>(dots[key]) * scale, query.factor[row], query.score_term[row]);
    scores[key] = capped(score, cap) + static_cast<float>(value_log2[key]) * 0x1p-9f;
  }
  float largest = kNegativeInfinity;
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    if (keep != nullptr && !key_is_kept(keep, key)) scores[key] = kNegativeInfinity;
    largest = max_of(largest, scores[key]);
  }
  return largest;
}

// Distance below the maximum in 2^-9, as much as 32767: what a score of the plain form is when its
// row's maximum is 0.
INTFLASH_INLINE std::int16_t fixed_score(float score, float largest) {
  return static_cast<std::int16_t>(-round_to_int(min_of((largest - score) * 512.0f, 32767.0f)));
}

}  // namespace
}  // namespace intflash
