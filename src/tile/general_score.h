// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The general form of one score, operation by operation, for loops over keys and for lanes of a
// device alike. docs/numerics.md, section 4, is the text to this code.
#pragma once

#include <cstdint>

#include "tile/float_math.h"
#include "tile/types.h"

namespace intflash::internal {
namespace {

// Before the cap. factor: of the query; unit: of the products; term: what is added before the cap.
INTFLASH_INLINE float scaled_product(std::int32_t product, float unit, float key_scale,
                                     float factor, float term) {
  const float keyed = static_cast<float>(product) * unit * key_scale;
  return fused(keyed, factor, term);
}

// ---- The cap ----

// score / cap, by 1 / cap, as a division rounds it: what one step leaves is a unit apart at most,
// and of such the next one finds the nearest (Markstein's theorem; below caps of 2^-80, where what
// is left is denormal, it may be the one beside). Division is what the loop over keys would wait
// for.
INTFLASH_INLINE float over_cap(float score, float cap, float inverse) {
  float quotient = score * inverse;
  quotient = fused(fused(-cap, quotient, score), inverse, quotient);
  return fused(fused(-cap, quotient, score), inverse, quotient);
}

// |score| / cap, as far as the cap tells.
INTFLASH_INLINE float cap_ratio(float score, float cap, float inverse) {
  const float most = 43.0f * cap;  // there nothing is left of e^-2z beside 1
  return over_cap(min_of(__builtin_fabsf(score), most), cap, inverse);
}
// e^-2z of such a ratio.
INTFLASH_INLINE float cap_decay(float ratio) { return exp2_in_range(ratio * -2.88539008f); }

// cap * tanh(score / cap), all in units of log2, by tanh z = (1 - e^-2z) / (1 + e^-2z).
INTFLASH_INLINE float capped_score(float score, float cap, float ratio, float decay) {
  // Near 0 the difference cancels: z - z^3 / 3 + 2 z^5 / 15 - 17 z^7 / 315 leaves 1e-9 of z there.
  const float z = ratio;
  const float z2 = z * z;
  float series = fused(z2, -0.053968254f, 0.13333333f);
  series = fused(series, z2, -0.33333333f);
  series = fused(series * z2, z, z);
  const float quotient = (1.0f - decay) / (1.0f + decay);
  const float bounded = cap * select_float(z < 0.125f, series, quotient);
  return __builtin_copysignf(bounded, score);
}

// ---- Biases ----

// With what is added: element * factor, and slope * |distance| taken away. Where there is a slope
// alone scores are halved as well, which rounds the least numbers of f32: elements of 0 change
// nothing.
template <bool kElements, bool kSlope>
INTFLASH_INLINE float biased_score(float score, float element, float half_factor, float slope,
                                   std::int32_t distance) {
  const float half = 0.5f * score;
  if (kElements) score = held_log2(fused(element, half_factor, half));
  if (!kElements && kSlope) score = half + half;  // what is held of it: none is beyond 2^126
  if (kSlope) score = fused(__builtin_fabsf(static_cast<float>(distance)), -slope, score);
  return score;
}

// How far a row's position is from a key, or -furthest ... furthest of them.
INTFLASH_INLINE std::int32_t distance_of(std::int64_t key, std::int64_t position) {
  const std::int64_t furthest = INT32_MAX - kScoreBlock;
  return static_cast<std::int32_t>(min_of(max_of(key - position, -furthest), furthest));
}

// ---- Fixed point ----

// So far below the largest score nothing is left of a weight, whatever value has the largest: 40
// octaves, where kValueLog2Min is 24.
constexpr float kFurthest = -40 << kFractionBits;

}  // namespace
}  // namespace intflash::internal
