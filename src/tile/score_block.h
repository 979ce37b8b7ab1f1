// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The fixed point of scores: factors of a score block's keys, and what each query row makes of
// them. docs/numerics.md, section "Scores", is the text to this code.
#pragma once

#include <cstdint>

#include "tile/float_math.h"
#include "tile/types.h"

namespace intflash {
namespace {

INTFLASH_INLINE bool key_is_kept(const std::uint64_t* keep, std::int32_t key) {
  return (keep[key / 64] >> (key % 64) & 1) != 0;
}

// Rounded product of two Q15 numbers: what pmulhrsw and sqrdmulh compute.
INTFLASH_INLINE std::int32_t multiply_q15(std::int32_t a, std::int32_t b) {
  return (a * b + (1 << 14)) >> 15;
}

// Factors of the kept keys of block.half; keys that are not kept get a zero factor and no weight.
// position maps a key to its place in the port's order.
template <class Position>
INTFLASH_INLINE void fill_factors(ScoreBlock& block, const std::uint64_t* keep, Position position) {
  alignas(64) float key_scale[kScoreBlock];
  alignas(64) float value_scale[kScoreBlock];
  float largest_key = 0.0f;
  float largest_value = 0.0f;
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    const KvBlock& half = block.half[key / kBlockTokens];
    const bool kept = key_is_kept(keep, key);
    key_scale[key] = kept ? half.key_scale[key % kBlockTokens] : 0.0f;
    value_scale[key] = kept ? half.value_scale[key % kBlockTokens] : 0.0f;
    largest_key = max_of(largest_key, key_scale[key]);
    largest_value = max_of(largest_value, value_scale[key]);
  }
  const bool no_values = !(largest_value > 0.0f);
  block.key_exponent = largest_key > 0.0f ? exponent_of(largest_key) : 0;
  block.key_mantissa = largest_key > 0.0f ? mantissa_of(largest_key) : 0.0f;
  block.value_exponent = no_values ? 0 : exponent_of(largest_value);

  alignas(64) std::int16_t key_factor[kScoreBlock];
  alignas(64) std::int16_t value_log2[kScoreBlock];
  alignas(64) std::int16_t value_weight[kScoreBlock];
  const float to_q15 = power_of_two(15 - block.key_exponent);
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    key_factor[key] =
        static_cast<std::int16_t>(min_of(round_to_int(key_scale[key] * to_q15), 32767));
    const float scale = value_scale[key];
    const std::int32_t exponent = exponent_of(scale) - block.value_exponent;
    const std::int32_t log2 =
        exponent * 512 + round_to_int(512.0f * log2_of_mantissa(mantissa_of(scale)));
    const std::int32_t floor_log2 = scale > 0.0f ? max_of(log2, kValueLog2Min) : kValueLog2Min;
    value_log2[key] = static_cast<std::int16_t>(no_values ? 0 : floor_log2);
    const float weight = exp2_of(static_cast<float>(-value_log2[key]) * 0x1p-9f) *
                         static_cast<float>(kValueWeightOne);
    value_weight[key] = static_cast<std::int16_t>(
        value_log2[key] < kLightValueLog2 ? 0 : round_to_int(min_of(weight, 8192.0f)));
  }
  bool any_light = false;
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    const bool kept = key_is_kept(keep, key);
    any_light |= kept && value_log2[key] < kLightValueLog2;
    block.key_factor[position(key)] = key_factor[key];
    block.value_log2[position(key)] = value_log2[key];
    block.value_weight[position(key)] = kept ? value_weight[key] : static_cast<std::int16_t>(0);
  }
  block.any_light = any_light ? 1 : 0;
}

// The fixed point of one row in one score block: score = x * 2^exponent in units of log2.
struct RowScale {
  std::int32_t exponent;          // >= -kExponentBits
  std::int32_t shift;             // x = ((query . key) >> shift) * key_factor * multiplier / 2^30
  std::int32_t value_multiplier;  // value_log2 * value_multiplier / 2^15 is in units of 2^exponent
};

INTFLASH_INLINE RowScale row_scale(const QueryTile& query, std::int32_t row,
                                   const ScoreBlock& block) {
  // |score| < 2^(score_bits + bound) with bound the exponent of query factor * largest key scale.
  const std::int32_t both = query.exponent[row] + block.key_exponent;
  const std::int32_t bound = both - (query.mantissa[row] * block.key_mantissa < 0.5f ? 1 : 0);
  RowScale scale;
  scale.exponent = max_of(max_of(-kExponentBits, both), query.score_bits[row] + bound - kScoreBits);
  scale.shift = min_of(scale.exponent - both, 31);
  const std::int32_t coarser = scale.exponent + kExponentBits;
  scale.value_multiplier = coarser > 15 ? 0 : min_of(1 << (15 - coarser), 32767);
  return scale;
}

// What a row's weights in one score block come to.
struct BlockWeight {
  float exponent;  // log2 of the largest folded weight before it was scaled to one
  float sum;       // of the unfolded weights, in units of kWeightOne * kValueWeightOne
};

// Adds the light keys of a block, whose weight may exceed the block's folded maximum by any amount,
// to the row's sum. distance(key) is log2 of the folded maximum over the key's unfolded weight.
template <class Position, class Distance>
INTFLASH_INLINE float add_light_keys(float sum, const ScoreBlock& block, const std::uint64_t* keep,
                                     Position position, Distance distance) {
  if (block.any_light == 0) return sum;
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    const std::int32_t log2 = block.value_log2[position(key)];
    if (log2 >= kLightValueLog2 || (keep != nullptr && !key_is_kept(keep, key))) continue;
    const float weight = exp2_of(min_of(-distance(key, log2), 96.0f));
    sum = fused(weight, static_cast<float>(kWeightOne * kValueWeightOne), sum);
  }
  return sum;
}

}  // namespace
}  // namespace intflash
