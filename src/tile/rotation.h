// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The Hadamard rotation of a row of channels, and its inverse.
#pragma once

#include <cstdint>

#include "tile/float_math.h"

namespace intflash::internal {
namespace {

// Eight channels, at any address. What an instruction set has no such vectors for, compilers take
// apart.
using Channels = float __attribute__((vector_size(32), aligned(4), may_alias));
using ChannelBits = std::uint32_t __attribute__((vector_size(32), aligned(4), may_alias));

// (a, b) -> (a + b, a - b) for the pairs at distance kHalf of each 2 kHalf channels.
template <int kHalf>
INTFLASH_INLINE void turn_pairs(Channels& x) {
  const Channels other = kHalf == 1   ? __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6)
                         : kHalf == 2 ? __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5)
                                      : __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3);
  constexpr std::uint32_t kSign = 0x80000000u;
  constexpr ChannelBits kFlips = kHalf == 1   ? ChannelBits{0, kSign, 0, kSign, 0, kSign, 0, kSign}
                                 : kHalf == 2 ? ChannelBits{0, 0, kSign, kSign, 0, 0, kSign, kSign}
                                              : ChannelBits{0, 0, 0, 0, kSign, kSign, kSign, kSign};
  x = other + (Channels)((ChannelBits)x ^ kFlips);
}

// The transform of 8 kVectors channels, times norm.
template <int kVectors>
INTFLASH_INLINE void transform_run(float* run, float norm) {
  Channels x[kVectors];
  INTFLASH_UNROLL
  for (int i = 0; i < kVectors; ++i) {
    x[i] = *reinterpret_cast<const Channels*>(run + 8 * i);
    turn_pairs<1>(x[i]);
    turn_pairs<2>(x[i]);
    turn_pairs<4>(x[i]);
  }
  INTFLASH_UNROLL
  for (int half = 1; half < kVectors; half *= 2) {
    INTFLASH_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      if ((i & half) != 0) continue;
      const Channels a = x[i];
      const Channels b = x[i + half];
      x[i] = a + b;
      x[i + half] = a - b;
    }
  }
  INTFLASH_UNROLL
  for (int i = 0; i < kVectors; ++i) *reinterpret_cast<Channels*>(run + 8 * i) = x[i] * norm;
}

// Walsh-Hadamard transform of each run of `block` channels (the largest power of two that divides
// dim, which is a multiple of 8), orthonormal and its own inverse.
[[maybe_unused]] INTFLASH_NOINLINE void transform_row(float* row, std::int64_t dim) {
  const std::int64_t block = dim & -dim;
  const int log2_block = __builtin_ctzll(static_cast<unsigned long long>(block));
  const float root = log2_block % 2 != 0 ? 0.70710678f : 1.0f;
  const float norm = root * power_of_two(-(log2_block / 2));
  const std::int64_t run = block < 64 ? 8 : 64;
  for (std::int64_t first = 0; first < dim; first += run) {
    const float scale = run == block ? norm : 1.0f;
    if (run == 64) {
      transform_run<8>(row + first, scale);
    } else {
      transform_run<1>(row + first, scale);
    }
  }
  for (std::int64_t half = run; half < block; half *= 2) {
    const float scale = 2 * half == block ? norm : 1.0f;
    for (std::int64_t first = 0; first < dim; first += 2 * half) {
      for (std::int64_t c = first; c < first + half; c += 8) {
        const Channels a = *reinterpret_cast<const Channels*>(row + c);
        const Channels b = *reinterpret_cast<const Channels*>(row + c + half);
        *reinterpret_cast<Channels*>(row + c) = (a + b) * scale;
        *reinterpret_cast<Channels*>(row + c + half) = (a - b) * scale;
      }
    }
  }
}

// signs: what rotation gives each channel, 1 or -1: core/rotation.h.
INTFLASH_INLINE void rotate_row(const std::int8_t* signs, float* row, std::int64_t dim) {
  for (std::int64_t c = 0; c < dim; ++c) row[c] *= static_cast<float>(signs[c]);
  transform_row(row, dim);
}

INTFLASH_INLINE void unrotate_row(const std::int8_t* signs, float* row, std::int64_t dim) {
  transform_row(row, dim);
  for (std::int64_t c = 0; c < dim; ++c) row[c] *= static_cast<float>(signs[c]);
}

}  // namespace
}  // namespace intflash::internal
