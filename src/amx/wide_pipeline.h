// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The pipeline for tiles of 32 rows. What each tick does is known when this is compiled, and it
// runs on through whole spans: 0.234 of the multiplications' peak at 128 dims and 4096 keys, where
// the pipeline of fewer rows, span by span, has 0.175.
//
//   steps of Q K^T   0 ... 5          weights of the block before, five rows a step
//                    6, 7             the last two rows; the last two channel tiles of the P V
//                                     before are folded
//   steps of P V     0                the weights enter the rows' states
//                    1, 2 ...         scores of this block; from 2 on channel tile - 2 is folded
#pragma once

#include <cstdint>

#include "amx/products.h"
#include "amx/rows.h"
#include "amx/span_states.h"
#include "amx/tile_products.h"
#include "amx/wide_rows.h"

namespace intflash::internal {
namespace {

constexpr std::int32_t kWeighSteps = 6;
constexpr std::int32_t kWeighRows = 5;
constexpr std::int32_t kLastWeighRows = kWideRows - kWeighSteps * kWeighRows;
static_assert(kFoldLag == 2 && kWeighSteps + kFoldLag == kKeyTiles);

// Rows that step 1 of P V scores, and each later one: as many as its multiplications hide.
template <std::int32_t kSlices>
constexpr std::int32_t kRowsInStepOne = kSlices == 1   ? 12
                                        : kSlices == 2 ? 8
                                                       : 4;
template <std::int32_t kSlices>
constexpr std::int32_t kRowsInLaterSteps = kSlices == 1   ? 10
                                           : kSlices == 2 ? 4
                                                          : 2;

template <std::int32_t kSlices>
class WidePipeline {
 public:
  INTFLASH_INLINE WidePipeline(const TileTask& task, AmxScratch& scratch, const TileMatrix& query,
                               SpanStates& spans)
      : scratch_(scratch),
        query_(*task.query),
        spans_(spans),
        head_dim_v_(task.head_dim_v),
        channel_tiles_((task.head_dim_v + 15) / 16),
        slices_((task.query->head_dim + 63) / 64),
        query_tiles_(query),
        weights_{{scratch.wide.weights[0][0], scratch.wide.weights[0][kRowsPerTile]},
                 64,
                 sizeof scratch.wide.weights[0]},
        scores_(scratch.wide),
        pending_{scratch.nowhere, 64} {}

  // Blocks [first, first + count) of the task.
  INTFLASH_INLINE void run(const TileTask& task, std::int32_t first, std::int32_t count) {
    const ScoreBlock* blocks = task.blocks + first;
    begin_keys(blocks[0]);
    multiply_first_keys(blocks[0], blocks[min_of(1, count - 1)]);
    for (std::int32_t j = 1; j < count; ++j) {
      scores_.next_turn();
      const ScoreBlock& next = blocks[min_of(j + 1, count - 1)];
      if (blocks[j - 1].num_light == 0) {
        multiply_keys_and_weigh<false>(blocks[j], blocks[j - 1], next, j > 1);
      } else {
        multiply_keys_and_weigh<true>(blocks[j], blocks[j - 1], next, j > 1);
      }
      if (j > 1 && spans_.begins_span(first + j - 1)) spans_.next_span();
      multiply_values_and_score(blocks[j], blocks[j - 1], next);
    }
    scores_.next_turn();
    weigh_last_block(blocks[count - 1], count > 1);
    if (count > 1 && spans_.begins_span(first + count - 1)) spans_.next_span();
    multiply_last_values(blocks[count - 1]);
  }

 private:
  static constexpr bool kResidentQuery = kSlices == 2;

  // ---- Steps ----

  INTFLASH_INLINE KeyTiles keys_of(const ScoreBlock& block) const {
    return {block.half, query_.head_dim};
  }
  INTFLASH_INLINE StreamedTiles first_keys(const ScoreBlock& block) const {
    return keys_of(block).two_slices(0);
  }
  INTFLASH_INLINE void begin_keys(const ScoreBlock& block) {
    if constexpr (kSlices == 1) {
      tiles::load<6>(query_tiles_.tile(0, 0), 64);
      tiles::load<7>(query_tiles_.tile(1, 0), 64);
      tiles::load_stream<3>(keys_of(block).tile(0), 64);
    }
    if constexpr (kResidentQuery) {
      load_first_rows(query_tiles_);
      load_second_rows(query_tiles_);
      load_streamed(first_keys(block));
    }
  }
  INTFLASH_INLINE void begin_values(const ScoreBlock& block) {
    if constexpr (kSlices == 1) return;
    load_first_rows(weights_);
    load_second_rows(weights_);
    load_streamed(ValueTiles{block.half}.at(0));
  }
  INTFLASH_INLINE void store_last_tile() {
    store_pending<1>(pending_);
    pending_ = {scratch_.nowhere, 64};
  }

