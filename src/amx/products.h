// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Q K^T and P V on tiles. Beside each multiplication of tiles they call `work` with a Tick, which
// does a piece of vector work: a tile multiplication takes 16 cycles of one port and leaves the
// others free, but the CPU looks ahead only some 500 instructions, so that such work must stand
// between multiplications.
//
// How a step of 16 keys, or of 16 channels, uses the eight registers:
//   0, 1  sums: rows 0 ... 15 and 16 ... 31; with one tile of rows, two steps in turn
//   2, 3  keys or values: dims 0 ... 63 and 64 ... 127, or tokens 0 ... 63 and 64 ... 127
//   4-7   the query or P: rows 0 ... 15 and 16 ... 31 for 2, then the same for 3
// With head_dim <= 64 keys stay in 3 and the query in 6 and 7, whose shapes are those of head_dim.
//
// A tile is stored after the next multiplication has been issued, never right after its own: Q K^T
// takes 20 cycles per multiplication so, and 27 otherwise.
#pragma once

#include <cstdint>

#include "amx/tiles.h"
#include "tile/types.h"

namespace intflash::internal {
namespace {

constexpr std::int32_t kRowsPerTile = 16;
constexpr std::int32_t kTileBytes = 1024;
constexpr std::int32_t kKeyTiles = kScoreBlock / 16;

// Where tiles lie: of rows 0 ... 15 and of rows 16 ... 31.
struct TileMatrix {
  void* rows[2];
  std::int64_t stride;  // bytes between rows
  std::int64_t column;  // bytes between tiles of the same rows

  INTFLASH_INLINE void* tile(std::int32_t row_tile, std::int32_t at) const {
    return static_cast<char*>(rows[row_tile]) + at * column;
  }
};

// The two tiles of keys or values that a step multiplies by.
struct StreamedTiles {
  const std::int8_t* tile[2];
};

// Which of a step's ticks it is, so that work can be laid out when this is compiled.
template <std::int32_t kIndex, std::int32_t kTicks>
struct Tick {
  // Where this tick's share of n pieces begins, and how many it has.
  static constexpr std::int32_t begin(std::int32_t n) { return n * kIndex / kTicks; }
  static constexpr std::int32_t share(std::int32_t n) {
    return n * (kIndex + 1) / kTicks - begin(n);
  }
  // Whether quarter `at` of the step begins with it.
  static constexpr bool begins_quarter(std::int32_t at) { return kIndex * 4 == at * kTicks; }
};
constexpr std::int32_t kResidentTicks = 8;  // of resident_step
constexpr std::int32_t kLongTicks = 3;      // of long_key_step

// The tile that is waiting to be stored, in register 1.
struct PendingStore {
  void* data;
  std::int64_t stride;
};

struct KeyTiles {
  const KvBlock* half;
  std::int32_t head_dim;

  INTFLASH_INLINE const std::int8_t* tile(std::int32_t key_tile) const {
    return half[key_tile / 4].key_codes + key_tile % 4 * (head_dim * std::int64_t{16});
  }
  // The last slice ends with the key: where it overlaps the one before, the query's tile has zeros.
  INTFLASH_INLINE std::int64_t slice(std::int32_t s) const {
    const std::int32_t last = max_of(head_dim - 64, 0);
    return min_of(s * 64, last) * std::int64_t{16};
  }
  INTFLASH_INLINE StreamedTiles two_slices(std::int32_t key_tile) const {
    return {{tile(key_tile), tile(key_tile) + slice(1)}};
  }
};

struct ValueTiles {
  const KvBlock* half;

