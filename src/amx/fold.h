// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The tiles of P V on their way into the accumulators: first in, first out, eight rows at a time.
#pragma once

#include <cstdint>

#include "amx/products.h"
#include "amx/simd.h"

namespace intflash::internal {
namespace {

INTFLASH_INLINE void fold_row(const std::int32_t* from, float gain, float* out) {
  Amx::store_f32(
      out, Amx::fma(Amx::to_f32(Amx::load(from)), Amx::broadcast_f32(gain), Amx::load_f32(out)));
}

// Tiles between the store of one and the fold of it: vectors cannot take the bytes of a tile store
// before they are in L1, so a tile waits for four multiplications.
constexpr std::int32_t kProductTiles = 4;

// Products of a tile of rows with channel tiles 0, 1, ...: tile number kRowTiles * channel tile +
// row tile.
template <std::int32_t kRowTiles>
class FoldQueue {
 public:
  using Products = std::int32_t[kProductTiles][16][16];

  INTFLASH_INLINE explicit FoldQueue(Products& products) : products_(products) {}

  // The next tiles belong to rows 0 ... rows - 1 with these gains and accumulators.
  INTFLASH_INLINE void start(const float* gain, float* const* accumulators, std::int32_t rows) {
    gain_ = gain;
    accumulators_ = accumulators;
    rows_ = rows;
    folded_ = allowed_ = from_ = row_ = channel_ = 0;
  }

  // Where the products with a channel tile go.
  INTFLASH_INLINE TileMatrix place(std::int32_t channel_tile) const {
    const std::int32_t first = kRowTiles * channel_tile % kProductTiles;
    return {{products_[first], products_[first + kRowTiles - 1]}, 64, 0};
  }
  // Tiles below this number have been stored long enough ago.
  INTFLASH_INLINE void allow(std::int32_t tiles) { allowed_ = 2 * tiles; }

  INTFLASH_INLINE void fold_eight() {
    if (folded_ >= allowed_) return;
    const std::int32_t* from = &products_[0][0][0] + from_;
    const float* gain = gain_ + row_;
    float* const* accumulators = accumulators_ + row_;
    const std::int64_t channel = channel_;
    const std::int32_t rows = rows_ - row_;
    ++folded_;
    from_ = (from_ + 8 * 16) & (kProductTiles * 16 * 16 - 1);
    row_ = (row_ + 8) & (kRowTiles * kRowsPerTile - 1);
    channel_ += row_ == 0 ? 16 : 0;
    if (rows >= 8) {
      INTFLASH_UNROLL
      for (std::int32_t r = 0; r < 8; ++r)
        fold_row(from + r * 16, gain[r], accumulators[r] + channel);
    } else {
      for (std::int32_t r = 0; r < rows; ++r)
        fold_row(from + r * 16, gain[r], accumulators[r] + channel);
    }
  }
  INTFLASH_INLINE void drain() {
    while (folded_ < allowed_) fold_eight();
  }

 private:
  Products& products_;
  const float* gain_ = nullptr;
  float* const* accumulators_ = nullptr;
  std::int32_t rows_ = 0;
  // In eights of rows.
  std::int32_t folded_ = 0;
  std::int32_t allowed_ = 0;
  // Of the next eight.
  std::int32_t from_ = 0;
  std::int32_t row_ = 0;
  std::int32_t channel_ = 0;
};

}  // namespace
}  // namespace intflash::internal
