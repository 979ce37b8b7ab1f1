// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The fixed point of scores: factors of a score block's keys, and what each query row makes of
// them. docs/numerics.md, section "Scores", is the text to this code.
#pragma once

#include <cstdint>

#include "tile/float_math.h"
#include "tile/types.h"

namespace intflash::internal {
namespace {

constexpr float kScoreUnit = 1.0f / (1 << kFractionBits);

INTFLASH_INLINE bool key_is_kept(const std::uint64_t* keep, std::int32_t key) {
  return (keep[key / 64] >> (key % 64) & 1) != 0;
}

// Rounded product of two Q15 numbers: what pmulhrsw and sqrdmulh compute.
INTFLASH_INLINE constexpr std::int32_t multiply_q15(std::int32_t a, std::int32_t b) {
  return (a * b + (1 << 14)) >> 15;
}

// Bits of the scales of the kept keys of a block, 0 for the others; returns the largest. Scales are
// >= 0: they compare as their bits do.
INTFLASH_INLINE std::int32_t gather_scales(const float* low, const float* high,
                                           const std::int32_t* kept, std::int32_t* scale_bits) {
  for (std::int32_t key = 0; key < kBlockTokens; ++key) {
    scale_bits[key] = bits_as<std::int32_t>(low[key]) & kept[key];
  }
  for (std::int32_t key = 0; key < kBlockTokens; ++key) {
    scale_bits[kBlockTokens + key] = bits_as<std::int32_t>(high[key]) & kept[kBlockTokens + key];
  }
  std::int32_t largest = 0;
  for (std::int32_t key = 0; key < kScoreBlock; ++key) largest = max_of(largest, scale_bits[key]);
  return largest;
}

// log2(scale) - value_exponent in 2^-6 for the bits of a scale, exact on the grid of values'
// scales; scale 0 gives kValueLog2Min.
INTFLASH_INLINE std::int32_t value_log2_of(std::int32_t scale_bits, std::int32_t value_exponent) {
  const float scale = bits_as<float>(scale_bits);
  const std::int32_t fraction =
      round_to_int(log2_of_mantissa(mantissa_of(scale)) * (1 << kFractionBits));
  const std::int32_t log2 = (exponent_of(scale) - value_exponent) * (1 << kFractionBits) + fraction;
  return scale_bits == 0 ? kValueLog2Min : log2;
}

// All ones for a light key. A comparison would become a branch of the loop over keys.
INTFLASH_INLINE std::int32_t light_mask(std::int32_t value_log2) {
  return (value_log2 - kLightValueLog2) >> 31;
}

// 256 * 2^-value_log2, rounded; 0 for a light key.
INTFLASH_INLINE std::int32_t value_weight_of(std::int32_t value_log2) {
  const std::int32_t bounded = max_of(value_log2, kLightValueLog2);
  const float power = exp2_of(static_cast<float>(-bounded) * kScoreUnit);
  return round_to_int(power * static_cast<float>(kValueWeightOne)) & ~light_mask(value_log2);
}

// Exponents of the largest scales among some keys of a block; a mantissa of 0: all key scales are
// 0.
struct LargestScales {
  std::int32_t key_exponent;
  float key_mantissa;
  std::int32_t value_exponent;
  bool any_value;
};
// Where no key has a scale all scores are 0, whatever their unit. No scale has this exponent, so
// that factors made where all values are 0 serve no other row.
constexpr std::int32_t kNoExponent = -110;
INTFLASH_INLINE LargestScales largest_scales(std::int32_t key_bits, std::int32_t value_bits) {
  const float key = bits_as<float>(key_bits);
  return {key_bits > 0 ? exponent_of(key) : kNoExponent, key_bits > 0 ? mantissa_of(key) : 0.0f,
          value_bits > 0 ? exponent_of(bits_as<float>(value_bits)) : kNoExponent, value_bits > 0};
}

[[maybe_unused]] INTFLASH_NOINLINE void list_light_keys(ScoreBlock& block, const std::int32_t* kept,
                                                        const std::int32_t* value_log2) {
  std::int32_t count = 0;
  for (std::int32_t key = 0; count < block.num_light; ++key) {
    block.light[count] = static_cast<std::uint8_t>(key);
    count -= kept[key] & light_mask(value_log2[key]);
  }
}

// Factors of the kept keys of block.half beside the largest scales that a row sees. A key may be
// kept that the row does not see: what stands at its place then is of no use, and of no harm.
// Order::narrow puts 128 int32 into the port's order of int16.
template <class Order>
INTFLASH_INLINE void fill_factors_beside(ScoreBlock& block, const std::int32_t* kept,
                                         const std::int32_t* key_scale,
                                         const std::int32_t* value_scale, LargestScales largest) {
  alignas(64) std::int32_t key_factor[kScoreBlock];
  alignas(64) std::int32_t value_log2[kScoreBlock];
  alignas(64) std::int32_t value_weight[kScoreBlock];
  // Of a scale that is NaN, where no token is, what is larger too.
  const float to_q15 = power_of_two(15 - largest.key_exponent);
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    key_factor[key] = round_to_int(min_of(32767.0f, bits_as<float>(key_scale[key]) * to_q15));
  }
  // Where all values are zero their scales say nothing: every key weighs the same.
  const std::int32_t value_exponent = largest.value_exponent;
  const std::int32_t some_values = largest.any_value ? -1 : 0;
  std::int32_t least = 0;
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    const std::int32_t log2 = value_log2_of(value_scale[key], value_exponent) & some_values;
    least = min_of(least, log2);
    value_log2[key] = min_of(max_of(log2, kValueLog2Min), 0);
  }
  std::int32_t num_light = 0;
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    num_light -= kept[key] & light_mask(value_log2[key]);
    value_weight[key] = value_weight_of(value_log2[key]) & kept[key];
  }
  block.key_exponent = largest.key_exponent;
  block.key_mantissa = largest.key_mantissa;
  block.value_exponent = largest.value_exponent;
  block.num_light = num_light;
  if (num_light > 0) list_light_keys(block, kept, value_log2);
  block.any_faint = least < kValueLog2Min ? 1 : 0;
  Order::narrow(key_factor, block.key_factor);
  Order::narrow(value_log2, block.value_log2);
  Order::narrow(value_weight, block.value_weight);
}

