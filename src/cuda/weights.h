// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Softmax of one row over one score block, by a warp: exact products in, P in u8 and the sum of
// weights out, in any form that the row's scores and values ask for. Each lane has four keys next
// to each other. docs/numerics.md, sections 2 to 4; src/scalar/port.cpp has the same, key by key.
#pragma once

#include <cstdint>

#include "cuda/simt.h"
#include "tile/general_score.h"
#include "tile/score_block.h"
#include "tile/weights.h"

namespace intflash::internal {
namespace {

constexpr std::int32_t kLaneKeys = kScoreBlock / kWarpThreads;

// What a lane's keys are beside, in bits of f32.
struct LaneScales {
  std::int32_t key[kLaneKeys], value[kLaneKeys];
};

// The same of one key.
struct OneScale {
  std::int32_t key, value;
};

// A row's products with a lane's keys, of which it sees those that kept has a bit for.
struct LaneProducts {
  std::int32_t dot[kLaneKeys];
  std::uint32_t kept;

  INTFLASH_DEVICE bool keeps(std::int32_t i) const { return (kept >> i & 1) != 0; }
};

// The values' scales beside the largest that the row sees.
struct LaneValues {
  std::int32_t log2[kLaneKeys], weight[kLaneKeys];
  bool any_light, any_faint;
};

// Floats compare as these integers do.
INTFLASH_DEVICE std::int32_t ordered_bits(float x) {
  const std::int32_t bits = bits_as<std::int32_t>(x);
  return bits ^ (bits >> 31 & 0x7fffffff);
}
INTFLASH_DEVICE float warp_max(float x) {
  const std::int32_t largest = warp_max(ordered_bits(x));
  return bits_as<float>(largest ^ (largest >> 31 & 0x7fffffff));
}

INTFLASH_DEVICE LargestScales largest_seen(const LaneScales& scales, const LaneProducts& row) {
  std::int32_t key = 0, value = 0;
  for (std::int32_t i = 0; i < kLaneKeys; ++i) {
    key = max_of(key, row.keeps(i) ? scales.key[i] : 0);
    value = max_of(value, row.keeps(i) ? scales.value[i] : 0);
  }
  return largest_scales(warp_max(key), warp_max(value));
}

INTFLASH_DEVICE LaneValues values_beside(const LaneScales& scales, const LaneProducts& row,
                                         const LargestScales& largest) {
  LaneValues values{};
  for (std::int32_t i = 0; i < kLaneKeys; ++i) {
    const std::int32_t bits = row.keeps(i) ? scales.value[i] : 0;
    const std::int32_t log2 = largest.any_value ? value_log2_of(bits, largest.value_exponent) : 0;
    values.any_faint |= log2 < kValueLog2Min;
    values.log2[i] = min_of(max_of(log2, kValueLog2Min), 0);
    values.any_light |= row.keeps(i) && values.log2[i] < kLightValueLog2;
    values.weight[i] = row.keeps(i) ? value_weight_of(values.log2[i]) : 0;
  }
  values.any_light = warp_any(values.any_light);
  values.any_faint = warp_any(values.any_faint);
  return values;
}

// sum plus the weights of the keys that `which` has bits for, in the order of the keys.
INTFLASH_DEVICE float add_in_order(float sum, const float (&weight)[kLaneKeys],
                                   std::uint32_t which) {
  for (std::int32_t lane = 0; lane < kWarpThreads; ++lane) {
    const auto bits = bits_as<std::uint32_t>(lane_value(bits_as<float>(which), lane));
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < kLaneKeys; ++i) {
      const float term = lane_value(weight[i], lane);
      if ((bits >> i & 1) != 0)
        sum = fused(term, static_cast<float>(kWeightOne * kValueWeightOne), sum);
    }
  }
  return sum;
}

// P of the lane's keys, a byte each, from folded scores; returns the sum of all integer weights.
INTFLASH_DEVICE std::int32_t quantize_weights(const LaneProducts& row, const LaneValues& values,
                                              const std::int32_t (&x)[kLaneKeys],
                                              std::int32_t largest, std::uint32_t& weights) {
  std::int32_t sum = 0;
  weights = 0;
  for (std::int32_t i = 0; i < kLaneKeys; ++i) {
    const std::int32_t weight = weight_of(row.keeps(i) ? largest - x[i] : 32767);
    weights |= static_cast<std::uint32_t>(multiply_q15(weight, kWeightToU8)) << 8 * i;
    sum += weight * values.weight[i];
  }
  return warp_sum(sum);
}

// P, and the sum of all weights, those of light keys in f32.
INTFLASH_DEVICE float sum_of_weights(const LaneProducts& row, const LaneValues& values,
                                     const std::int32_t (&x)[kLaneKeys], std::int32_t largest,
                                     std::uint32_t& weights) {
  const auto sum = static_cast<float>(quantize_weights(row, values, x, largest, weights));
  if (!values.any_light) return sum;
  float weight[kLaneKeys];
  std::uint32_t light = 0;
  for (std::int32_t i = 0; i < kLaneKeys; ++i) {
    if (values.log2[i] < kLightValueLog2) light |= 1u << i;
    // log2 of the key's unfolded weight over the folded maximum; of others it may be beyond f32.
    const std::int32_t above = x[i] - largest - values.log2[i];
    weight[i] =
        exp2_of(static_cast<float>((light >> i & 1) != 0 && row.keeps(i) ? above : 0) * kScoreUnit);
  }
  return add_in_order(sum, weight, light & row.kept);
}

INTFLASH_DEVICE std::int32_t largest_kept(const LaneProducts& row,
                                          const std::int32_t (&x)[kLaneKeys]) {
  std::int32_t largest = -32768;
  for (std::int32_t i = 0; i < kLaneKeys; ++i)
    largest = max_of(largest, row.keeps(i) ? x[i] : -32768);
  return warp_max(largest);
}

INTFLASH_DEVICE BlockWeight plain_weights(const LaneProducts& row, const LaneScales& scales,
                                          const LaneValues& values, const LargestScales& seen,
                                          const RowScale& scale, std::uint32_t& weights) {
  const float to_q15 = power_of_two(15 - seen.key_exponent);
  std::int32_t x[kLaneKeys];
  for (std::int32_t i = 0; i < kLaneKeys; ++i) {
    const float key_scale = row.keeps(i) ? bits_as<float>(scales.key[i]) : 0.0f;
    const std::int32_t key_factor = round_to_int(min_of(key_scale * to_q15, 32767.0f));
    const std::int32_t keyed = multiply_q15(row.dot[i] >> scale.shift, key_factor);
    x[i] = multiply_q15(keyed, scale.multiplier) + values.log2[i];
  }
  const std::int32_t largest = largest_kept(row, x);
  const float sum = sum_of_weights(row, values, x, largest, weights);
  return {static_cast<float>(largest) * kScoreUnit, sum, power_of_two(seen.value_exponent)};
}

// Distances of scores below the largest, in fixed point and negated.
INTFLASH_DEVICE void fix_scores(const float (&score)[kLaneKeys], float largest,
                                std::int32_t (&fixed)[kLaneKeys]) {
  for (std::int32_t i = 0; i < kLaneKeys; ++i) {
    const float below = max_of((score[i] - largest) / kScoreUnit, kFurthest);
    fixed[i] = round_to_int(below);
  }
}

INTFLASH_DEVICE float largest_score(const float (&score)[kLaneKeys]) {
  return warp_max(max_of(max_of(score[0], score[1]), max_of(score[2], score[3])));
}

// Of a row that sees a faint value: all of it in f32.
INTFLASH_DEVICE BlockWeight weigh_beside_faint(const LaneProducts& row, const LaneScales& scales,
                                               const LaneValues& values,
                                               const float (&score)[kLaneKeys], float largest,
                                               std::uint32_t& weights) {
  float folded[kLaneKeys], weight[kLaneKeys];
  for (std::int32_t i = 0; i < kLaneKeys; ++i) {
    const float scale = bits_as<float>(scales.value[i]);
    const float log2 =
        static_cast<float>(exponent_of(scale)) + log2_of_mantissa(mantissa_of(scale));
    folded[i] = (score[i] - largest) + log2;
    weight[i] = exp2_of(score[i] - largest);
  }
  const float largest_folded = largest_score(folded);
  std::int32_t x[kLaneKeys];
  fix_scores(folded, largest_folded, x);
  quantize_weights(row, values, x, 0, weights);
  return {largest, add_in_order(0.0f, weight, row.kept), exp2_of(largest_folded)};
}

// What acts on a row's scores in a block: nothing. row_mask.h has the other.
struct NoActs {
  INTFLASH_DEVICE bool are_any() const { return false; }
  INTFLASH_DEVICE float term() const { return 0.0f; }  // what is added before the cap
  INTFLASH_DEVICE float on(float score, std::int32_t) const { return score; }
};

// factor: of the query in f32; unit: of the products.
template <class Acts>
INTFLASH_DEVICE BlockWeight general_weights(const LaneProducts& row, const LaneScales& scales,
                                            const LaneValues& values, const LargestScales& seen,
                                            float factor, float unit, const Acts& acts,
                                            std::uint32_t& weights) {
  float score[kLaneKeys];
  for (std::int32_t i = 0; i < kLaneKeys; ++i) {
    const float scaled =
        scaled_product(row.dot[i], unit, bits_as<float>(scales.key[i]), factor, acts.term());
    score[i] = row.keeps(i) ? acts.on(scaled, i) : kNegativeInfinity;
  }
  const float exponent = largest_score(score);
  if (values.any_faint) return weigh_beside_faint(row, scales, values, score, exponent, weights);
  std::int32_t x[kLaneKeys];
  fix_scores(score, exponent, x);
  for (std::int32_t i = 0; i < kLaneKeys; ++i) x[i] += values.log2[i];
  const std::int32_t largest = largest_kept(row, x);
  const float sum = sum_of_weights(row, values, x, largest, weights);
  const float fold = exp2_of(static_cast<float>(largest) * kScoreUnit);
  return {exponent, sum * fold, fold * power_of_two(seen.value_exponent)};
}

// Of a query row.
struct QueryRow {
  RowFactor scale;
  float factor;               // in f32
  std::int32_t digits_above;  // as in QueryTile

