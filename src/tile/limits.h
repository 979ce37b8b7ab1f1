// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Magnitudes that the arithmetic takes, and the constant between its logarithms and the caller's.
#pragma once

namespace intflash::internal {

// Beyond 2^100 means, rotations and scores of queries and keys would leave the range of f32, and
// beyond 2^90 sums of weighted values would.
constexpr int kMaxKeyExponent = 100;
constexpr int kMaxValueExponent = 90;
constexpr double kMaxKey = 0x1p100;
constexpr double kMaxQuery = kMaxKey;
constexpr double kMaxValue = 0x1p90;

constexpr double kLog2E = 1.44269504088896340736;

}  // namespace intflash::internal
