// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "engine/merge.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "core/checks.h"
#include "core/float_state.h"
#include "intflash/cache.h"
#include "tile/float_math.h"
#include "tile/types.h"

namespace intflash::internal {
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

intflash_status check_states(std::int64_t num_states, const float* const* outs,
                             const float* const* lses, std::int64_t rows) {
  for (std::int64_t i = 0; i < num_states; ++i) {
    if (outs[i] == nullptr || lses[i] == nullptr) {
      return fail(INTFLASH_INVALID_ARGUMENT, "outs[%lld], lses[%lld]: must not be NULL",
                  static_cast<i64>(i), static_cast<i64>(i));
    }
    for (const float* state : {outs[i], lses[i]}) {
      if (reinterpret_cast<std::uintptr_t>(state) % alignof(float) == 0) continue;
      return fail(INTFLASH_INVALID_ARGUMENT,
                  "outs[%lld] = %p, lses[%lld] = %p: must be multiples of %zu", static_cast<i64>(i),
                  static_cast<const void*>(outs[i]), static_cast<i64>(i),
                  static_cast<const void*>(lses[i]), alignof(float));
    }
    for (std::int64_t r = 0; r < rows; ++r) {
      if (lses[i][r] < std::numeric_limits<float>::infinity()) continue;
      return fail(INTFLASH_NONFINITE_INPUT, "lses[%lld][%lld] = %g: must be finite, or -infinity",
                  static_cast<i64>(i), static_cast<i64>(r), static_cast<double>(lses[i][r]));
    }
  }
  return INTFLASH_OK;
}

// One row of all states. Elements are read before they are written: out may be a state's own.
void merge_row(std::int64_t num_states, const float* const* outs, const float* const* lses,
               std::int64_t row, std::int64_t dim, float* out, float* lse) {
  float largest = kNegativeInfinity;
  for (std::int64_t i = 0; i < num_states; ++i) largest = max_of(largest, lses[i][row]);
  const auto weight = [&](std::int64_t i) {
    const double distance = static_cast<double>(lses[i][row]) - static_cast<double>(largest);
    return static_cast<double>(exp2_of(static_cast<float>(distance / kLn2)));
  };
  if (largest == kNegativeInfinity) {
    for (std::int64_t c = 0; c < dim; ++c) out[row * dim + c] = 0;
    lse[row] = kNegativeInfinity;
    return;
  }
  double sum = 0;
  for (std::int64_t i = 0; i < num_states; ++i) sum += weight(i);
  constexpr std::int64_t kPiece = 64;
  for (std::int64_t first = 0; first < dim; first += kPiece) {
    const std::int64_t count = min_of(kPiece, dim - first);
    double weighted[kPiece] = {};
    for (std::int64_t i = 0; i < num_states; ++i) {
      if (lses[i][row] == kNegativeInfinity) continue;
      const double factor = weight(i);
      const float* state = outs[i] + row * dim + first;
      for (std::int64_t c = 0; c < count; ++c)
        weighted[c] += factor * static_cast<double>(state[c]);
    }
    for (std::int64_t c = 0; c < count; ++c)
      out[row * dim + first + c] = static_cast<float>(weighted[c] / sum);
  }
  lse[row] = static_cast<float>(static_cast<double>(largest) + natural_log(sum));
}

}  // namespace

float log_sum_exp(float reference, float row_sum, double term) {
  if (!(row_sum > 0)) return -std::numeric_limits<float>::infinity();
  const double weights = static_cast<double>(row_sum) / (kWeightOne * kValueWeightOne);
  return static_cast<float>(natural_log(weights) + static_cast<double>(reference) * kLn2 + term);
}

}  // namespace intflash::internal

extern "C" intflash_status intflash_merge_states(int64_t num_states, const float* const* outs,
                                                 const float* const* lses, int64_t rows,
                                                 int64_t dim, float* out, float* lse) {
  using namespace intflash::internal;
  intflash_status status = check_extent("num_states", num_states, 0);
  if (status == INTFLASH_OK) status = check_extent("rows", rows, 0);
  if (status == INTFLASH_OK) status = check_extent("dim", dim, 1);
  if (status != INTFLASH_OK) return status;
  if (rows == 0) return INTFLASH_OK;
  const bool has_states = outs != nullptr && lses != nullptr;
  if ((num_states > 0 && !has_states) || out == nullptr || lse == nullptr)
    return fail(INTFLASH_INVALID_ARGUMENT, "outs, lses, out and lse: must not be NULL");
  status = check_pointer("outs", outs);
  if (status == INTFLASH_OK) status = check_pointer("lses", lses);
  if (status == INTFLASH_OK) status = check_pointer("out", out);
  if (status == INTFLASH_OK) status = check_pointer("lse", lse);
  if (status != INTFLASH_OK) return status;
  status = check_states(num_states, outs, lses, rows);
  if (status != INTFLASH_OK) return status;
  const FloatState float_state;
  for (std::int64_t row = 0; row < rows; ++row)
    merge_row(num_states, outs, lses, row, dim, out, lse);
  return INTFLASH_OK;
}