  // How much larger products with second digits are, in bits.
  INTFLASH_DEVICE std::int32_t digit_bits() const {
    return min_of(kDigitBits, 31 - scale.score_bits);
  }
};

// Whether the row takes second digits in the block, by the keys that it sees there.
INTFLASH_DEVICE bool takes_digits(const QueryRow& query, const LaneProducts& row,
                                  const LaneScales& scales) {
  const LargestScales seen = largest_seen(scales, row);
  return row_scale(query.scale, seen.key_exponent, seen.key_mantissa).exponent > query.digits_above;
}

// A row that sees some key of the block; its products have second digits where it takes them.
template <class Acts>
INTFLASH_DEVICE BlockWeight weigh_row(const QueryRow& query, const LaneProducts& row,
                                      const LaneScales& scales, const Acts& acts,
                                      std::uint32_t& weights) {
  const LargestScales seen = largest_seen(scales, row);
  RowScale scale = row_scale(query.scale, seen.key_exponent, seen.key_mantissa);
  const std::int32_t bits = scale.exponent > query.digits_above ? query.digit_bits() : 0;
  const LaneValues values = values_beside(scales, row, seen);
  if (acts.are_any() || !is_fixed(scale.exponent) || values.any_faint)
    return general_weights(row, scales, values, seen, query.factor, power_of_two(-bits), acts,
                           weights);
  scale.shift = min_of(scale.shift + bits, 31);
  return plain_weights(row, scales, values, seen, scale, weights);
}

}  // namespace
}  // namespace intflash::internal
