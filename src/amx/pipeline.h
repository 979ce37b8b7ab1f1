// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// attend_tile for AMX: a software pipeline over the score blocks that all rows see whole,
//
//   tiles     Q K^T of block j            P V of block j - 1
//   vectors   weights of block j - 1      scores of block j, folding of P V
//
// and one stage after the other for blocks that are masked or capped.
#pragma once

#include <cstddef>
#include <cstdint>

#include "amx/fold.h"
#include "amx/rows.h"
#include "amx/softmax.h"
#include "amx/tile_products.h"

namespace intflash {
namespace {

// Spreads rows evenly over the ticks of a phase: after half of the ticks, half of the rows are
// done.
class Pace {
 public:
  INTFLASH_INLINE Pace(std::int32_t rows, std::int32_t ticks) : rows_(rows), ticks_(ticks) {}
  template <class Work>
  INTFLASH_INLINE void tick(Work& work) {
    for (due_ += rows_; due_ >= ticks_ && next_ < rows_; due_ -= ticks_) work.row(next_++);
  }
  template <class Work>
  INTFLASH_INLINE void finish(Work& work) {
    while (next_ < rows_) work.row(next_++);
  }

 private:
  std::int32_t rows_;
  std::int32_t ticks_;
  std::int32_t due_ = 0;
  std::int32_t next_ = 0;
};

template <std::int32_t kRowTiles, std::int32_t kSlices>
class Pipeline {
 public:
  static constexpr std::int32_t kRows = kRowTiles * kRowsPerTile;

  INTFLASH_INLINE Pipeline(const TileTask& task, AmxScratch& scratch, std::int8_t* query_tiles)
      : task_(task),
        scratch_(scratch),
        rows_(task.query->rows),
        channel_tiles_((task.head_dim_v + 15) / 16),
        exponent_limit_(exponent_limit(*task.query)),
        weights_{{scratch.tile.weights[0], scratch.tile.weights[kRowsPerTile]}, kScoreBlock, 64},
        products_(*task.query, query_tiles, scratch.products[kProductTiles - 1]),
        fold_(scratch.products) {
    task_.state.reference = scratch.reference;
    task_.state.row_sum = scratch.row_sum;
  }

  INTFLASH_INLINE void run() {
    for (std::int32_t b = 0; b < task_.num_blocks;) {
      std::int32_t plain = 0;
      while (b + plain < task_.num_blocks && is_plain(b + plain)) ++plain;
      if (plain > 0) {
        run_plain(task_.blocks + b, plain);
        b += plain;
      } else {
        run_special(task_.blocks[b], task_.keep[b]);
        ++b;
      }
    }
    tiles::release();
  }

 private:
  // ---- Vector work between multiplications ----

  struct FoldTick {
    FoldQueue<kRowTiles>& fold;
    INTFLASH_INLINE void operator()() { fold.fold_eight(); }
  };

  struct WeighTick {
    Pipeline& p;
    const ScoreBlock& block;
    KeyFactors value_weight;
    RowReduction<Sum> sums;
    Pace pace;
    Amx::I32 last = Amx::zero();

    INTFLASH_INLINE void row(std::int32_t r) {
      if (r < p.rows_) {
        const std::int16_t* x = p.template buffer<std::int16_t>(r < kRowsPerTile ? 3 : 4, r);
        const WeightControl& control = kWeightControls.at[-p.scratch_.exponent[r]];
        last = weigh_plain_row(x, p.scratch_.top[r], control, value_weight,
                               p.scratch_.tile.weights[r]);
        if (block.any_light != 0) add_light_keys_to(p.scratch_, r, block, last, x);
      }
      sums.put(r, last);
    }
    INTFLASH_INLINE void operator()() {
      p.fold_.fold_eight();
      pace.tick(*this);
    }
    INTFLASH_INLINE void finish() {
      p.fold_.drain();
      pace.finish(*this);
    }
  };

  struct ScoreTick {
    Pipeline& p;
    KeyFactors key_factor;
    RowReduction<Largest> maxima;
    Pace pace;
    Amx::I32 last = Amx::zero();

