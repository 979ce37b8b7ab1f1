// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Whether the f32 factors of scores stay in their range, judged by magnitudes before anything is
// computed.
#pragma once

#include <cstdint>

#include "intflash/intflash.h"

namespace intflash::internal {

struct ScoreRange {
  double largest_query;
  double largest_key;  // before or after centring, whichever is larger
  double softmax_scale;
  std::int64_t head_dim;
  bool rotated;

  // Bounds |score| * log2(e), in either score form, before and after centring and rotation.
  bool is_safe() const;
};

// INTFLASH_OK, or the error that names the magnitudes.
intflash_status check_score_range(const ScoreRange& range);

}  // namespace intflash::internal
