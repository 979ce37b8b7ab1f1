// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What belongs to the rows of a tile: their memory, their constants in a block, and the entry of a
// block into their states.
#pragma once

#include <cstddef>
#include <cstdint>

#include "amx/fold.h"
#include "amx/softmax.h"
#include "tile/attend_tile.h"

namespace intflash::internal {
namespace {

// Products of 16 rows and 64 keys, rows 256 bytes apart; or folded scores of 16 rows and 128 keys.
constexpr std::int32_t kScoreBufferBytes = 4096;
constexpr std::int32_t kScoreRowBytes = 256;
constexpr std::uint32_t kScoreBuffers = 5;

// What the pipeline of 32 rows writes in every block.
constexpr std::int32_t kWideRows = 2 * kRowsPerTile;
constexpr std::int32_t kFoldLag = 2;  // channel tiles between a product and its fold
struct WideBuffers {
  alignas(64) char scores[2][kWideRows * kBlockTokens * 4];  // dots with half of the keys
  alignas(64) std::uint8_t weights[2][kWideRows][kBlockTokens];
  alignas(64) std::int32_t products[kFoldLag][kWideRows][16];
};

// Scratch of attend_tile; the query's tiles follow it. What every block writes should stay in L1:
// of 32 rows 16 KiB of scores, 4 KiB of P, 4 KiB of products and 3 KiB of rows, beside 16 KiB of
// accumulators where there are 128 channels; of fewer rows 20 KiB of scores.
struct AmxScratch {
  union {
    alignas(64) char scores[kScoreBuffers][kScoreBufferBytes];
    WideBuffers wide;
  };
  alignas(64) std::int32_t products[kProductTiles][16][16];
  Amx::I32 lanes[kMaxTileRows];  // of maxima, then of sums; a vector a row

  // Per row, of the block at work.
  alignas(64) std::uint32_t shift[kMaxTileRows];      // of shift_controls
  alignas(64) std::int32_t multiplier[kMaxTileRows];  // in both halves
  alignas(64) std::int32_t top[kMaxTileRows];         // of weigh_plain_row
  alignas(64) float light_sum[kMaxTileRows];          // where the block has light keys
  // Per row.
  alignas(64) float reference[kMaxTileRows];
  alignas(64) float row_sum[kMaxTileRows];

  // Takes what a tile register holds where a store finds nothing to do.
  alignas(64) std::int32_t nowhere[16][16];

