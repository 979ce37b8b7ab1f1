// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The Hadamard rotation of a row of channels, and its inverse: the transform of each run of
// 2^k channels, the largest power of two that divides dim (a multiple of 8), orthonormal and its
// own inverse.
#pragma once

#include <cstdint>

#include "tile/float_math.h"
#include "tile/hadamard.h"
#include "tile/row_ops.h"

namespace intflash::internal {
namespace {

// Lane by lane the largest magnitudes met, as bits.
template <class Ops>
struct LargestLanes {
  typename Ops::I32 bits = Ops::zero();

  INTFLASH_INLINE void meet(typename Ops::F32 x) {
    bits = Ops::max32(bits, Ops::magnitude_bits(x));
  }
  INTFLASH_INLINE std::uint32_t largest() const {
    return static_cast<std::uint32_t>(Ops::max_lane32(bits));
  }
};

// 1, or -1 for the upper lane of a pair at kDistance.
template <std::int32_t kDistance>
struct PairSigns {
  alignas(64) float lane[16] = {};
  constexpr PairSigns() {
    for (std::int32_t i = 0; i < 16; ++i) lane[i] = (i & kDistance) == 0 ? 1.0f : -1.0f;
  }
};
template <std::int32_t kDistance>
constexpr PairSigns<kDistance> kPairSigns;

// (a, b) -> (a + b, a - b) for the pairs of lanes at kDistance of each vector, then at twice that.
template <class Ops, std::int32_t kDistance, std::int32_t kVectors>
INTFLASH_INLINE void turn_lanes(typename Ops::F32* x) {
  if constexpr (kDistance < Ops::kLanes) {
    const auto signs = Ops::load_f32(kPairSigns<kDistance>.lane);
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < kVectors; ++i)
      x[i] = Ops::add_signed(Ops::template swapped<kDistance>(x[i]), x[i], signs);
    turn_lanes<Ops, 2 * kDistance, kVectors>(x);
  }
}

// The same for pairs of vectors.
template <class Ops, std::int32_t kVectors>
INTFLASH_INLINE void turn_vectors(typename Ops::F32* x) {
  INTFLASH_UNROLL
  for (std::int32_t half = 1; half < kVectors; half *= 2) {
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < kVectors; ++i) {
      if ((i & half) != 0) continue;
      const auto a = x[i];
      const auto b = x[i + half];
      x[i] = Ops::add_f32(a, b);
      x[i + half] = Ops::sub_f32(a, b);
    }
  }
}

// The transform of runs of `block` channels: kVectors at a time in registers, load(first, i) of
// them being the channels from first + i on; what is left of it in memory. Its vectors go to
// finish(channel, vector), which has yet to multiply.
template <class Ops, std::int32_t kVectors, class Load, class Finish>
INTFLASH_INLINE void transform_blocks(std::int64_t dim, std::int64_t block, float* between,
                                      Load load, Finish finish) {
  constexpr std::int64_t kRun = kVectors * Ops::kLanes;
  for (std::int64_t first = 0; first < dim; first += kRun) {
    typename Ops::F32 x[kVectors];
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < kVectors; ++i) x[i] = load(first, i * Ops::kLanes);
    turn_lanes<Ops, 1, kVectors>(x);
    turn_vectors<Ops, kVectors>(x);
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < kVectors; ++i) {
      const std::int64_t c = first + i * Ops::kLanes;
      if (block == kRun) {
        finish(c, x[i]);
      } else {
        Ops::store_any_f32(between + c, x[i]);
      }
    }
  }
  for (std::int64_t half = kRun; half < block; half *= 2) {
    for (std::int64_t first = 0; first < dim; first += 2 * half) {
      for (std::int64_t c = first; c < first + half; c += Ops::kLanes) {
        const auto a = Ops::load_any_f32(between + c);
        const auto b = Ops::load_any_f32(between + c + half);
        if (2 * half == block) {
          finish(c, Ops::add_f32(a, b));
          finish(c + half, Ops::sub_f32(a, b));
        } else {
          Ops::store_any_f32(between + c, Ops::add_f32(a, b));
          Ops::store_any_f32(between + c + half, Ops::sub_f32(a, b));
        }
      }
    }
  }
}

template <class Ops, class Load, class Finish>
INTFLASH_INLINE void transform(std::int64_t dim, float* between, Load load, Finish finish) {
  const std::int64_t block = dim & -dim;
  if (block >= 8 * Ops::kLanes) {
    transform_blocks<Ops, 8>(dim, block, between, load, finish);
    return;
  }
  // Shorter runs than that are rare.
  if constexpr (4 * Ops::kLanes >= 32) {
    if (block >= 4 * Ops::kLanes) {
      transform_blocks<Ops, 4>(dim, block, between, load, finish);
      return;
    }
  }
  transform_blocks<Ops, 1>(dim, block, between, load, finish);
}

// row = the rotation of load's channels; returns the bits of its largest magnitude.
// signs: core/rotation.h.
template <class Ops, class Load>
INTFLASH_INLINE std::uint32_t rotate_channels(Load load, const std::uint32_t* signs, float* row,
                                              std::int64_t dim) {
  using F32 = typename Ops::F32;
  const F32 factor = Ops::broadcast_f32(transform_factor(dim));
  LargestLanes<Ops> largest;
  transform<Ops>(
      dim, row,
      [&](std::int64_t first, std::int64_t i) {
        return Ops::flip_signs(load(first, i), signs + first + i);
      },
      [&](std::int64_t c, F32 x) {
        x = Ops::mul_f32(x, factor);
        Ops::store_any_f32(row + c, x);
        largest.meet(x);
      });
  return largest.largest();
}

// Whether Ops' vectors fit the transform's shortest runs.
template <class Ops>
INTFLASH_INLINE bool has_whole_vectors(std::int64_t dim) {
  return Ops::kLanes <= 8 || dim % Ops::kLanes == 0;
}

// Here and below both rows may be one.
template <class Ops>
INTFLASH_NOINLINE std::uint32_t rotate_row(const float* channels, const std::uint32_t* signs,
                                           float* row, std::int64_t dim) {
  if (!has_whole_vectors<Ops>(dim)) return rotate_row<RowLoops>(channels, signs, row, dim);
  return rotate_channels<Ops>(
      [&](std::int64_t first, std::int64_t i) { return Ops::load_any_f32(channels + first + i); },
      signs, row, dim);
}
// The channels times a factor, and their rotation undone.
template <class Ops>
INTFLASH_NOINLINE void unrotate_row(const float* channels, float times, const std::uint32_t* signs,
                                    float* row, std::int64_t dim) {
  if (!has_whole_vectors<Ops>(dim)) return unrotate_row<RowLoops>(channels, times, signs, row, dim);
  using F32 = typename Ops::F32;
  const F32 all_times = Ops::broadcast_f32(times);
  const F32 factor = Ops::broadcast_f32(transform_factor(dim));
  transform<Ops>(
      dim, row,
      [&](std::int64_t first, std::int64_t i) {
        return Ops::mul_f32(Ops::load_any_f32(channels + first + i), all_times);
      },
      [&](std::int64_t c, F32 x) {
        Ops::store_any_f32(row + c, Ops::flip_signs(Ops::mul_f32(x, factor), signs + c));
      });
}

}  // namespace
}  // namespace intflash::internal
