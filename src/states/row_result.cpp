// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "states/row_result.h"

#include "core/rotation.h"
#include "states/merge.h"
#include "tile/limits.h"
#include "tile/state.h"

namespace intflash::internal {
namespace {

// Adds a sink of logit 2^exponent to a row's denominator; returns the share of it that its keys had
// before. docs/numerics.md, section 4.
float add_sink(const AttentionState& state, std::int32_t row, std::int64_t dim, float exponent) {
  float& reference = state.reference[row];
  float& row_sum = state.row_sum[row];
  const float higher = max_of(reference, ceil_of(exponent));
  const float factor = reference == kNegativeInfinity ? 0.0f : scale_down(reference, higher);
  const float keys = row_sum * factor;
  if (factor != 1.0f) scale_row(state.accumulators + row * state.accumulator_stride, dim, factor);
  row_sum = keys + exp2_of(exponent - higher) * static_cast<float>(kWeightOne * kValueWeightOne);
  reference = higher;
  return row_sum > 0 ? keys / row_sum : 0.0f;
}

}  // namespace

void write_result(const KernelTable& kernels, const AttentionState& state, std::int32_t row,
                  const RowResult& result) {
  const float* center = result.value_center;
  alignas(64) float scaled_center[kMaxHeadDim];
  if (result.sink > kNegativeInfinity) {
    const double logit = static_cast<double>(result.sink) - result.center_score;
    const float share =
        add_sink(state, row, result.dim, held_log2(static_cast<float>(logit * kLog2E / 2)));
    // The mean of the values has the keys' part of the weight alone.
    for (std::int32_t c = 0; center != nullptr && c < result.dim; ++c)
      scaled_center[c] = center[c] * share;
    if (center != nullptr) center = scaled_center;
  }
  kernels.rows->write_row(state.accumulators + row * state.accumulator_stride, state.row_sum[row],
                          result.dim, rotation_signs(result.rotated), center, result.out_dtype,
                          result.out);
  if (result.lse != nullptr)
    *result.lse = log_sum_exp(state.reference[row], state.row_sum[row], result.center_score);
}

}  // namespace intflash::internal
