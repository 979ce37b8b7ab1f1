// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Which rows are rotated before they are quantized, and the signs of the rotation.
#pragma once

#include <cstdint>

#include "intflash/intflash.h"

namespace intflash::internal {

struct Rotation {
  bool keys;  // and queries
  bool values;

  bool operator==(const Rotation&) const = default;
};
// What the caller's choice comes to for rows of these lengths.
intflash_status choose_rotation(intflash_rotation given, std::int64_t head_dim,
                                std::int64_t head_dim_v, Rotation& rotation);

// What rows are multiplied by before the transform, and after its inverse: 1 or -1, [kMaxHeadDim];
// nullptr: they are not rotated.
const std::int8_t* rotation_signs(bool rotated);
// Undoes the rotation of a row.
void rotate_back(float* row, std::int64_t dim);

}  // namespace intflash::internal