  // Of blocks that take the generic way; the others use its weights, gains and accumulators.
  TileScratch<Amx> tile;
};

INTFLASH_INLINE TileMatrix weight_tiles(TileScratch<Amx>& tile) {
  return {{tile.weights[0], tile.weights[kRowsPerTile]}, kScoreBlock, 64};
}
INTFLASH_INLINE TileMatrix dot_tiles(TileScratch<Amx>& tile, std::int32_t first_key) {
  return {{tile.dots[0] + first_key, tile.dots[kRowsPerTile] + first_key}, sizeof tile.dots[0], 64};
}

// Query tiles [slices][32][64]. The last slice ends with the row; dims that the slice before holds
// are zero in it.
INTFLASH_INLINE void copy_query_tiles(const QueryTile& query, std::int32_t slices,
                                      std::int32_t padded_rows, std::int8_t* tiles) {
  for (std::int32_t s = 0; s < slices; ++s) {
    const std::int32_t first = s * 64;
    const std::int32_t overlap = s == 0 ? 0 : max_of(first + 64 - query.head_dim, 0);
    for (std::int32_t r = 0; r < padded_rows; ++r) {
      std::int8_t* row = tiles + (s * kMaxTileRows + r) * 64;
      const std::int8_t* codes = query.codes + r * query.code_stride + first;
      if (r < query.rows && overlap == 0) {
        Amx::store(row, Amx::load(codes));
        continue;
      }
      Amx::store(row, Amx::zero());
      if (r < query.rows)
        __builtin_memcpy(row + overlap, codes, static_cast<std::size_t>(64 - overlap));
    }
  }
}

// The reference of rows beyond the query's: no score is above it, so that they stay in reach.
constexpr float kNoRowReference = 32768.0f;

// Everything of the rows that stays through all blocks.
// References and sums move to scratch.
INTFLASH_NOINLINE void begin_rows(TileTask& task, std::int32_t padded_rows, AmxScratch& scratch,
                                  std::int8_t* query_tiles) {
  const QueryTile& query = *task.query;
  copy_query_tiles(query, (query.head_dim + 63) / 64, padded_rows, query_tiles);
  for (std::int32_t r = 0; r < padded_rows; ++r) {
    scratch.reference[r] = r < query.rows ? task.state.reference[r] : kNoRowReference;
    scratch.row_sum[r] = r < query.rows ? task.state.row_sum[r] : 0.0f;
  }
  task.state.reference = scratch.reference;
  task.state.row_sum = scratch.row_sum;
}
INTFLASH_INLINE void end_rows(const TileTask& task, const AmxScratch& scratch) {
  for (std::int32_t r = 0; r < task.query->rows; ++r) {
    task.state.reference[r] = scratch.reference[r];
    task.state.row_sum[r] = scratch.row_sum[r];
  }
}

// row_scale of 16 rows that have their scores in fixed point.
INTFLASH_INLINE void scale_16_rows(const QueryTile& query, std::int32_t first,
                                   const ScoreBlock& block, AmxScratch& scratch) {
  const Amx::I32 both =
      Amx::add32(Amx::load(query.exponent + first), Amx::broadcast32(block.key_exponent));
  const Amx::F32 product = Amx::multiply_f32(Amx::load_f32(query.mantissa + first),
                                             Amx::broadcast_f32(block.key_mantissa));
  const Amx::I32 bits = Amx::add32(Amx::load(query.score_bits + first), both);
  const Amx::I32 bound = Amx::sub32(bits, Amx::broadcast32(kScoreBits));
  const Amx::I32 tight =
      Amx::sub32_where(Amx::less(product, Amx::broadcast_f32(0.5f)), bound, Amx::broadcast32(1));
  const Amx::I32 exponent = Amx::max32(Amx::max32(Amx::broadcast32(kFinestExponent), both), tight);
  const Amx::I32 shift = Amx::min32(Amx::sub32(exponent, both), Amx::broadcast32(31));
  Amx::store(scratch.shift + first, shift_controls(shift));
  const Amx::I32 coarser = Amx::sub32(Amx::broadcast32(-kFractionBits), exponent);
  const Amx::I32 half =
      Amx::shift_right32(Amx::shift_left32(Amx::broadcast32(1), coarser), Amx::broadcast32(1));
  const Amx::I32 multiplier =
      Amx::shift_right32(Amx::add32(Amx::load(query.multiplier + first), half), coarser);
  Amx::store(scratch.multiplier + first,
             Amx::bit_or(multiplier, Amx::shift_left32<16>(multiplier)));
}

// What score_plain_row needs to know of rows that have their scores in fixed point.
template <std::int32_t kRows>
INTFLASH_INLINE void scale_plain_rows(const QueryTile& query, const ScoreBlock& block,
                                      AmxScratch& scratch) {
  INTFLASH_UNROLL
  for (std::int32_t r = 0; r < kRows; r += 16) scale_16_rows(query, r, block, scratch);
}

INTFLASH_INLINE ScoreRow score_row_of(const AmxScratch& scratch, std::int32_t row) {
  return {scratch.shift[row], scratch.multiplier[row]};
}

// Tops of rows first ... first + 15 from the maxima of pairs of rows.
INTFLASH_INLINE void finish_tops_of_16(AmxScratch& scratch, std::int32_t first) {
  const Amx::I16 largest = Amx::max_halves_of_16(scratch.lanes + first);
  Amx::store(scratch.top + first, Amx::add(largest, Amx::broadcast32(kOctavesAbove)));
}

// The largest folded score of a row.
INTFLASH_INLINE std::int32_t largest_score(const AmxScratch& scratch, std::int32_t row) {
  return (scratch.top[row] >> 16) - (kOctavesAbove >> 16);
}

// Adds up the row's weights where the block has light keys.
INTFLASH_NOINLINE void add_light_keys_to(AmxScratch& scratch, std::int32_t row,
                                         const ScoreBlock& block, Amx::I32 sums,
                                         const std::int16_t* x) {
  scratch.light_sum[row] = add_light_keys_of_row<Amx>(
      static_cast<float>(Amx::sum_lanes(sums)), largest_score(scratch, row), block, nullptr, x);
}

// exp2_of.
INTFLASH_INLINE Amx::F32 exp2_of_16(Amx::F32 x) {
  const Amx::F32 bounded = Amx::max_f32(Amx::broadcast_f32(-127.0f), x);
  const Amx::F32 whole = Amx::floor_f32(bounded);
  const Amx::F32 fraction = Amx::sub_f32(bounded, whole);
  Amx::F32 power = Amx::broadcast_f32(kExp2Terms[0]);
  INTFLASH_UNROLL
  for (std::int32_t i = 1; i < 6; ++i)
    power = Amx::fma(power, fraction, Amx::broadcast_f32(kExp2Terms[i]));
  return Amx::multiply_f32(power, Amx::power_of_two(Amx::to_int(whole)));
}

INTFLASH_NOINLINE void keep_16_in_reach(const AttentionState& state, std::int32_t first,
                                        std::int32_t rows, std::int32_t head_dim_v,
                                        const float* exponent) {
  for (std::int32_t r = first; r < min_of(first + 16, rows); ++r)
    keep_in_reach(state, r, head_dim_v, exponent[r - first]);
}

// Takes the weights of a plain block into the states of rows first ... first + 15, and leaves their
// gains.
INTFLASH_INLINE void enter_16_rows(const ScoreBlock& block, const AttentionState& state,
                                   std::int32_t first, std::int32_t rows, std::int32_t head_dim_v,
                                   AmxScratch& scratch) {
  const Amx::F32 sum = block.num_light > 0 ? Amx::load_f32(scratch.light_sum + first)
                                           : Amx::to_f32(Amx::sum_of_16(scratch.lanes + first));
  const Amx::I32 largest = Amx::sub32(Amx::high_half32(Amx::load(scratch.top + first)),
                                      Amx::broadcast32(kOctavesAbove >> 16));
  const Amx::F32 exponent = Amx::multiply_f32(Amx::to_f32(largest), Amx::broadcast_f32(kScoreUnit));
  Amx::F32 distance = Amx::sub_f32(exponent, Amx::load_f32(scratch.reference + first));
  if (!Amx::all_at_most(distance, Amx::broadcast_f32(kMaxOverReference))) {
    alignas(64) float exponents[16];
    Amx::store_f32(exponents, exponent);
    keep_16_in_reach(state, first, rows, head_dim_v, exponents);
    distance = Amx::sub_f32(exponent, Amx::load_f32(scratch.reference + first));
  }
  const Amx::F32 alpha = exp2_of_16(distance);
  Amx::store_f32(scratch.row_sum + first,
                 Amx::fma(sum, alpha, Amx::load_f32(scratch.row_sum + first)));
  const float value_unit = power_of_two(block.value_exponent);
  Amx::store_f32(scratch.tile.gain + first,
                 Amx::multiply_f32(alpha, Amx::broadcast_f32(value_unit)));
}

// Softmax of the rows of any block in the generic form, one stage after the other: from tile.dots
// to P, gains and accumulators of the rows that see any of its keys; returns how many do.
INTFLASH_NOINLINE std::int32_t weigh_special_block(const TileTask& task, std::int32_t b,
                                                   std::int32_t exponent_limit,
                                                   TileScratch<Amx>& tile) {
  FetchBetween none;
  const auto no_digits = [] {};  // such blocks are not this pipeline's: attend_by_vnni
  const std::int32_t active = weigh_block(task, b, exponent_limit, none, no_digits, tile);
  for (std::int32_t a = 0; a < active; ++a) {
    std::uint8_t* weights = tile.weights[a];
    for (std::int32_t at = 0; at < kScoreBlock; at += 64)
      Amx::store(weights + at, natural_order(Amx::load(weights + at)));
  }
  return active;
}

}  // namespace
}  // namespace intflash::internal
