// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// attend_tile for AMX: a software pipeline over the score blocks that all rows see whole,
//
//   tiles     Q K^T of block j            P V of block j - 1
//   vectors   weights of block j - 1      scores of block j, folding of P V
//
// and one stage after the other for blocks that are masked or capped. Beside the products of a
// block with one tile of rows, whose keys and values come from memory as a rule, lines of the next
// block are asked for. Tiles of 32 rows have a pipeline of their own.
#pragma once

#include <cstddef>
#include <cstdint>

#include "amx/fold.h"
#include "amx/rows.h"
#include "amx/softmax.h"
#include "amx/tile_products.h"
#include "amx/wide_pipeline.h"
#include "tile/fetch.h"

namespace intflash::internal {
namespace {

// Spreads rows evenly over the ticks of a phase: after half of the ticks, half of the rows are
// done.
class Pace {
 public:
  INTFLASH_INLINE Pace(std::int32_t rows, std::int32_t ticks)
      : rows_(rows), step_(((rows << kFractionBits) + ticks - 1) / ticks) {}
  template <class Work>
  INTFLASH_INLINE void tick(Work& work) {
    position_ += step_;
    for (const std::int32_t end = position_ >> kFractionBits; next_ < end; ++next_) work.row(next_);
  }
  template <class Work>
  INTFLASH_INLINE void finish(Work& work) {
    for (; next_ < rows_; ++next_) work.row(next_);
  }

 private:
  static constexpr std::int32_t kFractionBits = 16;

  std::int32_t rows_;
  std::int32_t step_;
  std::int32_t position_ = 0;
  std::int32_t next_ = 0;
};

// Scores in two buffers.
struct ScoreRows {
  char* first;   // rows 0 ... 15
  char* second;  // rows 16 ... 31

  template <class T>
  INTFLASH_INLINE T* row(std::int32_t r) const {
    return reinterpret_cast<T*>(r < kRowsPerTile ? first + r * kScoreRowBytes
                                                 : second + (r - kRowsPerTile) * kScoreRowBytes);
  }
  INTFLASH_INLINE TileMatrix tiles() const { return {{first, second}, kScoreRowBytes, 64}; }
};

// Five buffers take turns. In a turn, dots with the two halves of the keys go to buffers 0, 1 and
// 2, 3; folded scores of rows 0 ... 15 to buffer 4, and of rows 16 ... 31 to buffer 0, where the
// dots of rows 0 ... 15 are no longer needed. In the next turn these two are called 3 and 4: rows 0
// ... 15 have been weighed before the first tile of dots comes to 3.
class ScoreBuffers {
 public:
  INTFLASH_INLINE explicit ScoreBuffers(char (*buffers)[kScoreBufferBytes]) : buffers_(buffers) {}

  INTFLASH_INLINE ScoreRows dots(std::uint32_t half) const {
    return {at(2 * half), at(2 * half + 1)};
  }
  INTFLASH_INLINE ScoreRows scores() const { return {at(4), at(0)}; }
  INTFLASH_INLINE ScoreRows scores_of_last_turn() const { return {at(3), at(4)}; }
  INTFLASH_INLINE void next_turn() { turn_ = turn_ + 1 < kScoreBuffers ? turn_ + 1 : 0; }

 private:
  INTFLASH_INLINE char* at(std::uint32_t index) const {
    const std::uint32_t place = turn_ + index;
    return buffers_[place < kScoreBuffers ? place : place - kScoreBuffers];
  }

  char (*buffers_)[kScoreBufferBytes];
  std::uint32_t turn_ = 0;
};

// ---- Vector work between multiplications ----

template <std::int32_t kRowTiles>
struct FoldTick {
  FoldQueue<kRowTiles>& fold;
  template <class AnyTick>
  INTFLASH_INLINE void operator()(AnyTick) {
    fold.fold_eight();
  }
};

template <std::int32_t kRowTiles>
struct WeighTick {
  AmxScratch& scratch;
  FoldQueue<kRowTiles>& fold;
  const ScoreBlock& block;
  ScoreRows scores;
  std::int32_t rows;
  Pace pace;
  bool any_light = block.num_light > 0;
  WeighConstants constants{block};

  INTFLASH_INLINE void row(std::int32_t r) {
    if (r >= rows) return;
    const std::int16_t* x = scores.row<std::int16_t>(r);
    std::uint8_t* const weights = scratch.tile.weights[r];
    const Amx::I32 sums =
        weigh_plain_row<64>(x, scratch.top[r], constants, weights, weights + kBlockTokens);
    if (any_light) add_light_keys_to(scratch, r, block, sums, x);
    Amx::store(scratch.lanes + r, sums);
  }
  template <class AnyTick>
  INTFLASH_INLINE void operator()(AnyTick) {
    fold.fold_eight();
    pace.tick(*this);
  }
};

template <std::int32_t kRowTiles>
struct ScoreTick {
  AmxScratch& scratch;
  FoldQueue<kRowTiles>& fold;
  const ScoreBlock& block;
  ScoreRows low_dots;
  ScoreRows high_dots;
  ScoreRows scores;
  std::int32_t rows;
  Pace pace;
  ScoreConstants constants{block};

