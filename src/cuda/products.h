// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Both integer products of 16 rows and a score block, by a warp, from the tiles of page layout
// version 1 as they lie. A tile's row is 16 outputs of four reduced elements, and a thread that
// reads those of outputs 2 group and 2 group + 1 has one column of two matrices: so columns are
// dealt out that each 64 bytes are read at once, without bank conflicts, and that a thread's
// results are of four outputs next to each other. Where such outputs are rows of one matrix, what a
// thread reads is its fragment as it stands.
#pragma once

#include <cstdint>

#include "cuda/call.h"
#include "cuda/simt.h"
#include "tile/types.h"

namespace intflash::internal {
namespace {

// Where a thread stands in its warp.
struct Lane {
  std::int32_t index, group, quad;
};
INTFLASH_DEVICE Lane lane_of(std::int32_t thread) {
  const std::int32_t index = thread % kWarpThreads;
  return {index, index / 4, index % 4};
}

// Two words of a tile's row.
struct alignas(8) TwoWords {
  std::uint32_t word[2];
};

// A tile where it lies in a page, of so many rows, behind which there are zeros; nullptr: zeros.
struct PageTile {
  const TwoWords* first;
  std::int32_t rows;

  INTFLASH_DEVICE TwoWords load(std::int32_t i) const {
    return first == nullptr || i >= 8 * rows ? TwoWords{} : first[i];
  }
};
// Tiles one behind the other.
struct PageTiles {
  const TwoWords* first;
  std::int32_t rows;  // of each

  INTFLASH_DEVICE PageTile tile(std::int32_t i) const {
    return {first == nullptr ? nullptr : first + i * rows * 8, rows};
  }
};

// Products go by steps of 32 reduced elements. Of a head_dim the last step may have the lower half
// alone: the other is zeros, whatever lies there.
template <int kDim>
constexpr std::int32_t kSteps = (kDim + 31) / 32;
template <int kDim>
INTFLASH_DEVICE constexpr bool has_upper_half(std::int32_t step) {
  static_assert(kDim % 16 == 0);
  return 32 * step + 16 < kDim;
}

// Warps that share 16 rows. Each has a side of a score block's keys, for products with them, and a
// side of the values' channels.
template <int kDim>
constexpr std::int32_t kSides = cuda_sides(kDim);

// A step's columns of a matrix of bytes, of rows group and group + 8 of 16; row: where they begin;
// nullptr: zeros.
INTFLASH_DEVICE void load_rows(const std::uint32_t* row, const std::uint32_t* row_8,
                               std::int32_t at, bool has_upper, std::uint32_t (&a)[4]) {
  a[0] = row != nullptr ? row[at] : 0;
  a[1] = row_8 != nullptr ? row_8[at] : 0;
  a[2] = row != nullptr && has_upper ? row[at + 4] : 0;
  a[3] = row_8 != nullptr && has_upper ? row_8[at + 4] : 0;
}

// Sums over a step, of which the tile's rows from `row` on have four elements each: even and odd
// outputs, as sums_of puts them together.
// Tiles: what gives TwoWords by their place, of shared memory or of the device's. Over 16 products
// a fragment of theirs is one word: over 32 it would be two that are not loaded at once.
template <class Tiles>
INTFLASH_DEVICE void add_products(const Tiles& tiles, std::int32_t row, Lane lane, bool has_upper,
                                  const std::uint32_t (&a)[4], std::int32_t (&even)[4],
                                  std::int32_t (&odd)[4]) {
  const TwoWords low = tiles.load((row + lane.quad) * 8 + lane.group);
  multiply_add_s8(even, a[0], a[1], low.word[0]);
  multiply_add_s8(odd, a[0], a[1], low.word[1]);
  if (!has_upper) return;
  const TwoWords high = tiles.load((row + 4 + lane.quad) * 8 + lane.group);
  multiply_add_s8(even, a[2], a[3], high.word[0]);
  multiply_add_s8(odd, a[2], a[3], high.word[1]);
}
// The same of P, whose fragments these are, with the tile's outputs in the products' rows: 2 group
// and 2 group + 1, of query rows 2 quad and 2 quad + 1, and of those behind 8. So what is loaded at
// once is a fragment as it stands.
INTFLASH_DEVICE void add_weighted(const Shared<TwoWords>& tiles, std::int32_t row, Lane lane,
                                  const std::uint32_t (&p)[4], std::int32_t (&sums)[2][4]) {
  const TwoWords low = tiles.load((row + lane.quad) * 8 + lane.group);
  const TwoWords high = tiles.load((row + 4 + lane.quad) * 8 + lane.group);
  const std::uint32_t a[4] = {low.word[0], low.word[1], high.word[0], high.word[1]};
  multiply_add_u8(sums[0], a, p[0], p[2]);
  multiply_add_u8(sums[1], a, p[1], p[3]);
}

// Four outputs next to each other: 4 quad ... + 3 of 16, of row group + 8 half.
struct alignas(16) FourSums {
  std::int32_t output[4];
};
INTFLASH_DEVICE FourSums sums_of(const std::int32_t (&even)[4], const std::int32_t (&odd)[4],
                                 std::int32_t half) {
  return {{even[2 * half], odd[2 * half], even[2 * half + 1], odd[2 * half + 1]}};
}

// Products of 16 rows with the keys of a score block that are a warp's, 16 at a time: rows group
// and group + 8.
template <int kDim>
struct BlockProducts {
  static constexpr std::int32_t kTiles = kScoreBlock / 16 / kSides<kDim>;

