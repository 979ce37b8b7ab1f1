// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "backend/score_range.h"

#include <algorithm>

#include "core/checks.h"
#include "core/limits.h"

namespace intflash::internal {
namespace {

// Beyond it the f32 factors of scores would leave their range.
constexpr double kMaxScore = 0x1p126;

}  // namespace

bool ScoreRange::is_safe() const {
  const double dim = static_cast<double>(head_dim);
  const double factor = largest_query * std::max(1.0, softmax_scale * kLog2E);
  const double largest = factor * largest_key * dim * (rotated ? dim : 1.0);
  return largest < kMaxScore && factor < kMaxScore && largest_query < kMaxQuery;
}

intflash_status check_score_range(const ScoreRange& range) {
  if (range.is_safe()) return INTFLASH_OK;
  return fail(INTFLASH_SCORE_OVERFLOW,
              "query and key: magnitudes up to %g and %g with head_dim %lld and softmax_scale %g: "
              "scores could leave the range of f32; their product must stay below 2^126",
              range.largest_query, range.largest_key, static_cast<long long>(range.head_dim),
              range.softmax_scale);
}

}  // namespace intflash::internal
