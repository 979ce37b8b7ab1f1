// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A row's running state: how a score block's weights enter it, and how the states of two spans
// become one.
#pragma once

#include <cstdint>

#include "tile/float_math.h"
#include "tile/score_block.h"
#include "tile/types.h"

namespace intflash::internal {
namespace {

INTFLASH_INLINE float ceil_of(float x) {
  if (!(x < 8388608.0f && x > -8388608.0f)) return x;  // a whole number already
  const float truncated = static_cast<float>(static_cast<std::int32_t>(x));
  return truncated < x ? truncated + 1.0f : truncated;
}

// 2^(from - to) for whole numbers from <= to; 0 where it would be subnormal.
INTFLASH_INLINE float scale_down(float from, float to) {
  const float exponent = from - to;
  return exponent < -126.0f ? 0.0f : power_of_two(static_cast<std::int32_t>(exponent));
}

INTFLASH_INLINE void scale_row(float* accumulators, std::int64_t dim, float factor) {
  for (std::int64_t c = 0; c < dim; ++c) accumulators[c] *= factor;
}

// Blocks may exceed the reference by this many powers of two before the state is scaled down to a
// new one. An accumulator is at most 2^8 times the number of keys times that times the largest
// value, which is below 2^91: so those of 2^20 keys are finite.
constexpr float kMaxOverReference = 8.0f;

// Prepares a row for a block whose largest folded weight is 2^exponent: gives it a reference, or a
// new one.
INTFLASH_INLINE void keep_in_reach(const AttentionState& state, std::int32_t row, std::int32_t dim,
                                   float exponent) {
  float& reference = state.reference[row];
  if (reference == kNegativeInfinity) {
    reference = ceil_of(exponent);
  } else if (exponent - reference > kMaxOverReference) {
    const float factor = scale_down(reference, ceil_of(exponent));
    state.row_sum[row] *= factor;
    scale_row(state.accumulators + row * state.accumulator_stride, dim, factor);
    reference = ceil_of(exponent);
  }
}

// Both are brought to the larger reference by powers of two, so that each sum is rounded once.
[[maybe_unused]] void merge_states(const AttentionState& part, const AttentionState& total,
                                   std::int32_t rows, std::int32_t dim) {
  for (std::int32_t r = 0; r < rows; ++r) {
    // Two empty states would give -infinity minus -infinity, a NaN.
    if (part.reference[r] == kNegativeInfinity) continue;
    const float* INTFLASH_RESTRICT from = part.accumulators + r * part.accumulator_stride;
    float* INTFLASH_RESTRICT to = total.accumulators + r * total.accumulator_stride;
    // An empty state changes nothing, not even the sign of a zero.
    if (total.reference[r] == kNegativeInfinity) {
      for (std::int32_t c = 0; c < dim; ++c) to[c] = from[c];
      total.row_sum[r] = part.row_sum[r];
      total.reference[r] = part.reference[r];
      continue;
    }
    const float reference = max_of(part.reference[r], total.reference[r]);
    const float part_factor = scale_down(part.reference[r], reference);
    const float total_factor = scale_down(total.reference[r], reference);
    for (std::int32_t c = 0; c < dim; ++c)
      to[c] = fused(from[c], part_factor, to[c] * total_factor);
    total.row_sum[r] = fused(part.row_sum[r], part_factor, total.row_sum[r] * total_factor);
    total.reference[r] = reference;
  }
}

}  // namespace
}  // namespace intflash::internal