  std::int32_t even[kTiles][4], odd[kTiles][4];

  // To whatever there is.
  INTFLASH_DEVICE void set_any() {
    INTFLASH_UNROLL
    for (std::int32_t tile = 0; tile < kTiles; ++tile) {
      INTFLASH_UNROLL
      for (std::int32_t i = 0; i < 4; ++i) even[tile][i] = odd[tile][i] = any_value();
    }
  }
  // Of the warp's key 16 tile + 4 quad + i and row group + 8 half.
  INTFLASH_DEVICE std::int32_t& at(std::int32_t tile, std::int32_t half, std::int32_t i) {
    return i % 2 == 0 ? even[tile][2 * half + i / 2] : odd[tile][2 * half + i / 2];
  }
};

// Words of a score block's copy in shared memory: 128 keys, and as many values.
template <int kDim>
struct BlockCopy {
  static constexpr std::int32_t kBytes = kScoreBlock * kDim;

  // Begins to copy codes of one half of it, 64 tokens, by all of kCopiers threads; nullptr: zeros.
  template <std::int32_t kCopiers>
  static INTFLASH_DEVICE void begin(Shared<Bytes16> to, std::int32_t half, const std::int8_t* from,
                                    std::int32_t thread) {
    constexpr std::int32_t kHalf = kBytes / 32;
    const std::int8_t* const own = made_once(from + 16 * thread);
    INTFLASH_UNROLL
    for (std::int32_t first = 0; first < kHalf; first += kCopiers) {
      const std::int32_t i = first + thread;
      if (first + kCopiers <= kHalf || i < kHalf)
        copy_async(to, half * kHalf + i, own + 16 * first, from != nullptr);
    }
  }
  // The same of runs, one behind the other in a page, that are shorter there than here by zeros.
  // In 16 bytes: how long a run is here, and there.
  static INTFLASH_DEVICE void begin_padded(Shared<Bytes16> to, std::int32_t half,
                                           const std::int8_t* from, std::int32_t run,
                                           std::int32_t own, std::int32_t thread,
                                           std::int32_t threads) {
    constexpr std::int32_t kHalf = kBytes / 32;
    for (std::int32_t i = thread; i < kHalf; i += threads) {
      const std::int32_t at = i % run;
      const bool is_there = from != nullptr && at < own;
      copy_async(to, half * kHalf + i, is_there ? from + 16 * (i / run * own + at) : nullptr,
                 is_there);
    }
  }
};

}  // namespace
}  // namespace intflash::internal