    INTFLASH_INLINE void row(std::int32_t r) {
      if (r < p.rows_) {
        const std::int32_t tile = r / kRowsPerTile;
        const ScoreRow row = score_row_of(p.scratch_, r, p.template buffer<std::int32_t>(tile, r),
                                          p.template buffer<std::int32_t>(2 + tile, r));
        last =
            score_plain_row(row, key_factor, p.template buffer<std::int16_t>(tile == 0 ? 4 : 0, r));
      }
      maxima.put(r, last);
    }
    INTFLASH_INLINE void operator()() {
      p.fold_.fold_eight();
      pace.tick(*this);
    }
  };

  // ---- Score buffers ----

  // Five buffers take turns. In a turn, dots of a block go to buffers 0 ... 3, [half of the
  // keys][row tile]; folded scores of rows 0 ... 15 to buffer 4, and of rows 16 ... 31 to buffer 0,
  // where the dots of rows 0 ... 15 are no longer needed. In the next turn these two are called 3
  // and 4: rows 0 ... 15 have been weighed before the first tile of dots comes to 3.
  template <class T>
  INTFLASH_INLINE T* buffer(std::int32_t index, std::int32_t row) {
    const std::int32_t at = turn_ + index;
    return reinterpret_cast<T*>(scratch_.scores[at < kScoreBuffers ? at : at - kScoreBuffers] +
                                row % kRowsPerTile * kScoreRowBytes);
  }
  INTFLASH_INLINE void next_turn() { turn_ = turn_ + 1 < kScoreBuffers ? turn_ + 1 : 0; }

  // ---- Blocks that all rows see whole ----

  // Whether the block may go through the pipeline. In its fixed point a unit must not exceed one
  // octave, which is so for all but scores beyond 2^14.
  INTFLASH_INLINE bool is_plain(std::int32_t b) const {
    return task_.keep[b] == nullptr && !(task_.score_cap > 0.0f) &&
           exponent_limit_ + task_.blocks[b].key_exponent <= 0;
  }

  INTFLASH_INLINE void run_plain(const ScoreBlock* blocks, std::int32_t count) {
    for (std::int32_t r = 0; r < rows_; ++r) {
      scratch_.tile.accumulators[r] = task_.state.accumulators + r * task_.state.accumulator_stride;
    }
    fold_.start(scratch_.tile.gain, scratch_.tile.accumulators, rows_);
    products_.begin_keys(blocks[0]);
    const auto block_at = [&](std::int32_t j) {
      return j >= 0 && j < count ? blocks + j : nullptr;
    };
    for (std::int32_t j = 0; j <= count; ++j) {
      multiply_keys_and_weigh(block_at(j), block_at(j - 1), block_at(j + 1));
      multiply_values_and_score(block_at(j), block_at(j - 1), block_at(j + 1));
      next_turn();
    }
    products_.store_last_tile();
    fold_.drain();
  }

  // Pointers are null where there is no such block.
  INTFLASH_INLINE void multiply_keys_and_weigh(const ScoreBlock* block, const ScoreBlock* previous,
                                               const ScoreBlock* next) {
    const ScoreBlock& weighed = previous != nullptr ? *previous : *block;
    WeighTick tick{*this, weighed, load_factors(weighed.value_weight),
                   RowReduction<Sum>(scratch_.pairs),
                   Pace(previous != nullptr ? kRows : 0, products_.key_ticks())};
    if (block != nullptr) {
      const TileMatrix dots[2] = {{{buffer<char>(0, 0), buffer<char>(1, 0)}, kScoreRowBytes, 64},
                                  {{buffer<char>(2, 0), buffer<char>(3, 0)}, kScoreRowBytes, 64}};
      products_.multiply_keys(*block, kKeyTiles, dots, {next, previous}, weights_, tick);
    } else {
      products_.store_last_tile();
    }
    tick.finish();
    if (previous == nullptr) return;
    if (block != nullptr) {
      products_.follow_with_values(*previous, weights_);
    } else {
      products_.begin_values(*previous, weights_);
    }
    enter_plain_rows<kRows>(*previous, task_.state, rows_, task_.head_dim_v, scratch_);
  }

