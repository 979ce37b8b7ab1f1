// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// How far a computed array is from its reference: the figures that attend --check prints, summed in
// double.
#pragma once

#include <cstdint>
#include <span>

namespace intflash {

struct ErrorMetrics {
  double rel_l1 = 0;  // sum|value - reference| / sum|reference|; 0 where both are 0, infinity where
                      // only the latter is
  double rmse = 0;    // sqrt(mean (value - reference)^2)
  double cosine = 1;  // of the angle between the two arrays as vectors; 1 where both are zero, 0
                      // where only one is
  double max_abs = 0;             // largest |value - reference|
  std::int64_t worst_index = -1;  // where max_abs is reached first; -1 for empty arrays
  double worst_value = 0;
  double worst_reference = 0;
};

// Arrays of equal length. A NaN in either array, or a difference from an infinite reference, makes
// every figure NaN or infinite and is the worst element: nothing broken compares as good. Equal
// infinities differ by 0.
ErrorMetrics measure_error(std::span<const float> value, std::span<const float> reference);
ErrorMetrics measure_error(std::span<const double> value, std::span<const double> reference);

}  // namespace intflash
