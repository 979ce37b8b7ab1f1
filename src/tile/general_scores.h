// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The general score form: scores in f32, for what acts on the score itself (a cap) or is added to
// it (biases), then the same fixed point of weights. Keys are in natural order. Loops have
// functions of their own, where nothing seems to alias, so that they vectorize.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tile/score_block.h"
#include "tile/types.h"
#include "tile/widen.h"

namespace intflash::internal {
namespace {

// Where elements may be as large as f32 goes, scores are cut off here, so that differences of two
// stay numbers. Others are smaller: ScoreRange.
constexpr float kMaxScore = 1e38f;
INTFLASH_INLINE float bounded_score(float score) {
  return __builtin_copysignf(min_of(__builtin_fabsf(score), kMaxScore), score);
}

// A row's mask of the 128 keys from first_key on as floats: the elements themselves where they can
// be read, else the buffer. What stands where the mask has none is not seen.
template <class Ops>
const float* mask_elements(const BiasRow& row, std::int64_t first_key, float* buffer) {
  const std::int64_t begin = max_of(first_key, row.begin);
  const std::int64_t count = min_of(first_key + kScoreBlock, row.end) - begin;
  const RowSource source = {row.elements, row.dtype, 1};
  const void* elements = row_of(source, begin - row.begin);
  if (count == kScoreBlock && row.dtype == Dtype::kF32) return static_cast<const float*>(elements);
  std::uint16_t halves[kScoreBlock];
  if (count < kScoreBlock) {
    void* whole = row.dtype == Dtype::kF32 ? static_cast<void*>(buffer) : halves;
    const auto bytes = [&](std::int64_t keys) {
      return static_cast<std::size_t>(bytes_of(row.dtype, keys));
    };
    __builtin_memset(whole, 0, bytes(kScoreBlock));
    __builtin_memcpy(static_cast<char*>(whole) + bytes(begin - first_key), elements, bytes(count));
    elements = whole;
  }
  // A mask of bytes adds nothing: its factor is 0.
  if (row.dtype == Dtype::kF16 || row.dtype == Dtype::kBf16)
    widen_row<Ops>(elements, row.dtype, kScoreBlock, buffer);
  return buffer;
}

// The rows that have a bias in block b, a bit each.
INTFLASH_INLINE std::uint32_t biased_rows(const TileTask& task, std::int32_t b) {
  return task.bias != nullptr && task.keep[b] != nullptr ? task.biased[b] : 0;
}

// What the scores of one row in one block are made of, beside its products.
struct GeneralRow {
  float factor;             // of the query: QueryTile::factor
  float term;               // added before the cap
  float cap;                // 0 = none
  const BiasRow* bias;      // nullptr = none
  const float* elements;    // [128], of its mask
  const float* value_log2;  // [128]; -infinity where a key is not kept
};

// Scores before the cap, as bits, in place of the products. From here on loops run over all keys of
// the block: none is so short that compilers unroll it in every form.
[[maybe_unused]] INTFLASH_NOINLINE void scale_products(const GeneralRow& row, const KvBlock* half,
                                                       std::int32_t* INTFLASH_RESTRICT scores) {
  const float* INTFLASH_RESTRICT low = half[0].key_scale;
  const float* INTFLASH_RESTRICT high = half[1].key_scale;
  const float factor = row.factor;
  const float term = row.cap > 0.0f ? row.term : 0.0f;
  for (std::int32_t key = 0; key < kBlockTokens; ++key) {
    const float keyed = static_cast<float>(scores[key]) * low[key];
    scores[key] = bits_as<std::int32_t>(fused(keyed, factor, term));
  }
  for (std::int32_t key = 0; key < kBlockTokens; ++key) {
    const float keyed = static_cast<float>(scores[kBlockTokens + key]) * high[key];
    scores[kBlockTokens + key] = bits_as<std::int32_t>(fused(keyed, factor, term));
  }
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

// cap * tanh(score / cap), all in units of log2, by tanh z = (1 - e^-2z) / (1 + e^-2z). Two loops:
// instructions of more keys fit the window in which they run beside each other.
[[maybe_unused]] INTFLASH_NOINLINE void cap_scores(float cap,
                                                   std::int32_t* INTFLASH_RESTRICT scores) {
  alignas(64) float magnitude[kScoreBlock];
  alignas(64) float decay[kScoreBlock];
  const float inverse = 1.0f / cap;
  const float most = 43.0f * cap;  // there nothing is left of e^-2z beside 1
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    const float score = __builtin_fabsf(bits_as<float>(scores[key]));
    const float z = over_cap(min_of(score, most), cap, inverse);
    magnitude[key] = z;
    decay[key] = exp2_in_range(z * -2.88539008f);
  }
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    // Near 0 the difference cancels: z - z^3 / 3 + 2 z^5 / 15 - 17 z^7 / 315 leaves 1e-9 of z
    // there.
    const float z = magnitude[key];
    const float z2 = z * z;
    float series = fused(z2, -0.053968254f, 0.13333333f);
    series = fused(series, z2, -0.33333333f);
    series = fused(series * z2, z, z);
    const float quotient = (1.0f - decay[key]) / (1.0f + decay[key]);
    const float bounded = cap * select_float(z < 0.125f, series, quotient);
    scores[key] = bits_as<std::int32_t>(__builtin_copysignf(bounded, bits_as<float>(scores[key])));
  }
}

// ---- Biases ----

// Folds scores: plus biases and value_log2. The first key's position is `ahead` of the row's.
template <bool kElements, bool kSlope>
INTFLASH_NOINLINE void fold_scores(const BiasRow* bias, std::int32_t ahead,
                                   const float* INTFLASH_RESTRICT elements,
                                   const float* INTFLASH_RESTRICT value_log2,
                                   std::int32_t* INTFLASH_RESTRICT scores) {
  const float factor = kElements ? bias->factor : 0.0f;
  const float slope = kSlope ? bias->slope : 0.0f;
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    float score = bits_as<float>(scores[key]);
    if (kElements) score = bounded_score(fused(elements[key], factor, score));
    if (kSlope) score = fused(__builtin_fabsf(static_cast<float>(ahead + key)), -slope, score);
    // The score of a key that is not kept may be anything.
    const bool kept = value_log2[key] > kNegativeInfinity;
    scores[key] =
        bits_as<std::int32_t>(select_float(kept, score + value_log2[key], kNegativeInfinity));
  }
}