// The same beside the largest of all kept keys. Order::expand turns keep words into a mask per key.
template <class Order>
INTFLASH_NOINLINE void fill_factors(ScoreBlock& block, const std::uint64_t* keep) {
  alignas(64) std::int32_t kept[kScoreBlock];
  alignas(64) std::int32_t key_scale[kScoreBlock];
  alignas(64) std::int32_t value_scale[kScoreBlock];
  Order::expand(keep, kept);
  const KvBlock* half = block.half;
  const std::int32_t key = gather_scales(half[0].key_scale, half[1].key_scale, kept, key_scale);
  const std::int32_t value =
      gather_scales(half[0].value_scale, half[1].value_scale, kept, value_scale);
  fill_factors_beside<Order>(block, kept, key_scale, value_scale, largest_scales(key, value));
}

// Whether a row that sees the kept keys of the block sees a faint value; value_exponent: of the
// largest scale that it sees.
[[maybe_unused]] INTFLASH_NOINLINE bool sees_faint_value(const ScoreBlock& block,
                                                         const std::uint64_t* keep,
                                                         std::int32_t value_exponent) {
  if (block.any_faint == 0) return false;
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    const float scale = block.half[key / kBlockTokens].value_scale[key % kBlockTokens];
    const std::int32_t log2 = value_log2_of(bits_as<std::int32_t>(scale), value_exponent);
    if (key_is_kept(keep, key) && log2 < kValueLog2Min) return true;
  }
  return false;
}

// The way of one row's products to their fixed point in one score block. They are shifted to the
// finest unit, 2^exponent, in which any of them would fit, and multiplied into 2^-kFractionBits:
// x = ((query . key) >> shift) * key_factor * multiplier / 2^30.
struct RowScale {
  std::int32_t exponent;  // >= kFinestExponent; above -kFractionBits scores do not fit: is_fixed
  std::int32_t shift;
  std::int32_t multiplier;
};
INTFLASH_INLINE bool is_fixed(std::int32_t exponent) { return exponent <= -kFractionBits; }

// What a query row brings to it, as QueryTile has these of all its rows.
struct RowFactor {
  std::int32_t multiplier;
  std::int32_t exponent;
  float mantissa;
  std::int32_t score_bits;
};

// The largest key scale that the row sees in the block is key_mantissa * 2^key_exponent.
INTFLASH_INLINE RowScale row_scale(const RowFactor& row, std::int32_t key_exponent,
                                   float key_mantissa) {
  // |score| < 2^(score_bits + bound) with bound the exponent of query factor * largest key scale.
  const std::int32_t both = row.exponent + key_exponent;
  const std::int32_t bound = both - (row.mantissa * key_mantissa < 0.5f ? 1 : 0);
  RowScale scale;
  scale.exponent = max_of(max_of(kFinestExponent, both), row.score_bits + bound - kScoreBits);
  scale.shift = min_of(scale.exponent - both, 31);
  const std::int32_t coarser = max_of(-kFractionBits - scale.exponent, 0);
  scale.multiplier = (row.multiplier + ((1 << coarser) >> 1)) >> coarser;
  return scale;
}
INTFLASH_INLINE RowScale row_scale(const QueryTile& query, std::int32_t row,
                                   std::int32_t key_exponent, float key_mantissa) {
  return row_scale(
      {query.multiplier[row], query.exponent[row], query.mantissa[row], query.score_bits[row]},
      key_exponent, key_mantissa);
}

