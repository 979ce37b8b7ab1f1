// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The natural logarithm of a row's softmax denominator, from its state, in double precision.
#pragma once

#include <cstdint>

#include "tile/float_math.h"
#include "tile/types.h"

namespace intflash::internal {
namespace {

constexpr double kLn2 = 0.69314718055994530942;

// ln x for a normal x > 0, to 1e-15: x = m 2^e with m in [sqrt(1/2), sqrt(2)), ln m = 2 atanh((m -
// 1) / (m + 1)).
INTFLASH_INLINE double natural_log(double x) {
  const std::uint64_t bits = bits_as<std::uint64_t>(x);
  double exponent = static_cast<double>(static_cast<std::int64_t>(bits >> 52) - 1023);
  double mantissa = bits_as<double>((bits & 0x000fffffffffffffu) | 0x3ff0000000000000u);
  if (mantissa > 1.41421356237309505) {
    mantissa *= 0.5;
    exponent += 1;
  }
  const double z = (mantissa - 1) / (mantissa + 1);
  const double z2 = z * z;  // < 0.0295: 10 terms leave less than 1e-16
  double series = 0;
  for (int odd = 21; odd >= 1; odd -= 2) series = series * z2 + 1.0 / odd;
  return exponent * kLn2 + 2 * z * series;
}

// What held_log2 stands for.
INTFLASH_INLINE double log2_of_held(double held) {
  const double magnitude = __builtin_fabs(held);
  return magnitude <= 0x1p126 ? held : __builtin_copysign(2 * (magnitude - 0x1p125), held);
}

// term: what is added to it. -infinity of a row that saw no key.
INTFLASH_INLINE float log_sum_exp_of(float reference, float row_sum, double term) {
  if (!(row_sum > 0)) return kNegativeInfinity;
  const double weights = static_cast<double>(row_sum) / (kWeightOne * kValueWeightOne);
  const double log2 = log2_of_held(static_cast<double>(reference));
  // What is finite may not round to infinity.
  constexpr double kLargest = 0x1.fffffep127;
  return static_cast<float>(
      min_of(max_of(natural_log(weights) + log2 * kLn2 + term, -kLargest), kLargest));
}

}  // namespace
}  // namespace intflash::internal
