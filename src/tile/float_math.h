// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The few scalar float functions of the arithmetic, each defined operation by operation so that
// every port and every compiler gives the same bits. Loops over them vectorize.
#pragma once

#include <cstdint>

#include "tile/portability.h"

namespace intflash::internal {
namespace {

constexpr float kNegativeInfinity = -__builtin_inff();

// a * b + c with one rounding.
INTFLASH_INLINE float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

// 2^exponent for -126 <= exponent <= 127; 0 for -127.
INTFLASH_INLINE float power_of_two(std::int32_t exponent) {
  return bits_as<float>((exponent + 127) << 23);
}

// To the nearest integer, ties to even; |x| < 2^22, where adding 1.5 * 2^23 leaves no fraction
// bits.
INTFLASH_INLINE float round_small(float x) { return (x + 12582912.0f) - 12582912.0f; }
INTFLASH_INLINE std::int32_t round_to_int(float x) {
  return static_cast<std::int32_t>(round_small(x));
}

// x = mantissa * 2^exponent, mantissa in [0.5, 1), for a normal x > 0.
INTFLASH_INLINE std::int32_t exponent_of(float x) { return (bits_as<std::int32_t>(x) >> 23) - 126; }
INTFLASH_INLINE float mantissa_of(float x) {
  return bits_as<float>((bits_as<std::int32_t>(x) & 0x007fffff) | 0x3f000000);
}

// a where condition holds, else b. A conditional expression would leave g++ 12 a branch to thread
// through what follows, and loops would not vectorize.
INTFLASH_INLINE float select_float(bool condition, float a, float b) {
  const std::int32_t mask = -static_cast<std::int32_t>(condition);
  return bits_as<float>((bits_as<std::int32_t>(a) & mask) | (bits_as<std::int32_t>(b) & ~mask));
}

// The larger of x and a constant.
INTFLASH_INLINE float at_least(float x, float floor) { return select_float(x < floor, floor, x); }

// 2^x on [0, 1), relative error 2e-7: a minimax polynomial of degree 5, exact at 0. The highest
// term comes first.
constexpr float kExp2Terms[] = {0.00186713f, 0.00901703f, 0.05579991f,
                                0.24016445f, 0.69315131f, 1.0f};
// One of them, as a constant that device code may name too.
template <std::int32_t kIndex>
constexpr float kExp2Term = kExp2Terms[kIndex];

// 2^x for -127 <= x <= 126; 0 below 2^-126. Written without branches, so that loops over it
// vectorize.
INTFLASH_INLINE float exp2_in_range(float x) {
  const std::int32_t toward_zero = static_cast<std::int32_t>(x);
  const std::int32_t above = static_cast<float>(toward_zero) > x ? 1 : 0;
  const std::int32_t whole = toward_zero - above;
  const float fraction = x - static_cast<float>(whole);
  float power = fused(fraction, kExp2Term<0>, kExp2Term<1>);
  power = fused(power, fraction, kExp2Term<2>);
  power = fused(power, fraction, kExp2Term<3>);
  power = fused(power, fraction, kExp2Term<4>);
  power = fused(power, fraction, kExp2Term<5>);
  return power * power_of_two(whole);
}
// The same for all x <= 126.
INTFLASH_INLINE float exp2_of(float x) { return exp2_in_range(at_least(x, -127.0f)); }

// What stands for a number of octaves, given by its half: the number itself up to 2^126 in
// magnitude, above 2^125 and the half, since a logit as large as f32 goes has 4.9e38. It is even
// and monotonic, and two such numbers that differ are as good as infinitely far apart either way.
constexpr float kMaxHeldLog2 = 3e38f;
INTFLASH_INLINE float held_log2(float half) {
  const float magnitude = __builtin_fabsf(half);
  const float held = min_of(magnitude + magnitude, magnitude + 0x1p125f);
  return __builtin_copysignf(min_of(held, kMaxHeldLog2), half);
}

// log2 of a mantissa in [0.5, 1), absolute error 1.3e-5, in [-1, 0].
INTFLASH_INLINE float log2_of_mantissa(float mantissa) {
  const float z = mantissa - 0.75f;
  float log = fused(z, 1.43595219f, -1.28018656f);
  log = fused(log, z, 1.13138325f);
  log = fused(log, z, -1.27899561f);
  log = fused(log, z, 1.92367936f);
  log = fused(log, z, -0.41504951f);
  return min_of(max_of(log, -1.0f), 0.0f);
}

}  // namespace
}  // namespace intflash::internal
