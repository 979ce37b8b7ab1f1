// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "merge.h"

#include <bit>
#include <cstdint>
#include <limits>

#include "tile/types.h"

namespace intflash {
namespace {

constexpr double kLn2 = 0.69314718055994530942;

// ln x for a normal x > 0, to 1e-15: x = m 2^e with m in [sqrt(1/2), sqrt(2)), ln m = 2 atanh((m -
// 1) / (m + 1)).
double natural_log(double x) {
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(x);
  double exponent = static_cast<double>(static_cast<std::int64_t>(bits >> 52) - 1023);
  double mantissa = std::bit_cast<double>((bits & 0x000fffffffffffffu) | 0x3ff0000000000000u);
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

}  // namespace

float log_sum_exp(float reference, float row_sum, double term) {
  if (!(row_sum > 0)) return -std::numeric_limits<float>::infinity();
  const double weights = static_cast<double>(row_sum) / (kWeightOne * kValueWeightOne);
  return static_cast<float>(natural_log(weights) + static_cast<double>(reference) * kLn2 + term);
}

}  // namespace intflash