  INTFLASH_INLINE void row(std::int32_t r) {
    if (r >= rows) return;
    const std::int32_t* const low = low_dots.row<std::int32_t>(r);
    const std::int32_t* const high = high_dots.row<std::int32_t>(r);
    const auto dots = [&](std::int32_t i) __attribute__((always_inline)) {
      return i < 4 ? low + i * 16 : high + (i - 4) * 16;
    };
    Amx::store(scratch.lanes + r, score_plain_row<64>(score_row_of(scratch, r), dots, constants,
                                                      scores.row<std::int16_t>(r)));
  }
  template <class AnyTick>
  INTFLASH_INLINE void operator()(AnyTick) {
    fold.fold_eight();
    pace.tick(*this);
  }
};

// Work that asks for lines meanwhile, if there is but one tile of rows: one of each half at a time.
template <std::int32_t kRowTiles, class Work>
struct FetchTick {
  Work& work;
  Fetch fetch;
  Pace pace;  // of pairs

  INTFLASH_INLINE void row(std::int32_t) { fetch.pairs(1); }
  template <class AnyTick>
  INTFLASH_INLINE void operator()(AnyTick tick) {
    if constexpr (kRowTiles == 1) pace.tick(*this);
    work(tick);
  }
  // Half a block has fewer ticks.
  INTFLASH_INLINE void finish() {
    if constexpr (kRowTiles == 1) pace.finish(*this);
  }
};

// Keys of the halves of the next block, beside Q K^T. nullptr: it is not known.
template <std::int32_t kRowTiles, class Work>
INTFLASH_INLINE FetchTick<kRowTiles, Work> fetching_keys(Work& work, const KvBlock* next,
                                                         std::int32_t head_dim,
                                                         std::int32_t ticks) {
  if (next == nullptr) return {work, {}, Pace(0, ticks)};
  return {work, Fetch::from(next[0].key_codes, next[1].key_codes, 0), Pace(head_dim, ticks)};
}
// Its values, beside P V.
template <std::int32_t kRowTiles, class Work>
INTFLASH_INLINE FetchTick<kRowTiles, Work> fetching_values(Work& work, const KvBlock* next,
                                                           std::int32_t channel_tiles,
                                                           std::int32_t ticks) {
  if (next == nullptr) return {work, {}, Pace(0, ticks)};
  return {work, Fetch::from(next[0].value_codes, next[1].value_codes, 0),
          Pace(channel_tiles * 16, ticks)};
}

// The keys that are read after block b's; nullptr: nothing is known of them.
INTFLASH_INLINE const KvBlock* keys_after(const TileTask& task, std::int32_t b) {
  return b + 1 < task.num_blocks ? task.blocks[b + 1].half : task.after;
}

// ---- Blocks that all rows see whole ----

template <std::int32_t kRowTiles, std::int32_t kSlices>
class Pipeline {
 public:
  INTFLASH_INLINE Pipeline(const TileTask& task, AmxScratch& scratch,
                           TileProducts<kRowTiles, kSlices> products)
      : scratch_(scratch),
        query_(*task.query),
        state_(task.state),
        rows_(task.query->rows),
        head_dim_v_(task.head_dim_v),
        channel_tiles_((task.head_dim_v + 15) / 16),
        weights_(weight_tiles(scratch.tile)),
        products_(products),
        fold_(scratch.products),
        buffers_(scratch.scores) {
    for (std::int32_t r = 0; r < rows_; ++r)
      scratch.tile.accumulators[r] = state_.accumulators + r * state_.accumulator_stride;
  }

  // after: the halves that are read after the last block; nullptr = unknown.
  INTFLASH_INLINE void run(const ScoreBlock* blocks, std::int32_t count, const KvBlock* after) {
    after_ = after;
    fold_.start(scratch_.tile.gain, scratch_.tile.accumulators, rows_);
    products_.begin_keys(blocks[0]);
    for (std::int32_t j = 0; j <= count; ++j) {
      const ScoreBlock* block = j < count ? blocks + j : nullptr;
      const ScoreBlock* previous = j > 0 ? blocks + j - 1 : nullptr;
      const ScoreBlock* next = j + 1 < count ? blocks + j + 1 : nullptr;
      multiply_keys_and_weigh(block, previous, next);
      multiply_values_and_score(block, previous, next);
      buffers_.next_turn();
    }
    products_.store_last_tile();
    fold_.drain();
  }

