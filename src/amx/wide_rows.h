// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The vector work of the pipeline of 32 rows, row after row.
#pragma once

#include <cstdint>

#include "amx/fold.h"
#include "amx/products.h"
#include "amx/rows.h"
#include "amx/softmax.h"

namespace intflash::internal {
namespace {

constexpr std::int32_t kHalfTiles = kKeyTiles / 2;

// Dots of 32 rows in two buffers of eight tiles, one for each half of the keys. Folded scores take
// the place of the first half's dots, which are read by then: a row's four vectors lie where its
// dots with keys 0 ... 63 lay. In the next block the buffers change places, and dots with the
// second half of the keys come where folded scores are being read; their tiles come in the order of
// reading, so that rows 0 ... 15 lie in the first four and are read before the first tile comes,
// and all rows before the fifth.
class WideScores {
 public:
  INTFLASH_INLINE explicit WideScores(WideBuffers& buffers)
      : first_(buffers.scores[0]), second_(buffers.scores[1]) {}

  INTFLASH_INLINE void next_turn() {
    char* first = first_;
    first_ = second_;
    second_ = first;
  }
  INTFLASH_INLINE char* tile(std::int32_t row_tile, std::int32_t key_tile) const {
    return key_tile < kHalfTiles ? first_ + (row_tile * kHalfTiles + key_tile) * kTileBytes
                                 : second_ + ((key_tile - kHalfTiles) * 2 + row_tile) * kTileBytes;
  }
  // A row's first folded scores of the last turn, kTileBytes apart.
  INTFLASH_INLINE const char* folded_of_last_turn(std::uint32_t r) const {
    return second_ + row_at<kHalfTiles>(r);
  }
  // A row's first dots with each half of the keys; its folded scores go to the first.
  INTFLASH_INLINE char* low(std::uint32_t r) const { return first_ + row_at<kHalfTiles>(r); }
  INTFLASH_INLINE const char* high(std::uint32_t r) const { return second_ + row_at<1>(r); }

 private:
  // Bytes from row 0 to row r where tiles of rows 16 ... 31 come kTiles behind those of the others.
  template <std::uint32_t kTiles>
  static INTFLASH_INLINE std::uint32_t row_at(std::uint32_t r) {
    return r * 64 + (r & kRowsPerTile) * (kTiles * kTileBytes / kRowsPerTile - 64);
  }

  char* first_;
  char* second_;
};

class RowScorer {
 public:
  INTFLASH_INLINE RowScorer(AmxScratch& scratch, const WideScores& scores, const ScoreBlock& block)
      : scratch_(scratch), scores_(scores), constants_(block) {}

  INTFLASH_INLINE std::int32_t rows_left() const {
    return kWideRows - static_cast<std::int32_t>(row_);
  }
  template <std::int32_t kRows>
  INTFLASH_INLINE void score() {
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < kRows; ++i) score_row();
  }
  INTFLASH_INLINE void score_row() {
    const std::uint32_t r = row_++;
    char* const low = scores_.low(r);
    const char* const high = scores_.high(r);
    const auto dots = [&](std::int32_t i) __attribute__((always_inline)) {
      return i < kHalfTiles ? low + i * kTileBytes : high + (i - kHalfTiles) * 2 * kTileBytes;
    };
    const auto row = static_cast<std::int32_t>(r);
    Amx::store(scratch_.lanes + r,
               score_plain_row<kTileBytes>(score_row_of(scratch_, row), dots, constants_, low));
  }

 private:
  AmxScratch& scratch_;
  const WideScores& scores_;
  ScoreConstants constants_;
  std::uint32_t row_ = 0;
};

// kLight: of a block that has light keys. Without, no call keeps the constants out of registers.
template <bool kLight>
class RowWeigher {
 public:
  INTFLASH_INLINE RowWeigher(AmxScratch& scratch, const WideScores& scores, const ScoreBlock& block)
      : scratch_(scratch), scores_(scores), block_(block), constants_(block) {}

  template <std::int32_t kRows>
  INTFLASH_INLINE void weigh() {
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < kRows; ++i) weigh_row();
  }
  INTFLASH_INLINE void weigh_row() {
    const std::uint32_t r = row_++;
    const auto row = static_cast<std::int32_t>(r);
    const char* const folded = scores_.folded_of_last_turn(r);
    const Amx::I32 sums =
        weigh_plain_row<kTileBytes>(folded, scratch_.top[r], constants_,
                                    scratch_.wide.weights[0][r], scratch_.wide.weights[1][r]);
    if constexpr (kLight) add_light_keys(row, sums, folded);
    Amx::store(scratch_.lanes + r, sums);
  }

 private:
  INTFLASH_NOINLINE void add_light_keys(std::int32_t row, Amx::I32 sums, const char* folded) {
    alignas(64) std::int16_t x[kScoreBlock];
    for (std::int32_t v = 0; v < kKeyVectors; ++v)
      Amx::store(x + v * 32, Amx::load(folded + v * kTileBytes));
    add_light_keys_to(scratch_, row, block_, sums, x);
  }

  AmxScratch& scratch_;
  const WideScores& scores_;
  const ScoreBlock& block_;
  WeighConstants constants_;
  std::uint32_t row_ = 0;
};

// Folds products with a channel tile into accumulators, a share of the rows each tick.
struct ChannelFold {
  const std::int32_t* from;  // [32][16]
  const float* gain;
  float* accumulators;
  std::int64_t stride;

  template <class AnyTick>
  INTFLASH_INLINE void operator()(AnyTick) const {
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < AnyTick::share(kWideRows); ++i) {
      const std::int32_t r = AnyTick::begin(kWideRows) + i;
      fold_row(from + r * 16, gain[r], accumulators + r * stride);
    }
  }
};

}  // namespace
}  // namespace intflash::internal
