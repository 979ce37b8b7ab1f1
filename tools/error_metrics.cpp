// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// One pass over the two arrays.
#include "error_metrics.h"

#include <cmath>
#include <limits>

namespace intflash {
namespace {

// x / y where 0 / 0 means "nothing differs from nothing".
double ratio(double x, double y, double zero_over_zero) {
  return x == 0 && y == 0 ? zero_over_zero : x / y;
}

template <class T>
ErrorMetrics measure(std::span<const T> values, std::span<const T> references) {
  ErrorMetrics metrics;
  double difference_sum = 0, reference_sum = 0, square_sum = 0;
  double product_sum = 0, value_norm = 0, reference_norm = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double value = values[i];
    const double reference = references[i];
    // inf - inf would be NaN, yet an lse of -inf that is expected to be -inf is right.
    const double difference = value == reference ? 0 : std::fabs(value - reference);
    difference_sum += difference;
    square_sum += difference * difference;
    if (std::isfinite(reference) || value != reference) {
      reference_sum += std::fabs(reference);
      product_sum += value * reference;
      value_norm += value * value;
      reference_norm += reference * reference;
    }
    // "not <=" instead of ">": a NaN is worse than anything, and stays the worst.
    if (metrics.worst_index < 0 ||
        (!(difference <= metrics.max_abs) && !std::isnan(metrics.max_abs))) {
      metrics.max_abs = difference;
      metrics.worst_index = static_cast<std::int64_t>(i);
      metrics.worst_value = value;
      metrics.worst_reference = reference;
    }
  }
  if (values.empty()) return metrics;
  metrics.rel_l1 = ratio(difference_sum, reference_sum, 0);
  metrics.rmse = std::sqrt(square_sum / static_cast<double>(values.size()));
  if (value_norm == 0 || reference_norm == 0) {
    metrics.cosine = value_norm == reference_norm ? 1 : 0;
  } else {
    metrics.cosine = product_sum / (std::sqrt(value_norm) * std::sqrt(reference_norm));
  }
  return metrics;
}

}  // namespace

ErrorMetrics measure_error(std::span<const float> value, std::span<const float> reference) {
  return measure(value, reference);
}

ErrorMetrics measure_error(std::span<const double> value, std::span<const double> reference) {
  return measure(value, reference);
}

}  // namespace intflash
