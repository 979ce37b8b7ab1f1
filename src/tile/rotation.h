// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The Hadamard rotation of a row of channels, and its inverse.
#pragma once

#include <cstdint>

#include "tile/float_math.h"

namespace intflash::internal {
namespace {

// The sign that rotation gives channel c: bit 31 of a multiplicative hash, so that no natural
// pattern of channels (all equal, alternating) turns into one large coefficient.
INTFLASH_INLINE float rotation_sign(std::int64_t c) {
  const std::uint32_t hash = (static_cast<std::uint32_t>(c) + 1u) * 0x9e3779b1u;
  return bits_as<float>(0x3f800000u | ((hash ^ (hash << 7)) & 0x80000000u));
}

// Walsh-Hadamard transform of each run of `block` channels (the largest power of two that divides
// dim), orthonormal and its own inverse.
INTFLASH_INLINE void transform_row(float* row, std::int64_t dim) {
  const std::int64_t block = dim & -dim;
  for (std::int64_t half = 1; half < block; half *= 2) {
    for (std::int64_t first = 0; first < dim; first += 2 * half) {
      for (std::int64_t c = first; c < first + half; ++c) {
        const float a = row[c];
        const float b = row[c + half];
        row[c] = a + b;
        row[c + half] = a - b;
      }
    }
  }
  std::int32_t log2_block = 0;
  while ((std::int64_t{1} << log2_block) < block) ++log2_block;
  const float root = log2_block % 2 != 0 ? 0.70710678f : 1.0f;
  const float norm = root * power_of_two(-(log2_block / 2));
  for (std::int64_t c = 0; c < dim; ++c) row[c] *= norm;
}

INTFLASH_INLINE void rotate_row(float* row, std::int64_t dim) {
  for (std::int64_t c = 0; c < dim; ++c) row[c] *= rotation_sign(c);
  transform_row(row, dim);
}

INTFLASH_INLINE void unrotate_row(float* row, std::int64_t dim) {
  transform_row(row, dim);
  for (std::int64_t c = 0; c < dim; ++c) row[c] *= rotation_sign(c);
}

}  // namespace
}  // namespace intflash::internal
