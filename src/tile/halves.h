// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Numbers of 16 bits as f32, each exactly, and f32 as such numbers.
#pragma once

#include <cstdint>

#include "tile/portability.h"

namespace intflash::internal {
namespace {

INTFLASH_INLINE float widen_f16(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000u) << 16;
  const std::uint32_t magnitude = (half & 0x7fffu) << 13;
  // Read with f32's exponent bias the value is 2^112 too small; the product is exact for normal and
  // subnormal halves.
  const std::uint32_t finite = bits_as<std::uint32_t>(bits_as<float>(magnitude) * 0x1p112f);
  return bits_as<float>(sign | (magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : finite));
}

INTFLASH_INLINE float widen_bf16(std::uint16_t half) {
  return bits_as<float>(static_cast<std::uint32_t>(half) << 16);
}

// To nearest even; beyond 65504 infinity.
INTFLASH_INLINE std::uint16_t narrow_f16(float value) {
  const std::uint32_t bits = bits_as<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  // Below 2^-14 the sum with 0.5 leaves the subnormal half in the low bits, rounded by the
  // addition.
  const std::uint32_t subnormal =
      bits_as<std::uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000u;
  const std::uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const std::uint32_t overflow = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const std::uint32_t half =
      magnitude >= 0x47800000u ? overflow : (magnitude < 0x38800000u ? subnormal : normal);
  return static_cast<std::uint16_t>(sign | half);
}
INTFLASH_INLINE std::uint16_t narrow_bf16(float value) {
  const std::uint32_t bits = bits_as<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u
                                                                       : rounded);
}

}  // namespace
}  // namespace intflash::internal
