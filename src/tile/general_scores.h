// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The general score form: scores in f32, for what acts on the score itself (a cap) or is added to
// it (biases), and for what the fixed point does not hold; then the same fixed point of weights.
// Keys are in natural order. Loops have functions of their own, where nothing seems to alias, so
// that they vectorize.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tile/general_score.h"
#include "tile/score_block.h"
#include "tile/types.h"
#include "tile/widen.h"

namespace intflash::internal {
namespace {

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
  float factor;              // of the query: QueryTile::factor
  float unit;                // of its products: 2^-digit_bits where they have second digits, else 1
  float term;                // added before the cap
  float cap;                 // 0 = none
  const BiasRow* bias;       // nullptr = none
  const float* elements;     // [128], of its mask
  const std::int32_t* kept;  // [128]: all ones where a key is kept, else 0
};

// The scale of a kept key; of others 0: where no token is there may be anything, NaN too.
INTFLASH_INLINE float kept_scale(float scale, std::int32_t kept) {
  return bits_as<float>(bits_as<std::int32_t>(scale) & kept);
}

// Scores before the cap, as bits, in place of the products. From here on loops run over all keys of
// the block: none is so short that compilers unroll it in every form.
[[maybe_unused]] INTFLASH_NOINLINE void scale_products(const GeneralRow& row, const KvBlock* half,
                                                       std::int32_t* INTFLASH_RESTRICT scores) {
  const float* INTFLASH_RESTRICT low = half[0].key_scale;
  const float* INTFLASH_RESTRICT high = half[1].key_scale;
  const std::int32_t* INTFLASH_RESTRICT kept = row.kept;
  const float factor = row.factor;
  const float unit = row.unit;
  const float term = row.cap > 0.0f ? row.term : 0.0f;
  for (std::int32_t key = 0; key < kBlockTokens; ++key) {
    const float scale = kept_scale(low[key], kept[key]);
    scores[key] = bits_as<std::int32_t>(scaled_product(scores[key], unit, scale, factor, term));
  }
  for (std::int32_t key = 0; key < kBlockTokens; ++key) {
    std::int32_t& score = scores[kBlockTokens + key];
    const float scale = kept_scale(high[key], kept[kBlockTokens + key]);
    score = bits_as<std::int32_t>(scaled_product(score, unit, scale, factor, term));
  }
}

// Two loops: instructions of more keys fit the window in which they run beside each other.
[[maybe_unused]] INTFLASH_NOINLINE void cap_scores(float cap,
                                                   std::int32_t* INTFLASH_RESTRICT scores) {
  alignas(64) float ratio[kScoreBlock];
  alignas(64) float decay[kScoreBlock];
  const float inverse = 1.0f / cap;
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    ratio[key] = cap_ratio(bits_as<float>(scores[key]), cap, inverse);
    decay[key] = cap_decay(ratio[key]);
  }
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    const float score = bits_as<float>(scores[key]);
    scores[key] = bits_as<std::int32_t>(capped_score(score, cap, ratio[key], decay[key]));
  }
}

// Adds biases, and leaves -infinity where a key is not kept. The first key's position is `ahead` of
// the row's.
template <bool kElements, bool kSlope>
INTFLASH_NOINLINE void bias_scores(const BiasRow* bias, std::int32_t ahead,
                                   const float* INTFLASH_RESTRICT elements,
                                   const std::int32_t* INTFLASH_RESTRICT kept,
                                   std::int32_t* INTFLASH_RESTRICT scores) {
  const float half_factor = kElements ? 0.5f * bias->factor : 0.0f;
  const float slope = kSlope ? bias->slope : 0.0f;
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    const float score =
        biased_score<kElements, kSlope>(bits_as<float>(scores[key]), kElements ? elements[key] : 0,
                                        half_factor, slope, ahead + key);
    scores[key] = bits_as<std::int32_t>(select_float(kept[key] != 0, score, kNegativeInfinity));
  }
}

INTFLASH_INLINE void add_biases(const GeneralRow& row, std::int64_t first_key,
                                std::int32_t* scores) {
  const BiasRow* bias = row.bias;
  const bool has_elements = bias != nullptr && bias->elements != nullptr && bias->factor != 0.0f;
  const bool has_slope = bias != nullptr && bias->slope != 0.0f;
  const std::int32_t ahead = has_slope ? distance_of(first_key, bias->position) : 0;
  const auto add = has_elements ? has_slope ? bias_scores<true, true> : bias_scores<true, false>
                   : has_slope ? bias_scores<false, true>
                                : bias_scores<false, false>;
  add(bias, ahead, row.elements, row.kept, scores);
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

// The row's scores [128] in the block at first_key, as bits, in place of its products; returns
// their maximum.
INTFLASH_INLINE float general_scores(const GeneralRow& row, const ScoreBlock& block,
                                     std::int64_t first_key, std::int32_t* scores) {
  scale_products(row, block.half, scores);
  if (row.cap > 0.0f) cap_scores(row.cap, scores);
  add_biases(row, first_key, scores);
  return largest_score(scores);
}

// ---- Fixed point ----

// Distances below the maximum in fixed point, negated: what scores of the plain form are when their
// row's maximum is 0.
[[maybe_unused]] INTFLASH_NOINLINE void fixed_scores(const std::int32_t* INTFLASH_RESTRICT scores,
                                                     float largest,
                                                     std::int32_t* INTFLASH_RESTRICT fixed) {
  constexpr float kRound = 12582912.0f;  // as in round_small: its last bit is 1
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    const float below = max_of((bits_as<float>(scores[key]) - largest) / kScoreUnit, kFurthest);
    fixed[key] = bits_as<std::int32_t>(below + kRound) - bits_as<std::int32_t>(kRound);
  }
}

// Of a row whose largest score is 2^exponent, and whose folded maximum is largest below that.
INTFLASH_INLINE BlockWeight general_weight(float exponent, std::int32_t largest, float sum,
                                           std::int32_t value_exponent) {
  const float fold = exp2_of(static_cast<float>(largest) * kScoreUnit);
  return {exponent, sum * fold, fold * power_of_two(value_exponent)};
}

// ---- Faint values ----

// log2 of 2^(score - largest) * value_scale, the folded weight of each key.
[[maybe_unused]] INTFLASH_NOINLINE void fold_scales(const KvBlock* half, float largest,
                                                    const std::int32_t* INTFLASH_RESTRICT scores,
                                                    std::int32_t* INTFLASH_RESTRICT folded) {
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    const float scale = half[key / kBlockTokens].value_scale[key % kBlockTokens];
    const float log2 =
        static_cast<float>(exponent_of(scale)) + log2_of_mantissa(mantissa_of(scale));
    folded[key] = bits_as<std::int32_t>((bits_as<float>(scores[key]) - largest) + log2);
  }
}

// The row's weights where it sees a faint value: all of it in f32, to fixed scores that have their
// values folded in.
[[maybe_unused]] INTFLASH_NOINLINE BlockWeight weigh_beside_faint(const KvBlock* half,
                                                                  float largest,
                                                                  const std::int32_t* scores,
                                                                  std::int32_t* fixed) {
  alignas(64) std::int32_t folded[kScoreBlock];
  fold_scales(half, largest, scores, folded);
  const float largest_folded = largest_score(folded);
  fixed_scores(folded, largest_folded, fixed);
  float sum = 0.0f;
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    const float weight = exp2_of(bits_as<float>(scores[key]) - largest);
    sum = fused(weight, static_cast<float>(kWeightOne * kValueWeightOne), sum);
  }
  return {largest, sum, exp2_of(largest_folded)};
}

}  // namespace
}  // namespace intflash::internal
