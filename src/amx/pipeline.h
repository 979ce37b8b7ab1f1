// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// attend_tile for AMX: a software pipeline over the score blocks that all rows see whole,
//
//   tiles     Q K^T of block j            P V of block j - 1
//   vectors   weights of block j - 1      scores of block j, folding of P V
//
// and one stage after the other for blocks that are masked, capped or out of the ordinary.
#pragma once

#include <cstddef>
#include <cstdint>

#include "amx/fold.h"
#include "amx/products.h"
#include "amx/rows.h"
#include "amx/softmax.h"
#include "amx/special_rows.h"

namespace intflash {
namespace {

// Spreads a number of rows evenly over the ticks of a phase: after half of the ticks, half of the
// rows are done.
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
  static constexpr std::int32_t kRows = kRowTiles * kTileRows;

  INTFLASH_INLINE Pipeline(const TileTask& task, AmxScratch& scratch, std::int8_t* query_tiles)
      : task_(task),
        scratch_(scratch),
        state_{scratch.reference, scratch.row_sum, task.state.accumulators,
               task.state.accumulator_stride},
        query_{{query_tiles, query_tiles + kTileBytes}, 64, 2 * kTileBytes},
        weights_{{scratch.weights[0], scratch.weights[kTileRows]}, kScoreBlock, 64},
        rows_(task.query->rows),
        slices_((task.query->head_dim + 63) / 64),
        channel_tiles_((task.head_dim_v + 15) / 16),
        fold_(scratch.products, scratch.gain, task.state.accumulators,
              task.state.accumulator_stride, rows_) {
    copy_query(*task.query, kRows, scratch);
    copy_query_tiles(*task.query, slices_, kRows, query_tiles);
    for (std::int32_t r = 0; r < kRows; ++r) {
      scratch.reference[r] = r < rows_ ? task.state.reference[r] : 0.0f;
      scratch.row_sum[r] = r < rows_ ? task.state.row_sum[r] : 0.0f;
    }
    exponent_limit_ = exponent_limit(*task.query);
  }

  INTFLASH_INLINE void run() {
    tiles::configure(tile_config(rows_, kRowTiles, task_.query->head_dim));
    forget_pending();
    if constexpr (kSlices == 1) load_short_query();
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
    for (std::int32_t r = 0; r < rows_; ++r) {
      task_.state.reference[r] = scratch_.reference[r];
      task_.state.row_sum[r] = scratch_.row_sum[r];
    }
  }

 private:
  // ---- Vector work between multiplications ----

  struct FoldTick {
    FoldQueue<kRowTiles>& fold;
    INTFLASH_INLINE void operator()() { fold.fold_eight(); }
  };

  struct WeighTick {
    Pipeline& p;
    KeyFactors value_weight;
    RowReduction<Sum> sums;
    Pace pace;

