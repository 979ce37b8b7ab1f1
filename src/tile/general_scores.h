// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The general score form: scores in f32, for what acts on the score itself (a cap) or is added to
// it (biases), then the same fixed point of weights. Keys are in natural order. Loops have
// functions of their own, where nothing seems to alias, so that they vectorize.
#pragma once

#include <cstdint>

#include "tile/score_block.h"
#include "tile/types.h"
#include "tile/widen.h"

namespace intflash {
namespace {

// Biases are cut off here, so that what is added to one stays finite.
constexpr float kMaxBias = 3e38f;

INTFLASH_INLINE float bounded_bias(float bias) {
  return -at_least(-at_least(bias, -kMaxBias), -kMaxBias);
}

[[maybe_unused]] INTFLASH_NOINLINE void scaled_elements(const float* INTFLASH_RESTRICT elements,
                                                        std::int64_t count, float factor,
                                                        float* INTFLASH_RESTRICT bias) {
  for (std::int64_t i = 0; i < count; ++i) bias[i] = bounded_bias(elements[i] * factor);
}

[[maybe_unused]] INTFLASH_NOINLINE void add_slope(std::int64_t position, std::int64_t first_key,
                                                  float slope, float* INTFLASH_RESTRICT bias) {
  const std::int64_t furthest = INT32_MAX - kScoreBlock;
  const std::int32_t ahead =
      static_cast<std::int32_t>(min_of(max_of(first_key - position, -furthest), furthest));
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    const float distance = __builtin_fabsf(static_cast<float>(ahead + key));
    bias[key] = bounded_bias(bias[key] - slope * distance);
  }
}

// A row's biases of the 128 keys from first_key on. What stands where elements has none is not
// seen.
[[maybe_unused]] void row_bias(const TileBias& tile, std::int32_t row, std::int64_t first_key,
                               float* bias) {
  const BiasRow& from = tile.rows[row];
  for (std::int32_t key = 0; key < kScoreBlock; ++key) bias[key] = 0;
  if (from.elements != nullptr && from.factor != 0.0f) {
    const std::int64_t begin = max_of(first_key, tile.begin);
    const std::int64_t count = min_of(first_key + kScoreBlock, tile.end) - begin;
    const RowSource source = {from.elements, tile.dtype, 1};
    alignas(64) float widened[kScoreBlock];
    const float* elements =
        widen_row(row_of(source, begin - tile.begin), tile.dtype, count, widened);
    scaled_elements(elements, count, from.factor, bias + (begin - first_key));
  }
  if (from.slope != 0.0f) add_slope(from.position, first_key, from.slope, bias);
}

// The rows that have a bias in block b, a bit each.
INTFLASH_INLINE std::uint32_t biased_rows(const TileTask& task, std::int32_t b) {
  return task.bias.rows != nullptr && task.keep[b] != nullptr ? task.biased[b] : 0;
}

// Whether two rows have the same biases.
INTFLASH_INLINE bool same_bias(const BiasRow& a, const BiasRow& b) {
  return a.elements == b.elements && a.factor == b.factor && a.slope == b.slope &&
         (a.slope == 0.0f || a.position == b.position);
}

// cap * tanh(score / cap), all in units of log2, by tanh z = (1 - e^-2z) / (1 + e^-2z).
INTFLASH_INLINE float capped(float score, float cap) {
  const float z = __builtin_fabsf(score) / cap;
  const float decay = exp2_of(z * -2.88539008f);
  // Near 0 the difference cancels: z - z^3 / 3 + 2 z^5 / 15 - 17 z^7 / 315 leaves 1e-9 of z there.
  const float z2 = z * z;
  float series = fused(z2, -0.053968254f, 0.13333333f);
  series = fused(series, z2, -0.33333333f);
  series = fused(series * z2, z, z);
  const float quotient = (1.0f - decay) / (1.0f + decay);
  const float bounded = cap * select_float(z < 0.125f, series, quotient);
  return __builtin_copysignf(bounded, score);
}

[[maybe_unused]] INTFLASH_NOINLINE void cap_scores(float cap, float* INTFLASH_RESTRICT scores) {
  for (std::int32_t key = 0; key < kScoreBlock; ++key) scores[key] = capped(scores[key], cap);
}

[[maybe_unused]] INTFLASH_NOINLINE void scale_products(const std::int32_t* INTFLASH_RESTRICT dots,
                                                       const float* INTFLASH_RESTRICT key_scale,
                                                       float factor, float term,
                                                       float* INTFLASH_RESTRICT scores) {
  for (std::int32_t key = 0; key < kBlockTokens; ++key)
    scores[key] = fused(static_cast<float>(dots[key]) * key_scale[key], factor, term);
}

[[maybe_unused]] INTFLASH_NOINLINE void add_to_scores(const float* INTFLASH_RESTRICT addend,
                                                      float* INTFLASH_RESTRICT scores) {
  for (std::int32_t key = 0; key < kScoreBlock; ++key) scores[key] += addend[key];
}

[[maybe_unused]] INTFLASH_NOINLINE void hide_scores(const std::int32_t* INTFLASH_RESTRICT kept,
                                                    float* INTFLASH_RESTRICT scores) {
  constexpr std::int32_t kHidden = static_cast<std::int32_t>(0xff800000u);  // -infinity
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    const std::int32_t bits = bits_as<std::int32_t>(scores[key]);
    scores[key] = bits_as<float>((bits & kept[key]) | (kHidden & ~kept[key]));
  }
}

