// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "pipelines.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "pipeline_parts.h"

namespace intflash {

double round_to_float(double value, int fraction_bits, int min_exponent, double max) {
  if (value == 0 || std::isnan(value)) return value;
  const double magnitude = std::min(std::fabs(value), max);
  // Below the smallest normal number the step no longer shrinks.
  const int exponent = std::max(std::ilogb(magnitude), min_exponent);
  const double step = std::ldexp(1.0, exponent - fraction_bits);
  return std::copysign(std::nearbyint(magnitude / step) * step, value);
}
double round_to_e4m3(double value) { return round_to_float(value, 3, -6, 448); }
double round_to_e5m2(double value) { return round_to_float(value, 2, -14, 57344); }

std::span<const Pipeline> pipelines() {
  static const std::vector<Pipeline> all = [] {
    std::vector<Pipeline> lists;
    for (const std::span<const Pipeline> list :
         {fp8_pipelines(), sage_pipelines(), turbo_pipelines(), integer_pipelines()})
      lists.insert(lists.end(), list.begin(), list.end());
    return lists;
  }();
  return all;
}

const Pipeline& pipeline(const char* name) {
  return *std::find_if(pipelines().begin(), pipelines().end(),
                       [name](const Pipeline& p) { return std::strcmp(p.name, name) == 0; });
}

Matrix attend_unrounded(const Head& head) {
  return attend(head, {unrounded, Maximum::kRunning, Sum::kUnrounded});
}

}  // namespace intflash