    INTFLASH_INLINE void row(std::int32_t r) {
      if (r < p.rows_) {
        const std::int16_t* x = p.template buffer<std::int16_t>(r < kTileRows ? 3 : 4, r);
        const WeightControl& control = kWeightControls.at[-p.scratch_.exponent[r]];
        last = weigh_plain_row(x, p.scratch_.top[r], control, value_weight, p.scratch_.weights[r]);
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
    Amx::I32 last = Amx::zero();
  };

  struct ScoreTick {
    Pipeline& p;
    KeyFactors key_factor;
    RowReduction<Largest> maxima;
    Pace pace;

    INTFLASH_INLINE void row(std::int32_t r) {
      if (r < p.rows_) {
        const std::int32_t row_tile = r / kTileRows;
        const ScoreRow row =
            score_row_of(p.scratch_, r, p.template buffer<std::int32_t>(row_tile, r),
                         p.template buffer<std::int32_t>(2 + row_tile, r));
        last = score_plain_row(row, key_factor,
                               p.template buffer<std::int16_t>(row_tile == 0 ? 4 : 0, r));
      }
      maxima.put(r, last);
    }
    INTFLASH_INLINE void operator()() {
      p.fold_.fold_eight();
      pace.tick(*this);
    }
    Amx::I32 last = Amx::zero();
  };

  // ---- Score buffers ----

  // Five buffers take turns. In a turn, dots of a block go to buffers 0 ... 3, [half of the
  // keys][row tile]; folded scores of rows 0 ... 15 to buffer 4, and of rows 16 ... 31 to buffer 0,
  // where the dots of rows 0 ... 15 are no longer needed. In the next turn these are called 3 and
  // 4: rows 0 ... 15 have been weighed before the first tile of dots comes to 3.
  template <class T>
  INTFLASH_INLINE T* buffer(std::int32_t index, std::int32_t row) {
    return reinterpret_cast<T*>(scratch_.scores[(turn_ + index) % kScoreBuffers] +
                                row % kTileRows * kScoreRowBytes);
  }
  INTFLASH_INLINE TileMatrix dots_place(std::int32_t half) {
    return {{buffer<char>(2 * half, 0), buffer<char>(2 * half + 1, 0)}, kScoreRowBytes, 64};
  }
  INTFLASH_INLINE void next_turn() { turn_ = turn_ + 1 == kScoreBuffers ? 0 : turn_ + 1; }

  // ---- Tiles ----

  template <std::int32_t kRegister>
  struct SumRegister {
    static constexpr std::int32_t kSum = kRegister;
  };
  // With one tile of rows, steps sum into registers 0 and 1 in turn, and end with 1.
  template <class Step>
  INTFLASH_INLINE void for_each_step(std::int32_t steps, Step step) {
    if constexpr (kRowTiles == 2) {
      for (std::int32_t at = 0; at < steps; ++at) step(SumRegister<0>{}, at);
    } else {
      std::int32_t at = 0;
      for (; at + 2 <= steps; at += 2) {
        step(SumRegister<0>{}, at);
        step(SumRegister<1>{}, at + 1);
      }
      if (at == steps) return;
      step(SumRegister<0>{}, at);
      store_pending<0>(pending_);
      forget_pending();
    }
  }

  // The first store of what is pending when nothing is goes where it does no harm.
  INTFLASH_INLINE void forget_pending() { pending_ = {scratch_.products[kProductTiles - 1], 64}; }
  INTFLASH_INLINE void store_last_tile() {
    store_pending<1>(pending_);
    forget_pending();
  }
  INTFLASH_INLINE void load_operand(const TileMatrix& a) {
    load_first_rows(a);
    if constexpr (kRowTiles == 2) load_second_rows(a);
  }
  INTFLASH_INLINE void load_short_query() {
    tiles::load<6>(query_.tile(0, 0), 64);
    if constexpr (kRowTiles == 2) tiles::load<7>(query_.tile(1, 0), 64);
  }
  INTFLASH_INLINE KeyTiles keys_of(const ScoreBlock& block) const {
    return {block.half, task_.query->head_dim};
  }

  static constexpr std::int32_t key_ticks(std::int32_t slices) {
    return kSlices == 1   ? kKeyTiles * kRowTiles
           : kSlices == 2 ? kKeyTiles * 2 * kRowTiles
                          : kKeyTiles * slices;
  }
  std::int32_t value_ticks() const { return channel_tiles_ * 2 * kRowTiles; }

  // What Q K^T of a block finds in registers.
  INTFLASH_INLINE void begin_keys(const ScoreBlock& block) {
    if constexpr (kSlices == 1) tiles::load_stream<3>(keys_of(block).tile(0), 64);
    if constexpr (kSlices == 2) {
      load_operand(query_);
      load_streamed(keys_of(block).two_slices(0));
    }
  }
  // What P V finds there.
  INTFLASH_INLINE void begin_values(const ScoreBlock& block) {
    if constexpr (kSlices == 1) {
      if constexpr (kRowTiles == 1) {
        tiles::load<4>(weights_.tile(0, 0), weights_.stride);
        tiles::load<5>(weights_.tile(0, 1), weights_.stride);
      }
    } else {
      load_operand(weights_);
      load_streamed(ValueTiles{block.half}.at(0));
    }
  }

  // Q K^T of a block; then_values: the block whose P V follows, nullptr: that of then_keys does.
  template <class Tick>
  INTFLASH_INLINE void multiply_keys(const ScoreBlock& block, const ScoreBlock* then_values,
                                     const ScoreBlock& then_keys, Tick& tick) {
    const KeyTiles keys = keys_of(block);
    const TileMatrix out[2] = {dots_place(0), dots_place(1)};
    if constexpr (kSlices == 1) {
      for_each_step(
          kKeyTiles, [&](auto sum, std::int32_t at) __attribute__((always_inline)) {
            const std::int8_t* next =
                at + 1 < kKeyTiles ? keys.tile(at + 1) : keys_of(then_keys).tile(0);
            if constexpr (kRowTiles == 2) {
              short_key_step(out[at / 4], at % 4, next, pending_, tick);
            } else {
              short_key_step_one<sum.kSum>(out[at / 4], at % 4, next, pending_, tick);
            }
          });
    } else if constexpr (kSlices == 2) {
      const StreamedTiles after = then_values != nullptr ? ValueTiles{then_values->half}.at(0)
                                                         : keys_of(then_keys).two_slices(0);
      for_each_step(
          kKeyTiles, [&](auto sum, std::int32_t at) __attribute__((always_inline)) {
            const StreamedTiles next = at + 1 < kKeyTiles ? keys.two_slices(at + 1) : after;
            if constexpr (kRowTiles == 2) {
              const bool reload = at + 1 == kKeyTiles && then_values != nullptr;
              resident_step<false>(out[at / 4], at % 4, next, reload ? &weights_ : nullptr,
                                   pending_, tick);
            } else {
              resident_step_one<false, sum.kSum>(out[at / 4], at % 4, next, pending_, tick);
            }
          });
    } else {
      for_each_step(
          kKeyTiles, [&](auto sum, std::int32_t at) __attribute__((always_inline)) {
            long_key_step<kRowTiles, sum.kSum>(out[at / 4], at % 4, keys, at, query_, slices_,
                                               pending_, tick);
          });
    }
  }

  // P V of a block; then_keys: the block whose Q K^T follows, nullptr: none does.
  template <class Tick>
  INTFLASH_INLINE void multiply_values(const ScoreBlock& block, const ScoreBlock* then_keys,
                                       Tick& tick) {
    const ValueTiles values{block.half};
    fold_.restart();
    for_each_step(
        channel_tiles_, [&](auto sum, std::int32_t at) __attribute__((always_inline)) {
          fold_.allow(kRowTiles == 2 ? 2 * at - 1 : at - 2);
          const TileMatrix out = fold_.place(at);
          const bool last = at + 1 == channel_tiles_;
          if constexpr (kSlices == 1) {
            if constexpr (kRowTiles == 2) {
              short_value_step(out, 0, values.at(at), weights_, pending_, tick);
            } else {
              short_value_step_one<sum.kSum>(out, 0, values.at(at), pending_, tick);
            }
          } else {
            const StreamedTiles next = !last ? values.at(at + 1)
                                       : kSlices == 2 && then_keys != nullptr
                                           ? keys_of(*then_keys).two_slices(0)
                                           : values.at(at);
            if constexpr (kRowTiles == 2) {
              const bool reload = kSlices == 2 && last && then_keys != nullptr;
              resident_step<true>(out, 0, next, reload ? &query_ : nullptr, pending_, tick);
            } else {
              resident_step_one<true, sum.kSum>(out, 0, next, pending_, tick);
            }
          }
        });
    fold_.allow(kRowTiles * channel_tiles_);
    if constexpr (kSlices == 2) {
      if (then_keys == nullptr) return;
      if constexpr (kRowTiles == 2) {
        load_second_rows(query_);
      } else {
        load_first_rows(query_);
      }
    }
  }

  // ---- Blocks that all rows see whole ----

  // Whether the block may go through the pipeline: distances of weights must not be coarser than
  // one octave, which is so for all but scores beyond 2^14.
  INTFLASH_INLINE bool is_plain(std::int32_t b) const {
    const ScoreBlock& block = task_.blocks[b];
    return task_.keep[b] == nullptr && !(task_.score_cap > 0.0f) && block.any_light == 0 &&
           exponent_limit_ + block.key_exponent <= 0;
  }

  INTFLASH_INLINE void run_plain(const ScoreBlock* blocks, std::int32_t count) {
    begin_keys(blocks[0]);
    fold_.restart();
    for (std::int32_t j = 0; j <= count; ++j) {
      const ScoreBlock* block = j < count ? blocks + j : nullptr;
      const ScoreBlock* previous = j > 0 ? blocks + j - 1 : nullptr;
      multiply_keys_and_weigh(block, previous, blocks[min_of(j + 1, count - 1)]);
      multiply_values_and_score(block, previous, j + 1 < count ? blocks + j + 1 : nullptr);
      next_turn();
    }
    store_last_tile();
    fold_.drain();
  }

  INTFLASH_INLINE void multiply_keys_and_weigh(const ScoreBlock* block, const ScoreBlock* previous,
                                               const ScoreBlock& then_keys) {
    const ScoreBlock& weighed = previous != nullptr ? *previous : *block;
    WeighTick tick{*this, load_factors(weighed.value_weight), RowReduction<Sum>(scratch_.pairs),
                   Pace(previous != nullptr ? kRows : 0, key_ticks(slices_))};
    if (block != nullptr) multiply_keys(*block, previous, then_keys, tick);
    if (block == nullptr) store_last_tile();
    tick.finish();
    if (previous == nullptr) return;
    if (block == nullptr || kSlices != 2) {
      begin_values(*previous);
    } else if constexpr (kRowTiles == 2) {
      load_second_rows(weights_);
    } else {
      load_first_rows(weights_);
    }
    enter_plain_rows<kRows>(*previous, state_, rows_, task_.head_dim_v, scratch_);
  }

  INTFLASH_INLINE void multiply_values_and_score(const ScoreBlock* block,
                                                 const ScoreBlock* previous,
                                                 const ScoreBlock* then_keys) {
    if (block != nullptr) scale_plain_rows<kRows>(*block, scratch_);
    const ScoreBlock& scored = block != nullptr ? *block : *previous;
    ScoreTick tick{*this, load_factors(scored.key_factor), RowReduction<Largest>(scratch_.pairs),
                   Pace(block != nullptr ? kRows : 0, value_ticks())};
    if (previous != nullptr) {
      multiply_values(*previous, block != nullptr ? then_keys : nullptr, tick);
    } else {
      store_last_tile();
    }
    tick.pace.finish(tick);
    if (block != nullptr) finish_tops<kRows>(scratch_);
  }

  // ---- Other blocks ----

  INTFLASH_NOINLINE void run_special(const ScoreBlock& block, const std::uint64_t* keep) {
    fold_.restart();
    FoldTick tick{fold_};
    begin_keys(block);
    multiply_keys(block, nullptr, block, tick);
    store_last_tile();
    SpecialRows special(task_, state_, block, keep, scratch_);
    for (std::int32_t r = 0; r < rows_; ++r) {
      const std::int32_t row_tile = r / kTileRows;
      special.weigh(r, buffer<std::int32_t>(row_tile, r), buffer<std::int32_t>(2 + row_tile, r));
    }
    begin_values(block);
    multiply_values(block, nullptr, tick);
    store_last_tile();
    fold_.drain();
    next_turn();
  }

  const TileTask& task_;
  AmxScratch& scratch_;
  AttentionState state_;  // the task's accumulators; references and sums in scratch
  TileMatrix query_;
  TileMatrix weights_;
  std::int32_t rows_;
  std::int32_t slices_;
  std::int32_t channel_tiles_;
  std::int32_t exponent_limit_;
  FoldQueue<kRowTiles> fold_;
  PendingStore pending_;
  std::int32_t turn_ = 0;
};

template <std::int32_t kRowTiles, std::int32_t kSlices>
INTFLASH_NOINLINE void attend_rows(const TileTask& task) {
  AmxScratch& scratch = *static_cast<AmxScratch*>(task.scratch);
  Pipeline<kRowTiles, kSlices>(task, scratch, reinterpret_cast<std::int8_t*>(&scratch + 1)).run();
}

template <std::int32_t kRowTiles>
INTFLASH_INLINE void attend_slices(const TileTask& task) {
  if (task.query->head_dim <= 64) return attend_rows<kRowTiles, 1>(task);
  if (task.query->head_dim <= 128) return attend_rows<kRowTiles, 2>(task);
  attend_rows<kRowTiles, kManySlices>(task);
}

void attend_tile_amx(const TileTask& task) {
  if (task.query->rows <= kTileRows) return attend_slices<1>(task);
  attend_slices<2>(task);
}

std::size_t scratch_bytes_amx(std::int32_t head_dim, std::int32_t) {
  return sizeof(AmxScratch) + static_cast<std::size_t>(round_up(head_dim, 64)) * kMaxTileRows;
}

}  // namespace
}  // namespace intflash
