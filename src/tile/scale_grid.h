// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Scales of values lie on a grid of powers of 2: their log2 is exact in fixed point.
#pragma once

#include <cstdint>

#include "tile/types.h"

namespace intflash::internal {
namespace {

// 2^(k/64 - 1), a step of log2 in fixed point apart.
constexpr std::int32_t kScaleSteps = 1 << kFractionBits;
struct ScaleGrid {
  float mantissa[kScaleSteps + 2];  // one more than there are is looked up, and not used
};
constexpr ScaleGrid scale_grid() {
  constexpr double kStep = 1.0108892860517005;  // 2^(1/64)
  ScaleGrid grid{};
  double mantissa = 0.5;
  for (float& rounded : grid.mantissa) {
    rounded = static_cast<float>(mantissa);
    mantissa *= kStep;
  }
  return grid;
}
constexpr ScaleGrid kScaleGrid = scale_grid();

}  // namespace
}  // namespace intflash::internal
