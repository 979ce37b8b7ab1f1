// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Q K^T and P V of one block at a time, and what lies in the tile registers between them.
#pragma once

#include <cstdint>

#include "amx/fold.h"
#include "amx/products.h"
#include "tile/types.h"

namespace intflash::internal {
namespace {

// Which tiles follow those of a phase, so that their loads begin with its last multiplications.
struct Following {
  const ScoreBlock* keys;    // Q K^T of this block; nullptr: another
  const ScoreBlock* values;  // P V of this block
};

// Where the dots of a block go.
struct DotPlaces {
  TileMatrix low;  // with keys 0 ... 63
  TileMatrix high;
};

// kRowTiles: tiles of 16 query rows. kSlices: of 64 dims, as far as the steps know them: 1, 2, or
// kManySlices for more.
constexpr std::int32_t kManySlices = 3;

template <std::int32_t kRowTiles, std::int32_t kSlices>
class TileProducts {
 public:
  // The query's tiles [slices][32][64]; nowhere: 1 KiB for a tile that nobody
  // waits for.
  INTFLASH_INLINE TileProducts(const QueryTile& query, std::int8_t* query_tiles, void* nowhere)
      : query_{{query_tiles, query_tiles + kTileBytes}, 64, 2 * kTileBytes},
        head_dim_(query.head_dim),
        slices_((query.head_dim + 63) / 64),
        nowhere_{nowhere, 64},
        pending_(nowhere_) {
    tiles::configure(tile_config(query.rows, kRowTiles, head_dim_));
    if constexpr (kSlices == 1) {
      tiles::load<6>(query_.tile(0, 0), 64);
      if constexpr (kRowTiles == 2) tiles::load<7>(query_.tile(1, 0), 64);
    }
  }

  INTFLASH_INLINE const TileMatrix& query() const { return query_; }
  static INTFLASH_INLINE std::int32_t key_ticks() {
    return kKeyTiles * (kSlices == 1 ? kRowTiles : kSlices == 2 ? kResidentStepTicks : kLongTicks);
  }
  static INTFLASH_INLINE std::int32_t value_ticks(std::int32_t channel_tiles) {
    return channel_tiles * (kSlices == 1 ? 2 * kRowTiles : kResidentStepTicks);
  }

  // Loads what Q K^T of a block finds in registers, where no phase before it has.
  INTFLASH_INLINE void begin_keys(const ScoreBlock& block) {
    if constexpr (kSlices == 1) tiles::load_stream<3>(keys_of(block).tile(0), 64);
    if constexpr (kSlices == 2) {
      load_operand(query_);
      load_streamed(keys_of(block).two_slices(0));
    }
  }
  // The same for P V.
  INTFLASH_INLINE void begin_values(const ScoreBlock& block, const TileMatrix& weights) {
    if constexpr (kSlices == 1) {
      if constexpr (kRowTiles == 1) {
        tiles::load<4>(weights.tile(0, 0), weights.stride);
        tiles::load<5>(weights.tile(0, 1), weights.stride);
      }
    } else {
      load_operand(weights);
      load_streamed(ValueTiles{block.half}.at(0));
    }
  }

  // Dots with the first key tiles, an even number. The last tile stays in a register.
  template <class Work>
  INTFLASH_INLINE void multiply_keys(const ScoreBlock& block, std::int32_t key_tiles,
                                     const DotPlaces& out, Following following,
                                     const TileMatrix& weights, Work& work) {
    // Each step loads the tiles of the next one.
    const KeyTiles keys = keys_of(block);
    StreamedTiles next[kKeyTiles];
    void* place[kKeyTiles][2];
    INTFLASH_UNROLL
    for (std::int32_t at = 0; at < kKeyTiles; ++at) {
      next[at] = keys.two_slices(min_of(at + 1, kKeyTiles - 1));
      const TileMatrix& matrix = at < kKeyTiles / 2 ? out.low : out.high;
      place[at][0] = matrix.tile(0, at % (kKeyTiles / 2));
      place[at][1] = matrix.tile(1, at % (kKeyTiles / 2));
    }
    next[key_tiles - 1] = streamed(following, next[key_tiles - 1]);
    const auto step = [&](auto sum, std::int32_t at) __attribute__((always_inline)) {
      const TileMatrix to = {{place[at][0], place[at][1]}, out.low.stride, 0};
      if constexpr (kSlices == 1 && kRowTiles == 2) {
        short_key_step(to, next[at].tile[0], pending_, work);
      } else if constexpr (kSlices == 1) {
        short_key_step_one<sum.kRegister>(to, next[at].tile[0], pending_, work);
      } else if constexpr (kSlices == 2 && kRowTiles == 2) {
        const bool reload = at + 1 == key_tiles && following.values != nullptr;
        resident_step<false>(to, next[at], weights, reload, pending_, work);
      } else if constexpr (kSlices == 2) {
        resident_step_one<false, sum.kRegister>(to, next[at], pending_, work);
      } else {
        long_key_step<kRowTiles, sum.kRegister>(to, keys, at, query_, slices_, pending_, work);
      }
    };
    for_each_step(key_tiles, step);
  }
  // Loads the rest of P after multiply_keys, once all of it is there.
  INTFLASH_INLINE void follow_with_values(const ScoreBlock& block, const TileMatrix& weights) {
    if constexpr (kSlices == 2) {
      follow_with(weights);
    } else {
      begin_values(block, weights);
    }
  }

