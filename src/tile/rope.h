// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Rotary position embedding of a row: products and sums rounded one by one.
#pragma once

#include <cstdint>

#include "tile/portability.h"
#include "tile/types.h"

namespace intflash::internal {
namespace {

INTFLASH_INLINE void turn_pair(float& x, float& y, float cos, float sin) {
  const float turned = x * cos - y * sin;
  y = x * sin + y * cos;
  x = turned;
}

// channels belong to row `row` of rope.
INTFLASH_INLINE void embed_row(const RopeRows& rope, std::int64_t row,
                               float* INTFLASH_RESTRICT channels) {
  const std::int64_t pairs = rope.dim / 2;
  const float* cos = rope.cos + row * pairs;
  const float* sin = rope.sin + row * pairs;
  if (rope.halves != 0) {
    for (std::int64_t i = 0; i < pairs; ++i)
      turn_pair(channels[i], channels[i + pairs], cos[i], sin[i]);
  } else {
    for (std::int64_t i = 0; i < pairs; ++i)
      turn_pair(channels[2 * i], channels[2 * i + 1], cos[i], sin[i]);
  }
}

}  // namespace
}  // namespace intflash::internal
