// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "core/rotation.h"

#include <array>

#include "core/checks.h"
#include "tile/hadamard.h"
#include "tile/rotation.h"
#include "tile/types.h"

namespace intflash::internal {
namespace {

constexpr std::array<std::uint32_t, kMaxHeadDim> make_signs() {
  std::array<std::uint32_t, kMaxHeadDim> signs{};
  for (std::uint32_t c = 0; c < kMaxHeadDim; ++c) signs[c] = rotation_sign(c);
  return signs;
}
alignas(64) constexpr std::array<std::uint32_t, kMaxHeadDim> kSigns = make_signs();

}  // namespace

intflash_status choose_rotation(intflash_rotation given, std::int64_t head_dim,
                                std::int64_t head_dim_v, Rotation& rotation) {
  if (given != INTFLASH_ROTATION_AUTO && given != INTFLASH_ROTATION_NONE) {
    return fail(INTFLASH_INVALID_ARGUMENT, "rotation = %d: must be AUTO or NONE",
                static_cast<int>(given));
  }
  const auto can_rotate = [&](std::int64_t dim) {
    return given == INTFLASH_ROTATION_AUTO && dim / (dim & -dim) <= 9;
  };
  rotation = {can_rotate(head_dim), can_rotate(head_dim_v)};
  return INTFLASH_OK;
}

const std::uint32_t* rotation_signs(bool rotated) { return rotated ? kSigns.data() : nullptr; }

void rotate_back(float* row, std::int64_t dim) {
  unrotate_row<RowLoops>(row, 1.0f, kSigns.data(), row, dim);
}

}  // namespace intflash::internal
