// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What channels are multiplied by in the Hadamard rotation, before and after the transform.
#pragma once

#include <cstdint>

#include "tile/float_math.h"

namespace intflash::internal {
namespace {

// Bit 31, where a channel's sign flips, of a multiplicative hash of the channel, so that no natural
// pattern of channels (all equal, alternating) turns into one large coefficient.
INTFLASH_INLINE constexpr std::uint32_t rotation_sign(std::uint32_t channel) {
  const std::uint32_t hash = (channel + 1) * 0x9e3779b1u;
  return (hash ^ (hash << 7)) & 0x80000000u;
}

// What makes the transform of a row of dim channels orthonormal.
INTFLASH_INLINE float transform_factor(std::int64_t dim) {
  std::int32_t log2_block = 0;
  while ((dim >> log2_block & 1) == 0) ++log2_block;
  const float root = log2_block % 2 != 0 ? 0.70710678f : 1.0f;
  return root * power_of_two(-(log2_block / 2));
}

}  // namespace
}  // namespace intflash::internal