[[maybe_unused]] INTFLASH_NOINLINE float largest_score(const float* INTFLASH_RESTRICT scores) {
  float most[kScoreBlock / 2];
  for (std::int32_t i = 0; i < 64; ++i) most[i] = max_of(scores[i], scores[64 + i]);
  for (std::int32_t i = 0; i < 32; ++i) most[i] = max_of(most[i], most[32 + i]);
  for (std::int32_t i = 0; i < 16; ++i) most[i] = max_of(most[i], most[16 + i]);
  float largest = most[0];
  for (std::int32_t i = 1; i < 16; ++i) largest = max_of(largest, most[i]);
  return largest;
}

// Distances below the maximum in 2^-9, as much as 32767, negated: what scores of the plain form are
// when their row's maximum is 0.
[[maybe_unused]] INTFLASH_NOINLINE void fixed_scores(const float* INTFLASH_RESTRICT scores,
                                                     float largest,
                                                     std::int32_t* INTFLASH_RESTRICT fixed) {
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    // at_least leaves the loop without branches: -min(distance, 32767).
    const float below = at_least((scores[key] - largest) * 512.0f, -32767.0f);
    fixed[key] = round_to_int(below);
  }
}

// What the scores of one row in one block are made of, beside its products.
struct GeneralRow {
  float factor;              // of the query: QueryTile::factor
  float term;                // added before the cap
  float cap;                 // 0 = none
  const float* bias;         // [128]; nullptr = none
  const float* value_log2;   // [128]
  const std::int32_t* kept;  // [128], 0 or -1; nullptr = all
};

// The row's folded scores [128], -infinity where a key is not kept; returns their maximum.
INTFLASH_INLINE float general_scores(const GeneralRow& row, const ScoreBlock& block,
                                     const std::int32_t* dots, float* scores) {
  for (std::int32_t half = 0; half < 2; ++half) {
    scale_products(dots + half * kBlockTokens, block.half[half].key_scale, row.factor, row.term,
                   scores + half * kBlockTokens);
  }
  if (row.cap > 0.0f) cap_scores(row.cap, scores);
  if (row.bias != nullptr) add_to_scores(row.bias, scores);
  add_to_scores(row.value_log2, scores);
  if (row.kept != nullptr) hide_scores(row.kept, scores);
  return largest_score(scores);
}

}  // namespace
}  // namespace intflash