  // Step `at` of Q K^T; the last one loads the tiles `after`, and with kReload P.
  template <bool kLast, bool kReload, class Work>
  INTFLASH_INLINE void key_step(const KeyTiles& keys, std::int32_t at, const StreamedTiles& after,
                                const Work& work) {
    const TileMatrix out = {{scores_.tile(0, at), scores_.tile(1, at)}, 64, 0};
    if constexpr (kSlices == 1) {
      short_key_step(out, kLast ? after.tile[0] : keys.tile(at + 1), pending_, work);
    } else if constexpr (kResidentQuery) {
      resident_step<false>(out, kLast ? after : keys.two_slices(at + 1), weights_, kReload,
                           pending_, work);
    } else {
      long_key_step<2, 0>(out, keys, at, query_tiles_, slices_, pending_, work);
    }
  }
  // Step `at` of P V; the last one loads the tiles `after`, and with kReload the query.
  template <bool kLast, bool kReload, class Work>
  INTFLASH_INLINE void value_step(const ValueTiles& values, std::int32_t at,
                                  const StreamedTiles& after, const Work& work) {
    std::int32_t* const products = products_of(at);
    const TileMatrix out = {{products, products + kRowsPerTile * 16}, 64, 0};
    if constexpr (kSlices == 1) {
      short_value_step(out, values.at(at), weights_, pending_, work);
    } else {
      resident_step<true>(out, kLast ? after : values.at(at + 1), query_tiles_, kReload, pending_,
                          work);
    }
  }

  // ---- Folding ----

  INTFLASH_INLINE std::int32_t* products_of(std::int32_t channel_tile) const {
    return scratch_.wide.products[static_cast<std::uint32_t>(channel_tile) % kFoldLag][0];
  }
  INTFLASH_INLINE ChannelFold fold_of(std::int32_t channel_tile) const {
    const AttentionState& state = spans_.at_work();
    return {products_of(channel_tile), scratch_.tile.gain, state.accumulators + channel_tile * 16,
            state.accumulator_stride};
  }
  INTFLASH_INLINE void finish_folds() {
    for (std::int32_t c = max_of(channel_tiles_ - kFoldLag, 0); c < channel_tiles_; ++c)
      fold_of(c)(Tick<0, 1>{});
  }

  // ---- Phases ----

  // Q K^T of the first block; the scores follow alone.
  INTFLASH_NOINLINE void multiply_first_keys(const ScoreBlock& block, const ScoreBlock& next) {
    const KeyTiles keys = keys_of(block);
    const auto nothing = [](auto) {};
    scale_plain_rows<kWideRows>(query_, block, scratch_);
    for (std::int32_t at = 0; at + 1 < kKeyTiles; ++at)
      key_step<false, false>(keys, at, {}, nothing);
    key_step<true, false>(keys, kKeyTiles - 1, first_keys(next), nothing);
    store_last_tile();
    RowScorer scorer(scratch_, scores_, block);
    for (std::int32_t r = 0; r < kWideRows; ++r) scorer.score_row();
    finish_tops_of_16(scratch_, 0);
  }

  // Q K^T of block and weights of the previous one, which has light keys or none; folds: what is
  // left of the P V before.
  template <bool kLight>
  INTFLASH_NOINLINE void multiply_keys_and_weigh(const ScoreBlock& block,
                                                 const ScoreBlock& previous, const ScoreBlock& next,
                                                 bool folds) {
    const KeyTiles keys = keys_of(block);
    const StreamedTiles after = kSlices == 1 ? first_keys(next) : ValueTiles{previous.half}.at(0);
    finish_tops_of_16(scratch_, kRowsPerTile);
    RowWeigher<kLight> weigher(scratch_, scores_, previous);
    for (std::int32_t at = 0; at < kWeighSteps; ++at) {
      const auto weigh = [&](auto tick) __attribute__((always_inline)) {
        weigher.template weigh<tick.share(kWeighRows)>();
      };
      key_step<false, false>(keys, at, {}, weigh);
    }
    const bool folds_two = folds && channel_tiles_ >= 2;
    const ChannelFold fold = fold_of(max_of(channel_tiles_ - 2, 0));
    const auto weigh_and_fold = [&](auto tick) __attribute__((always_inline)) {
      if constexpr (tick.begins_quarter(0)) weigher.template weigh<kLastWeighRows>();
      if (folds_two) fold(tick);
    };
    key_step<false, false>(keys, kWeighSteps, {}, weigh_and_fold);
    const ChannelFold last_fold = fold_of(channel_tiles_ - 1);
    const auto fold_last = [&](auto tick) __attribute__((always_inline)) {
      if (folds) last_fold(tick);
    };
    key_step<true, kResidentQuery>(keys, kWeighSteps + 1, after, fold_last);
    if constexpr (kResidentQuery) {
      load_second_rows(weights_);
    } else {
      begin_values(previous);
    }
  }

