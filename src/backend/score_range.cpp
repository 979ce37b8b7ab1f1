// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "backend/score_range.h"

#include "core/checks.h"

namespace intflash::internal {

intflash_status check_score_range(const ScoreRange& range) {
  if (range.is_safe()) return INTFLASH_OK;
  return fail(INTFLASH_SCORE_OVERFLOW,
              "query and key: magnitudes up to %g and %g with head_dim %lld and softmax_scale %g: "
              "scores could leave the range of f32; their product must stay below 2^126",
              range.largest_query, range.largest_key, static_cast<long long>(range.head_dim),
              range.softmax_scale);
}

}  // namespace intflash::internal
