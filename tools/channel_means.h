// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Means of keys or values: what a cache takes as their centre.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "npy.h"

namespace intflash {

struct Means {
  std::vector<std::int64_t> shape;  // [heads, dim]
  std::vector<float> elements;
};

// Over the tokens of all the batch, summed in double. Throws Failure naming path where there are
// none, or a sum is not finite.
Means means_of(const NpyArray& array, const std::string& path);

}  // namespace intflash