  // Products of P with all channel tiles, into fold's places.
  template <class Work>
  INTFLASH_INLINE void multiply_values(const ScoreBlock& block, std::int32_t channel_tiles,
                                       const TileMatrix& weights, Following following,
                                       FoldQueue<kRowTiles>& fold, Work& work) {
    const ValueTiles values{block.half};
    const StreamedTiles after = streamed(following, values.at(channel_tiles - 1));
    const auto step = [&](auto sum, std::int32_t at) __attribute__((always_inline)) {
      fold.allow(kRowTiles == 2 ? 2 * at - 1 : at - 2);
      const TileMatrix place = fold.place(at);
      const bool last = at + 1 == channel_tiles;
      if constexpr (kSlices == 1 && kRowTiles == 2) {
        short_value_step(place, values.at(at), weights, pending_, work);
      } else if constexpr (kSlices == 1) {
        short_value_step_one<sum.kRegister>(place, values.at(at), pending_, work);
      } else {
        const StreamedTiles then = last ? after : values.at(at + 1);
        if constexpr (kRowTiles == 2) {
          const bool reload = kSlices == 2 && last && following.keys != nullptr;
          resident_step<true>(place, then, query_, reload, pending_, work);
        } else {
          resident_step_one<true, sum.kRegister>(place, then, pending_, work);
        }
      }
    };
    for_each_step(channel_tiles, step);
    fold.allow(kRowTiles * channel_tiles);
    if (kSlices == 2 && following.keys != nullptr) follow_with(query_);
  }

  // Stores the last tile of a phase that no phase follows at once.
  INTFLASH_INLINE void store_last_tile() {
    store_pending<1>(pending_);
    pending_ = nowhere_;
  }

 private:
  static constexpr std::int32_t kResidentStepTicks = kRowTiles == 2 ? kResidentTicks : 2;

  template <std::int32_t kTile>
  struct SumRegister {
    static constexpr std::int32_t kRegister = kTile;
  };
  // With one tile of rows, steps sum into registers 0 and 1 in turn; what waits after the last one
  // is in register 1.
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
      pending_ = nowhere_;
    }
  }

  INTFLASH_INLINE KeyTiles keys_of(const ScoreBlock& block) const {
    return {block.half, head_dim_};
  }

  // The first streamed tiles of what follows, as far as that takes them from the phase before.
  INTFLASH_INLINE StreamedTiles streamed(Following following, StreamedTiles otherwise) const {
    if (kSlices == 2 && following.values != nullptr)
      return ValueTiles{following.values->half}.at(0);
    if (kSlices <= 2 && following.keys != nullptr) return keys_of(*following.keys).two_slices(0);
    return otherwise;
  }
  INTFLASH_INLINE void load_operand(const TileMatrix& a) {
    load_first_rows(a);
    if constexpr (kRowTiles == 2) load_second_rows(a);
  }
  // Rows 0 ... 15 of two tiles of rows have been loaded during the last step.
  INTFLASH_INLINE void follow_with(const TileMatrix& a) {
    if constexpr (kRowTiles == 2) {
      load_second_rows(a);
    } else {
      load_first_rows(a);
    }
  }

  TileMatrix query_;
  std::int32_t head_dim_;
  std::int32_t slices_;
  PendingStore nowhere_;
  PendingStore pending_;
};

}  // namespace
}  // namespace intflash::internal
