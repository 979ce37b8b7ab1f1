// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Whether a call may write, by what was found of its inputs: the device judges, and the host says
// why not by the same functions.
#pragma once

#include <cstdint>

#include "cuda/call.h"
#include "tile/score_range.h"

namespace intflash::internal {

INTFLASH_INLINE double largest_of(const CudaFinding& finding) {
  return static_cast<double>(bits_as<float>(finding.magnitude));
}

// Of all keys that were stored, or that lie in the pages; or of those that some query sees.
enum class CudaLook { kAll, kSeen };

INTFLASH_INLINE const CudaFinding& keys_found(const CudaFindings& found, CudaLook look) {
  return look == CudaLook::kAll ? found.key : found.seen_key;
}
INTFLASH_INLINE const CudaFinding& values_found(const CudaFindings& found, CudaLook look) {
  return look == CudaLook::kAll ? found.value : found.seen_value;
}

INTFLASH_INLINE ScoreRange score_range(const CudaCall& call, const CudaFindings& found,
                                       CudaLook look) {
  double largest_key = call.largest_center + largest_of(found.key_center);
  if (call.has_own_pages()) {
    // A mean is at most as large as the keys are.
    const double times = call.computes_key_means ? 2.0 : 1.0;
    largest_key += times * largest_of(keys_found(found, look));
  } else if (look == CudaLook::kAll) {
    largest_key += static_cast<double>(bits_as<float>(found.largest_key));
  } else {
    // A key is at most 127 * scale, and what the scale's rounding may have taken from it.
    largest_key += 127.001 * static_cast<double>(bits_as<float>(found.largest_seen_scale));
  }
  const double turned = call.rope.cos == nullptr ? 1.0 : 2.0 * static_cast<double>(kCudaMaxRope);
  return {largest_of(found.query) * turned, largest_key, call.largest_softmax_scale, call.head_dim,
          call.rotates_keys};
}

INTFLASH_INLINE bool are_keys_sound(const CudaCall& call, const CudaFindings& found,
                                    CudaLook look) {
  const CudaFinding& key = keys_found(found, look);
  const CudaFinding& value = values_found(found, look);
  const bool are_finite = key.first_bad == INT64_MAX && value.first_bad == INT64_MAX;
  return are_finite && largest_of(key) < kMaxKey && largest_of(value) < kMaxValue &&
         (!call.has_keys || score_range(call, found, look).is_safe());
}

// What a run's keys are judged by: where a look at all of them leaves doubt, those that are seen.
INTFLASH_INLINE CudaLook needed_look(const CudaCall& call, const CudaFindings& found) {
  return are_keys_sound(call, found, CudaLook::kAll) ? CudaLook::kAll : CudaLook::kSeen;
}

INTFLASH_INLINE bool is_sound(const CudaCall& call, const CudaFindings& found) {
  const bool are_centers_sound =
      found.key_center.first_bad == INT64_MAX && found.value_center.first_bad == INT64_MAX &&
      largest_of(found.key_center) < kMaxKey && largest_of(found.value_center) < kMaxValue;
  const bool are_others_sound =
      found.query.first_bad == INT64_MAX && found.first_bad_rope == INT64_MAX &&
      found.first_bad_sink == INT64_MAX && found.first_bad_slope == INT64_MAX &&
      found.first_bad_head_scale == INT64_MAX && found.first_bad_mask == INT64_MAX;
  return are_centers_sound && are_others_sound &&
         are_keys_sound(call, found, needed_look(call, found));
}

}  // namespace intflash::internal