 private:
  static constexpr std::int32_t kRows = kRowTiles * kRowsPerTile;

  // Q K^T of block, weights of the previous one, and what was left to fold of the one before. Null:
  // there is no such block.
  INTFLASH_INLINE void multiply_keys_and_weigh(const ScoreBlock* block, const ScoreBlock* previous,
                                               const ScoreBlock* next) {
    WeighTick<kRowTiles> tick{.scratch = scratch_,
                              .fold = fold_,
                              .block = previous != nullptr ? *previous : *block,
                              .scores = buffers_.scores_of_last_turn(),
                              .rows = rows_,
                              .pace = Pace(previous != nullptr ? kRows : 0, products_.key_ticks())};
    if (block != nullptr) {
      const DotPlaces dots = {buffers_.dots(0).tiles(), buffers_.dots(1).tiles()};
      auto fetching = fetching_keys<kRowTiles>(tick, next != nullptr ? next->half : after_,
                                               query_.head_dim, products_.key_ticks());
      products_.multiply_keys(*block, kKeyTiles, dots, {next, previous}, weights_, fetching);
      fetching.finish();
    } else {
      products_.store_last_tile();
    }
    fold_.drain();
    tick.pace.finish(tick);
    if (previous == nullptr) return;
    if (block != nullptr) {
      products_.follow_with_values(*previous, weights_);
    } else {
      products_.begin_values(*previous, weights_);
    }
    for (std::int32_t r = 0; r < kRows; r += 16)
      enter_16_rows(*previous, state_, r, rows_, head_dim_v_, scratch_);
  }

  // P V of the previous block, and scores of block.
  INTFLASH_INLINE void multiply_values_and_score(const ScoreBlock* block,
                                                 const ScoreBlock* previous,
                                                 const ScoreBlock* next) {
    if (block != nullptr) scale_plain_rows<kRows>(query_, *block, scratch_);
    ScoreTick<kRowTiles> tick{
        .scratch = scratch_,
        .fold = fold_,
        .block = block != nullptr ? *block : *previous,
        .low_dots = buffers_.dots(0),
        .high_dots = buffers_.dots(1),
        .scores = buffers_.scores(),
        .rows = rows_,
        .pace = Pace(block != nullptr ? kRows : 0, products_.value_ticks(channel_tiles_))};
    if (previous != nullptr) {
      fold_.start(scratch_.tile.gain, scratch_.tile.accumulators, rows_);
      auto fetching =
          fetching_values<kRowTiles>(tick, block != nullptr ? block->half : after_, channel_tiles_,
                                     products_.value_ticks(channel_tiles_));
      products_.multiply_values(*previous, channel_tiles_, weights_, {next, nullptr}, fold_,
                                fetching);
      fetching.finish();
    } else {
      products_.store_last_tile();
    }
    tick.pace.finish(tick);
    for (std::int32_t r = 0; block != nullptr && r < kRows; r += 16) finish_tops_of_16(scratch_, r);
  }