  INTFLASH_INLINE void multiply_values_and_score(const ScoreBlock* block,
                                                 const ScoreBlock* previous,
                                                 const ScoreBlock* next) {
    if (block != nullptr) scale_plain_rows<kRows>(*block, scratch_);
    const ScoreBlock& scored = block != nullptr ? *block : *previous;
    ScoreTick tick{*this, load_factors(scored.key_factor), RowReduction<Largest>(scratch_.pairs),
                   Pace(block != nullptr ? kRows : 0, products_.value_ticks(channel_tiles_))};
    if (previous != nullptr) {
      fold_.start(scratch_.tile.gain, scratch_.tile.accumulators, rows_);
      products_.multiply_values(*previous, channel_tiles_, weights_, {next, nullptr}, fold_, tick);
    } else {
      products_.store_last_tile();
    }
    tick.pace.finish(tick);
    if (block != nullptr) finish_tops<kRows>(scratch_);
  }

  // ---- Other blocks ----

  INTFLASH_NOINLINE void run_special(const ScoreBlock& block, const std::uint64_t* keep) {
    TileScratch<Amx>& tile = scratch_.tile;
    FoldTick tick{fold_};
    fold_.start(tile.gain, tile.accumulators, 0);
    products_.begin_keys(block);
    const auto dots_from = [&](std::int32_t key) {
      return TileMatrix{
          {tile.dots[0] + key, tile.dots[kRowsPerTile] + key}, sizeof tile.dots[0], 64};
    };
    const TileMatrix dots[2] = {dots_from(0), dots_from(kBlockTokens)};
    products_.multiply_keys(block, keys_to_multiply(*task_.query, keep) / 16, dots,
                            {&block, nullptr}, weights_, tick);
    products_.store_last_tile();
    const std::int32_t active = weigh_special_block(task_, block, keep, tile);
    fold_.start(tile.gain, tile.accumulators, active);
    products_.begin_values(block, weights_);
    products_.multiply_values(block, channel_tiles_, weights_, {nullptr, nullptr}, fold_, tick);
    products_.store_last_tile();
    fold_.drain();
  }

  TileTask task_;  // with references and sums in scratch
  AmxScratch& scratch_;
  std::int32_t rows_;
  std::int32_t channel_tiles_;
  std::int32_t exponent_limit_;
  TileMatrix weights_;
  TileProducts<kRowTiles, kSlices> products_;
  FoldQueue<kRowTiles> fold_;
  std::int32_t turn_ = 0;
};

template <std::int32_t kRowTiles, std::int32_t kSlices>
INTFLASH_NOINLINE void attend_rows(const TileTask& task) {
  AmxScratch& scratch = *static_cast<AmxScratch*>(task.scratch);
  std::int8_t* query_tiles = reinterpret_cast<std::int8_t*>(&scratch + 1);
  begin_rows(task, kRowTiles * kRowsPerTile, scratch, query_tiles);
  Pipeline<kRowTiles, kSlices>(task, scratch, query_tiles).run();
  end_rows(task, scratch);
}

template <std::int32_t kRowTiles>
INTFLASH_INLINE void attend_slices(const TileTask& task) {
  if (task.query->head_dim <= 64) return attend_rows<kRowTiles, 1>(task);
  if (task.query->head_dim <= 128) return attend_rows<kRowTiles, 2>(task);
  attend_rows<kRowTiles, kManySlices>(task);
}

void attend_tile_amx(const TileTask& task) {
  if (task.query->rows <= kRowsPerTile) return attend_slices<1>(task);
  attend_slices<2>(task);
}

std::size_t scratch_bytes_amx(std::int32_t head_dim, std::int32_t) {
  return sizeof(AmxScratch) + static_cast<std::size_t>(round_up(head_dim, 64)) * kMaxTileRows;
}

}  // namespace
}  // namespace intflash
