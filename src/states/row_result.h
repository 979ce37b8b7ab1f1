// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// From a row's final state to its part of out and log-sum-exp.
#pragma once

#include <cstdint>

#include "tile/types.h"

namespace intflash::internal {

struct RowResult {
  std::int32_t dim;           // of out
  bool rotated;               // the state's values are
  double center_score;        // what centring took from every score, and no cap has in it
  float sink;                 // a logit that joins the denominator; -infinity: none
  const float* value_center;  // [dim]; nullptr = none
  Dtype out_dtype;
  void* out;
  float* lse;  // nullptr: not asked for
};

// Adds the sink to row `row` of the state, then writes what it comes to.
void write_result(const KernelTable& kernels, const AttentionState& state, std::int32_t row,
                  const RowResult& result);

}  // namespace intflash::internal