  AmxScratch& scratch_;
  const QueryTile& query_;
  AttentionState state_;
  std::int32_t rows_;
  std::int32_t head_dim_v_;
  std::int32_t channel_tiles_;
  TileMatrix weights_;
  TileProducts<kRowTiles, kSlices> products_;
  FoldQueue<kRowTiles> fold_;
  ScoreBuffers buffers_;
  const KvBlock* after_ = nullptr;
};

// ---- Other blocks ----

// Block b, one stage after the other.
template <std::int32_t kRowTiles, std::int32_t kSlices>
INTFLASH_NOINLINE void attend_special_block(const TileTask& task, std::int32_t b,
                                            std::int32_t exponent_limit, AmxScratch& scratch,
                                            TileProducts<kRowTiles, kSlices> products) {
  const std::int32_t num_keys = keys_to_multiply(*task.query, keep_of(task, b));
  if (num_keys == 0) return;
  const ScoreBlock& block = task.blocks[b];
  TileScratch<Amx>& tile = scratch.tile;
  const std::int32_t channel_tiles = (task.head_dim_v + 15) / 16;
  const TileMatrix weights = weight_tiles(tile);
  const DotPlaces dots = {dot_tiles(tile, 0), dot_tiles(tile, kBlockTokens)};
  FoldQueue<kRowTiles> fold(scratch.products);
  FoldTick<kRowTiles> tick{fold};
  const KvBlock* const next = keys_after(task, b);
  auto keys = fetching_keys<kRowTiles>(tick, next, task.query->head_dim, products.key_ticks());
  auto values =
      fetching_values<kRowTiles>(tick, next, channel_tiles, products.value_ticks(channel_tiles));
  products.begin_keys(block);
  products.multiply_keys(block, num_keys / 16, dots, {&block, nullptr}, weights, keys);
  keys.finish();
  products.store_last_tile();
  const std::int32_t active = weigh_special_block(task, b, exponent_limit, tile);
  fold.start(tile.gain, tile.accumulators, active);
  products.begin_values(block, weights);
  products.multiply_values(block, channel_tiles, weights, {nullptr, nullptr}, fold, values);
  values.finish();
  products.store_last_tile();
  fold.drain();
}

// Whether the block may go through the pipeline.
INTFLASH_INLINE bool is_plain(const TileTask& task, std::int32_t b, std::int32_t exponent_limit) {
  return keep_of(task, b) == nullptr && !(task.score_cap > 0.0f) &&
         is_fixed_for_all(*task.query, task.blocks[b], exponent_limit);
}

// How many blocks from b on may go through the pipeline.
INTFLASH_INLINE std::int32_t count_plain(const TileTask& task, std::int32_t b,
                                         std::int32_t exponent_limit) {
  std::int32_t plain = 0;
  while (b + plain < task.num_blocks && is_plain(task, b + plain, exponent_limit)) ++plain;
  return plain;
}

template <std::int32_t kRowTiles, std::int32_t kSlices>
INTFLASH_NOINLINE void attend_rows(const TileTask& task) {
  AmxScratch& scratch = *static_cast<AmxScratch*>(task.scratch);
  std::int8_t* query_tiles = reinterpret_cast<std::int8_t*>(&scratch + 1);
  TileTask own = task;
  begin_rows(own, kRowTiles * kRowsPerTile, scratch, query_tiles);
  const TileProducts<kRowTiles, kSlices> products(*task.query, query_tiles, scratch.nowhere);
  const std::int32_t limit = exponent_limit(*task.query);
  for (std::int32_t b = 0; b < task.num_blocks;) {
    const std::int32_t plain = count_plain(task, b, limit);
    if (plain > 0) {
      Pipeline<kRowTiles, kSlices>(own, scratch, products)
          .run(task.blocks + b, plain, keys_after(task, b + plain - 1));
      b += plain;
    } else {
      attend_special_block<kRowTiles, kSlices>(own, b, limit, scratch, products);
      ++b;
    }
  }
  tiles::release();
  end_rows(task, scratch);
}

// The same for 32 rows, which may go through several spans.
template <std::int32_t kSlices>
INTFLASH_NOINLINE void attend_wide_rows(const TileTask& task) {
  AmxScratch& scratch = *static_cast<AmxScratch*>(task.scratch);
  std::int8_t* query_tiles = reinterpret_cast<std::int8_t*>(&scratch + 1);
  TileTask own = task;
  begin_rows(own, kWideRows, scratch, query_tiles);
  SpanStates spans(task, scratch);
  const TileProducts<2, kSlices> products(*task.query, query_tiles, scratch.nowhere);
  const std::int32_t limit = exponent_limit(*task.query);
  for (std::int32_t b = 0; b < task.num_blocks;) {
    if (spans.begins_span(b)) spans.next_span();
    const std::int32_t plain = count_plain(task, b, limit);
    if (plain > 0) {
      WidePipeline<kSlices>(task, scratch, products.query(), spans).run(task, b, plain);
      b += plain;
    } else {
      own.state = spans.at_work();
      attend_special_block<2, kSlices>(own, b, limit, scratch, products);
      ++b;
    }
  }
  tiles::release();
  spans.end_span();
}

template <std::int32_t kRowTiles>
INTFLASH_INLINE void attend_slices(const TileTask& task) {
  if (task.query->head_dim <= 64) return attend_rows<kRowTiles, 1>(task);
  if (task.query->head_dim <= 128) return attend_rows<kRowTiles, 2>(task);
  attend_rows<kRowTiles, kManySlices>(task);
}

// attend_spans.
void attend_spans_amx(const TileTask& task) {
  if (task.query->head_dim <= 64) return attend_wide_rows<1>(task);
  if (task.query->head_dim <= 128) return attend_wide_rows<2>(task);
  attend_wide_rows<kManySlices>(task);
}

void attend_tile_amx(const TileTask& task) {
  if (task.query->rows <= kRowsPerTile) return attend_slices<1>(task);
  if (task.query->rows < kWideRows) return attend_slices<2>(task);
  attend_spans_amx(task);
}

std::size_t scratch_bytes_amx(std::int32_t head_dim, std::int32_t) {
  return sizeof(AmxScratch) + static_cast<std::size_t>(round_up(head_dim, 64)) * kMaxTileRows;
}

}  // namespace
}  // namespace intflash::internal
