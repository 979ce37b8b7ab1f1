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

// Where elements may be as large as f32 goes, scores are cut off here, so that differences of two
// stay numbers.
constexpr float kMaxScore = 1e38f;

// A row's mask of the 128 keys from first_key on as floats: the elements themselves where they can
// be read, else the buffer. What stands where the mask has none is not seen.
[[maybe_unused]] const float* mask_elements(const BiasRow& row, std::int64_t first_key,
                                            float* buffer) {
  const std::int64_t begin = max_of(first_key, row.begin);
  const std::int64_t count = min_of(first_key + kScoreBlock, row.end) - begin;
  const RowSource source = {row.elements, row.dtype, 1};
  const void* elements = row_of(source, begin - row.begin);
  if (count == kScoreBlock) return widen_row(elements, row.dtype, kScoreBlock, buffer);
  for (std::int32_t key = 0; key < kScoreBlock; ++key) buffer[key] = 0;
  float* there = buffer + (begin - first_key);
  const float* widened = widen_row(elements, row.dtype, count, there);
  for (std::int64_t i = 0; widened != there && i < count; ++i) there[i] = widened[i];
  return buffer;
}

// scores -= slope * |position - key|.
[[maybe_unused]] INTFLASH_NOINLINE void add_slope(std::int64_t position, std::int64_t first_key,
                                                  float slope, float* INTFLASH_RESTRICT scores) {
  const std::int64_t furthest = INT32_MAX - kScoreBlock;
  const std::int32_t ahead =
      static_cast<std::int32_t>(min_of(max_of(first_key - position, -furthest), furthest));
  for (std::int32_t key = 0; key < kScoreBlock; ++key)
    scores[key] = fused(__builtin_fabsf(static_cast<float>(ahead + key)), -slope, scores[key]);
}

// The rows that have a bias in block b, a bit each.
INTFLASH_INLINE std::uint32_t biased_rows(const TileTask& task, std::int32_t b) {
  return task.bias != nullptr && task.keep[b] != nullptr ? task.biased[b] : 0;
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

// scores[key] = products * key_scale * factor + term.
[[maybe_unused]] INTFLASH_NOINLINE void scale_products(const std::int32_t* INTFLASH_RESTRICT dots,
                                                       const KvBlock* half, float factor,
                                                       float term,
                                                       float* INTFLASH_RESTRICT scores) {
  const float* INTFLASH_RESTRICT low = half[0].key_scale;
  const float* INTFLASH_RESTRICT high = half[1].key_scale;
  for (std::int32_t key = 0; key < kBlockTokens; ++key)
    scores[key] = fused(static_cast<float>(dots[key]) * low[key], factor, term);
  for (std::int32_t key = 0; key < kBlockTokens; ++key) {
    scores[kBlockTokens + key] =
        fused(static_cast<float>(dots[kBlockTokens + key]) * high[key], factor, term);
  }
}

// scores += factor * elements.
[[maybe_unused]] INTFLASH_NOINLINE void add_elements(const float* INTFLASH_RESTRICT elements,
                                                     float factor,
                                                     float* INTFLASH_RESTRICT scores) {
  for (std::int32_t key = 0; key < kScoreBlock; ++key)
    scores[key] = fused(elements[key], factor, scores[key]);
}

[[maybe_unused]] INTFLASH_NOINLINE void bound_scores(float* INTFLASH_RESTRICT scores) {
  for (std::int32_t key = 0; key < kScoreBlock; ++key)
    scores[key] = max_of(min_of(scores[key], kMaxScore), -kMaxScore);
}

// Folds scores: plus value_log2, and -infinity where a key is not kept.
[[maybe_unused]] INTFLASH_NOINLINE void fold_scores(const float* INTFLASH_RESTRICT value_log2,
                                                    const std::int32_t* INTFLASH_RESTRICT kept,
                                                    float* INTFLASH_RESTRICT scores) {
  constexpr std::int32_t kHidden = static_cast<std::int32_t>(0xff800000u);  // -infinity
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    const std::int32_t bits = bits_as<std::int32_t>(scores[key] + value_log2[key]);
    scores[key] = bits_as<float>((bits & kept[key]) | (kHidden & ~kept[key]));
  }
}

[[maybe_unused]] INTFLASH_NOINLINE float largest_score(const float* INTFLASH_RESTRICT scores) {
  float most[kScoreBlock / 2];
  for (std::int32_t i = 0; i < 64; ++i) most[i] = max_of(scores[i], scores[64 + i]);
  for (std::int32_t i = 0; i < 32; ++i) most[i] = max_of(most[i], most[32 + i]);
  for (std::int32_t i = 0; i < 16; ++i) most[i] = max_of(most[i], most[16 + i]);
  for (std::int32_t i = 0; i < 8; ++i) most[i] = max_of(most[i], most[8 + i]);
  for (std::int32_t i = 0; i < 4; ++i) most[i] = max_of(most[i], most[4 + i]);
  return max_of(max_of(most[0], most[1]), max_of(most[2], most[3]));
}

// Distances below the maximum in 2^-9, as much as 32767, negated: what scores of the plain form are
// when their row's maximum is 0.
[[maybe_unused]] INTFLASH_NOINLINE void fixed_scores(const float* INTFLASH_RESTRICT scores,
                                                     float largest,
                                                     std::int32_t* INTFLASH_RESTRICT fixed) {
  constexpr float kRound = 12582912.0f;  // as in round_small: its last bit is 1
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    const float below = max_of((scores[key] - largest) * 512.0f, -32767.0f);
    fixed[key] = bits_as<std::int32_t>(below + kRound) - bits_as<std::int32_t>(kRound);
  }
}

// What the scores of one row in one block are made of, beside its products.
struct GeneralRow {
  float factor;              // of the query: QueryTile::factor
  float term;                // added before the cap
  float cap;                 // 0 = none
  const BiasRow* bias;       // nullptr = none
  const float* elements;     // [128], of its mask
  const float* value_log2;   // [128]
  const std::int32_t* kept;  // [128], 0 or -1
};

// The row's folded scores [128] in the block at first_key; returns their maximum.
INTFLASH_INLINE float general_scores(const GeneralRow& row, const ScoreBlock& block,
                                     std::int64_t first_key, const std::int32_t* dots,
                                     float* scores) {
  scale_products(dots, block.half, row.factor, row.term, scores);
  if (row.cap > 0.0f) cap_scores(row.cap, scores);
  if (row.bias != nullptr && row.bias->elements != nullptr && row.bias->factor != 0.0f) {
    add_elements(row.elements, row.bias->factor, scores);
    if (row.bias->dtype == Dtype::kF32) bound_scores(scores);
  }
  if (row.bias != nullptr && row.bias->slope != 0.0f)
    add_slope(row.bias->position, first_key, row.bias->slope, scores);
  fold_scores(row.value_log2, row.kept, scores);
  return largest_score(scores);
}

}  // namespace
}  // namespace intflash
