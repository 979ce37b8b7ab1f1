// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Numbers of 4 to 16 bits in which queries, keys and values may be stored, and what these are then.
#pragma once

#include <span>

#include "pipelines.h"

namespace intflash {

using Rounding = Matrix (*)(const Matrix&);

struct StorageFormat {
  const char* name;
  const char* what;  // for a legend
  Rounding query, key, value;
};

// In the order in which tables print them.
std::span<const StorageFormat> storage_formats();

// What x is once it is stored so: rotated as the library does it, rounded, and rotated back.
Matrix stored(Rounding round, const Matrix& x, bool rotated);

}  // namespace intflash
