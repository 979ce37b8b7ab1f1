// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What a device finds of what it reads, before anything is written.
#pragma once

#include <cstdint>

namespace intflash::internal {

// Of one tensor.
struct CudaFinding {
  std::uint32_t magnitude = 0;         // bits of the largest |x|, below infinity
  std::int64_t first_bad = INT64_MAX;  // lowest row with NaN or infinity, [batch][head][token];
                                       // INT64_MAX = none
};

struct CudaFindings {
  CudaFinding query;
  CudaFinding key, value;                // of new tokens
  CudaFinding key_center, value_center;  // of a dense call's: rows are [batch][head]
  // Lowest new token out of range, [request][head][key, value][row]; INT64_MAX = none.
  std::int64_t first_bad_token = INT64_MAX;
  // Lowest pair out of range, [row][pair], of a batch's queries or of new tokens.
  std::int64_t first_bad_rope = INT64_MAX;
  std::int64_t first_bad_sink = INT64_MAX;        // lowest query head whose sink is NaN or infinity
  std::int64_t first_bad_slope = INT64_MAX;       // lowest whose slope is beyond kCudaMaxFactor
  std::int64_t first_bad_head_scale = INT64_MAX;  // the same of masks, [request][query head]
  std::int64_t first_bad_mask = INT64_MAX;        // lowest query of the call whose mask has NaN or
                                                  // +infinity
  std::uint32_t largest_key = 0;  // bits of what no key in the pages that are read exceeds

  // A second look, at keys and values that some query sees: of new tokens, or of pages the largest
  // scale.
  CudaFinding seen_key, seen_value;
  std::uint32_t largest_seen_scale = 0;

  std::uint32_t refused = 0;  // 1: nothing may be written
};

}  // namespace intflash::internal