  INTFLASH_INLINE StreamedTiles at(std::int32_t channel_tile) const {
    return {{half[0].value_codes + channel_tile * kTileBytes,
             half[1].value_codes + channel_tile * kTileBytes}};
  }
};

INTFLASH_INLINE TileConfig tile_config(std::int32_t rows, std::int32_t row_tiles,
                                       std::int32_t head_dim) {
  TileConfig config;
  const std::int32_t tile_rows = row_tiles == 1 ? rows : kRowsPerTile;
  for (std::int32_t t = 0; t < 8; ++t) config.set_shape(t, t / 2 == 1 ? 16 : tile_rows, 64);
  if (head_dim < 64) {
    config.set_shape(3, head_dim / 4, 64);
    config.set_shape(6, tile_rows, head_dim);
    config.set_shape(7, tile_rows, head_dim);
  }
  return config;
}

template <bool kWeights, std::int32_t kSum, std::int32_t kA, std::int32_t kB>
INTFLASH_INLINE void multiply() {
  if constexpr (kWeights) {
    tiles::dot_u8_s8<kSum, kA, kB>();
  } else {
    tiles::dot_s8_s8<kSum, kA, kB>();
  }
}

template <std::int32_t kTile>
INTFLASH_INLINE void store_pending(const PendingStore& pending) {
  tiles::store<kTile>(pending.data, pending.stride);
}

INTFLASH_INLINE void load_streamed(const StreamedTiles& streamed) {
  tiles::load_stream<2>(streamed.tile[0], 64);
  tiles::load_stream<3>(streamed.tile[1], 64);
}

// The resident operand of a phase, registers 4 ... 7.
INTFLASH_INLINE void load_first_rows(const TileMatrix& a) {
  tiles::load<4>(a.tile(0, 0), a.stride);
  tiles::load<6>(a.tile(0, 1), a.stride);
}
INTFLASH_INLINE void load_second_rows(const TileMatrix& a) {
  tiles::load<5>(a.tile(1, 0), a.stride);
  tiles::load<7>(a.tile(1, 1), a.stride);
}

// ---- Steps with a resident operand ----

// 32 rows. Registers 2 and 3 hold the step's tiles, and get those of `next`; with `reload`
// registers 4 and 6 get the first rows of the next phase's operand.
template <bool kWeights, class Work>
INTFLASH_INLINE void resident_step(const TileMatrix& out, const StreamedTiles& next,
                                   const TileMatrix& next_a, bool reload, PendingStore& pending,
                                   Work& work) {
  tiles::zero<0>();
  multiply<kWeights, 0, 4, 2>();
  work(Tick<0, kResidentTicks>{});
  store_pending<1>(pending);
  if (reload) tiles::load<4>(next_a.tile(0, 0), next_a.stride);
  work(Tick<1, kResidentTicks>{});
  multiply<kWeights, 0, 6, 3>();
  work(Tick<2, kResidentTicks>{});
  if (reload) tiles::load<6>(next_a.tile(0, 1), next_a.stride);
  tiles::zero<1>();
  work(Tick<3, kResidentTicks>{});
  multiply<kWeights, 1, 5, 2>();
  tiles::load_stream<2>(next.tile[0], 64);
  work(Tick<4, kResidentTicks>{});
  tiles::store<0>(out.rows[0], out.stride);
  work(Tick<5, kResidentTicks>{});
  multiply<kWeights, 1, 7, 3>();
  tiles::load_stream<3>(next.tile[1], 64);
  work(Tick<6, kResidentTicks>{});
  pending = {out.rows[1], out.stride};
  work(Tick<7, kResidentTicks>{});
}

// 16 rows or fewer: sums alternate between registers 0 and 1.
template <bool kWeights, std::int32_t kSum, class Work>
INTFLASH_INLINE void resident_step_one(const TileMatrix& out, const StreamedTiles& next,
                                       PendingStore& pending, Work& work) {
  tiles::zero<kSum>();
  multiply<kWeights, kSum, 4, 2>();
  store_pending<1 - kSum>(pending);
  tiles::load_stream<2>(next.tile[0], 64);
  work(Tick<0, 2>{});
  multiply<kWeights, kSum, 6, 3>();
  tiles::load_stream<3>(next.tile[1], 64);
  pending = {out.rows[0], out.stride};
  work(Tick<1, 2>{});
}

// ---- Steps of Q K^T with head_dim <= 64 ----

template <class Work>
INTFLASH_INLINE void short_key_step(const TileMatrix& out, const std::int8_t* next,
                                    PendingStore& pending, Work& work) {
  tiles::zero<0>();
  tiles::dot_s8_s8<0, 6, 3>();
  store_pending<1>(pending);
  work(Tick<0, 2>{});
  tiles::zero<1>();
  tiles::dot_s8_s8<1, 7, 3>();
  tiles::load_stream<3>(next, 64);
  tiles::store<0>(out.rows[0], out.stride);
  pending = {out.rows[1], out.stride};
  work(Tick<1, 2>{});
}

template <std::int32_t kSum, class Work>
INTFLASH_INLINE void short_key_step_one(const TileMatrix& out, const std::int8_t* next,
                                        PendingStore& pending, Work& work) {
  tiles::zero<kSum>();
  tiles::dot_s8_s8<kSum, 6, 3>();
  store_pending<1 - kSum>(pending);
  tiles::load_stream<3>(next, 64);
  pending = {out.rows[0], out.stride};
  work(Tick<0, 1>{});
}

// Its step of P V: registers 6 and 7 hold the query, so P passes through 4 and 5.
template <class Work>
INTFLASH_INLINE void short_value_step(const TileMatrix& out, const StreamedTiles& values,
                                      const TileMatrix& weights, PendingStore& pending,
                                      Work& work) {
  tiles::load_stream<2>(values.tile[0], 64);
  tiles::load<4>(weights.tile(0, 0), weights.stride);
  tiles::load<5>(weights.tile(1, 0), weights.stride);
  tiles::zero<0>();
  tiles::dot_u8_s8<0, 4, 2>();
  store_pending<1>(pending);
  work(Tick<0, 4>{});
  tiles::zero<1>();
  tiles::dot_u8_s8<1, 5, 2>();
  tiles::load_stream<2>(values.tile[1], 64);
  tiles::load<4>(weights.tile(0, 1), weights.stride);
  tiles::load<5>(weights.tile(1, 1), weights.stride);
  work(Tick<1, 4>{});
  tiles::dot_u8_s8<0, 4, 2>();
  work(Tick<2, 4>{});
  tiles::dot_u8_s8<1, 5, 2>();
  tiles::store<0>(out.rows[0], out.stride);
  pending = {out.rows[1], out.stride};
  work(Tick<3, 4>{});
}

template <std::int32_t kSum, class Work>
INTFLASH_INLINE void short_value_step_one(const TileMatrix& out, const StreamedTiles& values,
                                          PendingStore& pending, Work& work) {
  tiles::load_stream<2>(values.tile[0], 64);
  tiles::zero<kSum>();
  tiles::dot_u8_s8<kSum, 4, 2>();
  store_pending<1 - kSum>(pending);
  tiles::load_stream<2>(values.tile[1], 64);
  work(Tick<0, 2>{});
  tiles::dot_u8_s8<kSum, 5, 2>();
  pending = {out.rows[0], out.stride};
  work(Tick<1, 2>{});
}

// ---- A step of Q K^T with head_dim > 128 ----

// sums += one slice, through the registers kB for keys and kA, kA + 1 for the query. Only the first
// kLongTicks slices have a tick, as there are never fewer.
template <std::int32_t kRowTiles, std::int32_t kSum, std::int32_t kA, std::int32_t kSlice,
          class Work>
INTFLASH_INLINE void add_slice(const TileMatrix& query, std::int32_t s, const std::int8_t* keys,
                               const PendingStore& pending, Work& work) {
  constexpr bool kFirst = kSlice == 0;
  constexpr std::int32_t kB = kA == 4 ? 2 : 3;
  tiles::load_stream<kB>(keys, 64);
  tiles::load<kA>(query.tile(0, s), query.stride);
  tiles::dot_s8_s8<kSum, kA, kB>();
  if constexpr (kFirst) store_pending<1 - kSum>(pending);
  if constexpr (kRowTiles == 2) {
    static_assert(kSum == 0);
    if constexpr (kFirst) tiles::zero<1>();
    tiles::load<kA + 1>(query.tile(1, s), query.stride);
    tiles::dot_s8_s8<1, kA + 1, kB>();
  }
  if constexpr (kSlice < kLongTicks) work(Tick<kSlice, kLongTicks>{});
}

template <std::int32_t kRowTiles, std::int32_t kSum, class Work>
INTFLASH_INLINE void long_key_step(const TileMatrix& out, const KeyTiles& keys,
                                   std::int32_t key_tile, const TileMatrix& query,
                                   std::int32_t slices, PendingStore& pending, Work& work) {
  const std::int8_t* tile = keys.tile(key_tile);
  tiles::zero<kSum>();
  add_slice<kRowTiles, kSum, 4, 0>(query, 0, tile, pending, work);
  add_slice<kRowTiles, kSum, 6, 1>(query, 1, tile + keys.slice(1), pending, work);
  add_slice<kRowTiles, kSum, 4, 2>(query, 2, tile + keys.slice(2), pending, work);
  std::int32_t s = 3;
  for (; s + 2 <= slices; s += 2) {
    add_slice<kRowTiles, kSum, 6, 3>(query, s, tile + keys.slice(s), pending, work);
    add_slice<kRowTiles, kSum, 4, 3>(query, s + 1, tile + keys.slice(s + 1), pending, work);
  }
  if (s < slices) add_slice<kRowTiles, kSum, 6, 3>(query, s, tile + keys.slice(s), pending, work);
  if constexpr (kRowTiles == 2) tiles::store<0>(out.rows[0], out.stride);
  pending = {out.rows[kRowTiles - 1], out.stride};
}

}  // namespace
}  // namespace intflash::internal