// Whether a row takes second digits in the block; exponent: of its RowScale.
INTFLASH_INLINE bool takes_digits(const QueryTile& query, const ScoreBlock& block,
                                  std::int32_t exponent) {
  return exponent > query.digits_above && block.half[0].key_digits != nullptr;
}

// How much larger a row's products with second digits are, in bits.
INTFLASH_INLINE std::int32_t digit_bits(const QueryTile& query, std::int32_t row) {
  return min_of(kDigitBits, 31 - query.score_bits[row]);
}
INTFLASH_INLINE RowScale with_digits(const QueryTile& query, std::int32_t row, RowScale scale) {
  scale.shift = min_of(scale.shift + digit_bits(query, row), 31);
  return scale;
}

// A product of codes made one with second digits; mixed: code . digit + digit . code.
INTFLASH_INLINE std::int32_t add_digits(std::int32_t product, std::int32_t mixed,
                                        std::int32_t bits) {
  return (product << bits) + (mixed >> (kDigitBits - bits));
}

// What bounds the exponents of a query's rows in any block, less the block's key_exponent.
INTFLASH_INLINE std::int32_t exponent_limit(const QueryTile& query) {
  std::int32_t limit = -1000;
  for (std::int32_t r = 0; r < query.rows; ++r) {
    limit = max_of(limit, query.exponent[r] + max_of(query.score_bits[r] - kScoreBits, 0));
  }
  return limit;
}

// An upper bound of the exponents of a query's rows in a block.
INTFLASH_INLINE std::int32_t largest_exponent(const ScoreBlock& block,
                                              std::int32_t exponent_limit) {
  return max_of(exponent_limit + block.key_exponent, kFinestExponent);
}

// Whether all rows of a query with this exponent_limit, if they see the whole block, have their
// scores in fixed point, by codes alone.
INTFLASH_INLINE bool is_fixed_for_all(const QueryTile& query, const ScoreBlock& block,
                                      std::int32_t exponent_limit) {
  const std::int32_t exponent = largest_exponent(block, exponent_limit);
  return is_fixed(exponent) && exponent <= query.digits_above && block.any_faint == 0;
}

// What bounds the units of a query's rows in any block, without the largest key scale there. With a
// bit at the least, it is no less than what a row's exponent alone comes to.
[[maybe_unused]] INTFLASH_NOINLINE float unit_limit(const QueryTile& query) {
  float limit = 0.0f;
  for (std::int32_t r = 0; r < query.rows; ++r) {
    const std::int32_t bits = max_of(query.score_bits[r] - kScoreBits, 1);
    limit = max_of(limit, max_of(query.factor[r], kLeastFactor) * power_of_two(bits));
  }
  return limit;
}

// Whether a row of queries with this unit_limit may take second digits in the block, whatever it
// sees of it.
[[maybe_unused]] INTFLASH_NOINLINE bool may_take_digits(const ScoreBlock& block, float unit_limit,
                                                        std::int32_t digits_above) {
  const std::int32_t carry = mantissa_of(unit_limit) * block.key_mantissa < 0.5f ? 1 : 0;
  const std::int32_t exponent = exponent_of(unit_limit) + block.key_exponent - carry;
  return max_of(exponent, kFinestExponent) > digits_above;
}

// Whether no row of the query takes second digits in some blocks, whatever it sees of them.
[[maybe_unused]] INTFLASH_NOINLINE bool takes_codes_alone(const QueryTile& query,
                                                          const ScoreBlock* blocks,
                                                          std::int32_t num_blocks) {
  if (query.digits_above == kNoDigits) return true;
  const std::int32_t limit = exponent_limit(query);
  for (std::int32_t b = 0; b < num_blocks; ++b)
    if (largest_exponent(blocks[b], limit) > query.digits_above) return false;
  return true;
}

// What a row's weights in one score block come to.
struct BlockWeight {
  float exponent;  // log2 of a weight of one in sum
  float sum;       // of the weights, in units of kWeightOne * kValueWeightOne
  float unit;      // of P times the values' codes, beside 2^exponent
};

// Adds the light keys of a block, whose weight may exceed the block's folded maximum by any amount,
// to the row's sum. x: folded scores, in the order that `position` says; largest: the largest.
template <class Position>
INTFLASH_INLINE float add_light_keys(float sum, std::int32_t largest, const ScoreBlock& block,
                                     const std::uint64_t* keep, const std::int16_t* x,
                                     Position position) {
  for (std::int32_t i = 0; i < block.num_light; ++i) {
    const std::int32_t key = block.light[i];
    if (keep != nullptr && !key_is_kept(keep, key)) continue;
    // log2 of the key's unfolded weight over the folded maximum.
    const std::int32_t at = position(key);
    const float above = static_cast<float>(x[at] - largest - block.value_log2[at]) * kScoreUnit;
    const float weight = exp2_of(above);
    sum = fused(weight, static_cast<float>(kWeightOne * kValueWeightOne), sum);
  }
  return sum;
}

}  // namespace
}  // namespace intflash::internal
