// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Pairwise covers: few cases in which each pair of levels of each two factors occurs together.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace intflash::internal {

// Whether level a of factor f may meet level b of factor g, f < g.
using PairRule = std::function<bool(int f, int a, int g, int b)>;

// Rows of levels, one per factor; factor f has the levels 0 ... num_levels[f] - 1. Every allowed
// pair occurs in some row and no other pair in any, as long as every allowed pair can be completed
// to a row; a pair that the search cannot complete is left out. The same rows for the same
// arguments, on every platform.
std::vector<std::vector<int>> pairwise_cover(const std::vector<int>& num_levels,
                                             const PairRule& allowed);

}  // namespace intflash::internal
