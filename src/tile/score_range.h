// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Whether the f32 factors of scores stay in their range, judged by magnitudes before anything is
// computed.
#pragma once

#include <cstdint>

#include "tile/limits.h"
#include "tile/portability.h"

namespace intflash::internal {

struct ScoreRange {
  double largest_query;
  double largest_key;  // before or after centring, whichever is larger
  double softmax_scale;
  std::int64_t head_dim;
  bool rotated;

  // Bounds |score| * log2(e), in either score form, before and after centring and rotation: beyond
  // 2^126 the f32 factors of scores would leave their range.
  INTFLASH_INLINE bool is_safe() const {
    const double dim = static_cast<double>(head_dim);
    const double factor = largest_query * max_of(1.0, softmax_scale * kLog2E);
    const double largest = factor * largest_key * dim * (rotated ? dim : 1.0);
    return largest < 0x1p126 && factor < 0x1p126 && largest_query < kMaxQuery;
  }
};

}  // namespace intflash::internal
