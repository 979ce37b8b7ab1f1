// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace intflash::internal {

// sum |out - exact| / sum |exact|
inline double relative_l1(const std::vector<double>& out, const std::vector<double>& exact) {
  double distance = 0, size = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    distance += std::fabs(out[i] - exact[i]);
    size += std::fabs(exact[i]);
  }
  return distance / size;
}

}  // namespace intflash::internal