INTFLASH_INLINE void add_biases(const GeneralRow& row, std::int64_t first_key,
                                std::int32_t* scores) {
  const BiasRow* bias = row.bias;
  const bool has_elements = bias != nullptr && bias->elements != nullptr && bias->factor != 0.0f;
  const bool has_slope = bias != nullptr && bias->slope != 0.0f;
  const std::int64_t furthest = INT32_MAX - kScoreBlock;
  const std::int64_t distance = has_slope ? first_key - bias->position : 0;
  const std::int32_t ahead =
      static_cast<std::int32_t>(min_of(max_of(distance, -furthest), furthest));
  const auto fold = has_elements ? has_slope ? fold_scores<true, true> : fold_scores<true, false>
                    : has_slope ? fold_scores<false, true>
                                 : fold_scores<false, false>;
  fold(bias, ahead, row.elements, row.value_log2, scores);
}

[[maybe_unused]] INTFLASH_NOINLINE float largest_score(
    const std::int32_t* INTFLASH_RESTRICT scores) {
  float most[kScoreBlock / 2];
  for (std::int32_t i = 0; i < 64; ++i)
    most[i] = max_of(bits_as<float>(scores[i]), bits_as<float>(scores[64 + i]));
  for (std::int32_t i = 0; i < 32; ++i) most[i] = max_of(most[i], most[32 + i]);
  for (std::int32_t i = 0; i < 16; ++i) most[i] = max_of(most[i], most[16 + i]);
  for (std::int32_t i = 0; i < 8; ++i) most[i] = max_of(most[i], most[8 + i]);
  for (std::int32_t i = 0; i < 4; ++i) most[i] = max_of(most[i], most[4 + i]);
  return max_of(max_of(most[0], most[1]), max_of(most[2], most[3]));
}

// The row's folded scores [128] in the block at first_key, as bits, in place of its products;
// returns their maximum.
INTFLASH_INLINE float general_scores(const GeneralRow& row, const ScoreBlock& block,
                                     std::int64_t first_key, std::int32_t* scores) {
  scale_products(row, block.half, scores);
  if (row.cap > 0.0f) cap_scores(row.cap, scores);
  add_biases(row, first_key, scores);
  return largest_score(scores);
}

// ---- Fixed point ----

// Distances below the maximum in 2^-9, as much as 32767, negated: what scores of the plain form are
// when their row's maximum is 0.
[[maybe_unused]] INTFLASH_NOINLINE void fixed_scores(const std::int32_t* INTFLASH_RESTRICT scores,
                                                     float largest,
                                                     std::int32_t* INTFLASH_RESTRICT fixed) {
  constexpr float kRound = 12582912.0f;  // as in round_small: its last bit is 1
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    const float below = max_of((bits_as<float>(scores[key]) - largest) * 512.0f, -32767.0f);
    fixed[key] = bits_as<std::int32_t>(below + kRound) - bits_as<std::int32_t>(kRound);
  }
}

}  // namespace
}  // namespace intflash::internal
