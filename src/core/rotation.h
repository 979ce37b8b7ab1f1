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

// Which channels change their signs before the transform, and after its inverse: bit 31 where they
// do, [kMaxHeadDim]; nullptr: rows are not rotated.
const std::uint32_t* rotation_signs(bool rotated);
// Undoes the rotation of a row; ports have their own way.
void rotate_back(float* row, std::int64_t dim);

}  // namespace intflash::internal