  // P V of the previous block and scores of block.
  INTFLASH_NOINLINE void multiply_values_and_score(const ScoreBlock& block,
                                                   const ScoreBlock& previous,
                                                   const ScoreBlock& next) {
    const ValueTiles values{previous.half};
    const StreamedTiles after = first_keys(next);
    RowScorer scorer(scratch_, scores_, block);
    const auto step = [&]<bool kLast>(std::int32_t at) __attribute__((always_inline)) {
      constexpr bool kReload = kLast && kResidentQuery;
      const auto enter = [&](auto tick) __attribute__((always_inline)) {
        if constexpr (tick.begins_quarter(0)) enter_rows(previous, 0);
        if constexpr (tick.begins_quarter(1)) enter_rows(previous, kRowsPerTile);
        if constexpr (tick.begins_quarter(2)) scale_plain_rows<kWideRows>(query_, block, scratch_);
      };
      const auto score = [&](auto tick) __attribute__((always_inline)) {
        scorer.template score<tick.share(kRowsInStepOne<kSlices>)>();
      };
      if (at == 0) return value_step<kLast, kReload>(values, at, after, enter);
      if (at == 1) return value_step<kLast, kReload>(values, at, after, score);
      const ChannelFold fold = fold_of(at - kFoldLag);
      const auto score_and_fold = [&](auto tick) __attribute__((always_inline)) {
        scorer.template score<tick.share(kRowsInLaterSteps<kSlices>)>();
        fold(tick);
      };
      if (scorer.rows_left() < kRowsInLaterSteps<kSlices>)
        return value_step<kLast, kReload>(values, at, after, fold);
      value_step<kLast, kReload>(values, at, after, score_and_fold);
    };
    for (std::int32_t at = 0; at + 1 < channel_tiles_; ++at) step.template operator()<false>(at);
    step.template operator()<true>(channel_tiles_ - 1);
    if constexpr (kResidentQuery) load_second_rows(query_tiles_);
    while (scorer.rows_left() > 0) scorer.score_row();
    finish_tops_of_16(scratch_, 0);
  }
  INTFLASH_INLINE void enter_rows(const ScoreBlock& block, std::int32_t first) {
    enter_16_rows(block, spans_.at_work(), first, kWideRows, head_dim_v_, scratch_);
  }

  INTFLASH_NOINLINE void weigh_last_block(const ScoreBlock& block, bool folds) {
    store_last_tile();
    finish_tops_of_16(scratch_, kRowsPerTile);
    RowWeigher<true> weigher(scratch_, scores_, block);
    for (std::int32_t r = 0; r < kWideRows; ++r) weigher.weigh_row();
    if (folds) finish_folds();
  }
  INTFLASH_NOINLINE void multiply_last_values(const ScoreBlock& block) {
    const ValueTiles values{block.half};
    enter_rows(block, 0);
    enter_rows(block, kRowsPerTile);
    begin_values(block);
    for (std::int32_t at = 0; at < channel_tiles_; ++at) {
      const StreamedTiles after = values.at(min_of(at + 1, channel_tiles_ - 1));
      if (at < kFoldLag) {
        value_step<true, false>(values, at, after, [](auto) {});
      } else {
        value_step<true, false>(values, at, after, fold_of(at - kFoldLag));
      }
    }
    store_last_tile();
    finish_folds();
  }

  AmxScratch& scratch_;
  const QueryTile& query_;
  SpanStates& spans_;
  std::int32_t head_dim_v_;
  std::int32_t channel_tiles_;
  std::int32_t slices_;
  TileMatrix query_tiles_;
  TileMatrix weights_;
  WideScores scores_;
  PendingStore pending_;
};

}  // namespace
}  // namespace intflash::internal
