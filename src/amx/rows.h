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

namespace intflash {
namespace {

// Products of 16 rows and 64 keys, rows 256 bytes apart; or folded scores of 16 rows and 128 keys.
constexpr std::int32_t kScoreBufferBytes = 4096;
constexpr std::int32_t kScoreRowBytes = 256;
constexpr std::int32_t kScoreBuffers = 5;

// Scratch of attend_tile; the query's tiles follow it. Written in every block and meant to stay in
// L1: 20 KiB of scores, 4 KiB of P, 4 KiB of products and 3 KiB of rows, beside 16 KiB of
// accumulators with 128 channels.
struct AmxScratch {
  alignas(64) char scores[kScoreBuffers][kScoreBufferBytes];
  alignas(64) std::uint8_t weights[kMaxTileRows][kScoreBlock];
  alignas(64) std::int32_t products[kProductTiles][16][16];
  Amx::I32 pairs[kMaxTileRows / 2];

  // Per row, of the block at work.
  alignas(64) std::int32_t exponent[kMaxTileRows];  // RowScale::exponent
  alignas(64) std::uint32_t shift[kMaxTileRows];    // shift_control
  alignas(64) std::int32_t top[kMaxTileRows];       // of weigh_row
  alignas(64) float gain[kMaxTileRows];
  // Per row.
  alignas(64) std::int32_t multiplier[kMaxTileRows];  // in both halves
  alignas(64) float reference[kMaxTileRows];
  alignas(64) float row_sum[kMaxTileRows];
  QueryTile query;  // with rows up to a multiple of 16

  // The value_term of rows with exponent e at [e + kExponentBits].
  alignas(64) std::int16_t value_term[kExponentBits + 1][kScoreBlock];

  // Of rows that take the generic way.
  alignas(64) std::int32_t dots[kScoreBlock];
  SoftmaxScratch softmax;
  ScoreBlock row_block;
};

// Rows beyond the query's are copies of its first: what is computed for them is finite, and read by
// nobody.
INTFLASH_INLINE void copy_query(const QueryTile& query, std::int32_t padded_rows,
                                AmxScratch& scratch) {
  QueryTile& own = scratch.query;
  own = query;
  for (std::int32_t r = query.rows; r < padded_rows; ++r) {
    own.multiplier[r] = query.multiplier[0];
    own.exponent[r] = query.exponent[0];
    own.mantissa[r] = query.mantissa[0];
    own.score_bits[r] = query.score_bits[0];
  }
  for (std::int32_t r = 0; r < padded_rows; ++r)
    scratch.multiplier[r] = own.multiplier[r] * 0x10001;
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
      __builtin_memset(row, 0, 64);
      if (r >= query.rows) continue;
      const std::int8_t* codes = query.codes + r * query.code_stride + first;
      __builtin_memcpy(row + overlap, codes, static_cast<std::size_t>(64 - overlap));
    }
  }
}

// The largest exponent that any row can have in a block, less the block's key_exponent.
INTFLASH_INLINE std::int32_t exponent_limit(const QueryTile& query) {
  std::int32_t limit = -1000;
  for (std::int32_t r = 0; r < query.rows; ++r) {
    limit = max_of(limit, query.exponent[r] + max_of(query.score_bits[r] - kScoreBits, 0));
  }
  return limit;
}

// exponent, shift and value_term of the rows in a block where all exponents are <= 0.
template <std::int32_t kRows>
INTFLASH_INLINE void scale_plain_rows(const ScoreBlock& block, AmxScratch& scratch) {
  std::uint32_t used = 0;
  for (std::int32_t r = 0; r < kRows; ++r) {
    const RowScale scale = row_scale(scratch.query, r, block.key_exponent, block.key_mantissa);
    scratch.exponent[r] = scale.exponent;
    scratch.shift[r] = shift_control(scale.shift);
    used |= 1u << (scale.exponent + kExponentBits);
  }
  for (; used != 0; used &= used - 1) {
    const std::int32_t coarser = __builtin_ctz(used);
    const Amx::I16 factor = Amx::broadcast16(min_of(1 << (15 - coarser), 32767));
    for (std::int32_t key = 0; key < kScoreBlock; key += 32) {
      Amx::store(scratch.value_term[coarser] + key,
                 Amx::multiply_q15(Amx::load(block.value_log2 + key), factor));
    }
  }
}

INTFLASH_INLINE ScoreRow score_row_of(const AmxScratch& scratch, std::int32_t row,
                                      const std::int32_t* low, const std::int32_t* high) {
  return {{low, high},
          scratch.shift[row],
          scratch.multiplier[row],
          scratch.value_term[scratch.exponent[row] + kExponentBits]};
}

// Each row's top from the maxima of pairs of rows.
template <std::int32_t kRows>
INTFLASH_INLINE void finish_tops(AmxScratch& scratch) {
  for (std::int32_t r = 0; r < kRows; r += 16) {
    const Amx::I16 largest = larger_half(RowReduction<Largest>::finish(scratch.pairs + r / 2));
    const Amx::I32 places = _mm512_sub_epi32(Amx::zero(), Amx::load(scratch.exponent + r));
    const Amx::I16 octaves = _mm512_sllv_epi32(Amx::broadcast32(two_octaves(0)), places);
    Amx::store(scratch.top + r, Amx::add(largest, octaves));
  }
}

// Takes the weights of a plain block into the states of its rows, and leaves their gains.
template <std::int32_t kRows>
INTFLASH_INLINE void enter_plain_rows(const ScoreBlock& block, const AttentionState& state,
                                      std::int32_t rows, std::int32_t head_dim_v,
                                      AmxScratch& scratch) {
  alignas(64) float exponent[kRows];
  alignas(64) float distance[kRows];
  alignas(64) float sum[kRows];
  for (std::int32_t r = 0; r < kRows; r += 16) {
    Amx::store_f32(sum + r, Amx::to_f32(RowReduction<Sum>::finish(scratch.pairs + r / 2)));
  }
  std::int32_t out_of_reach = 0;
  for (std::int32_t r = 0; r < kRows; ++r) {
    const std::int32_t largest = (scratch.top[r] >> 16) - (two_octaves(-scratch.exponent[r]) >> 16);
    exponent[r] = static_cast<float>(largest) * power_of_two(scratch.exponent[r]);
    distance[r] = r < rows ? exponent[r] - state.reference[r] : 0.0f;
    out_of_reach |= distance[r] <= kMaxOverReference ? 0 : 1;
  }
  if (out_of_reach != 0) {
    for (std::int32_t r = 0; r < rows; ++r) {
      keep_in_reach(state, r, head_dim_v, exponent[r]);
      distance[r] = exponent[r] - state.reference[r];
    }
  }
  const float value_unit = power_of_two(block.value_exponent);
  for (std::int32_t r = 0; r < kRows; ++r) {
    const float alpha = exp2_of(distance[r]);
    state.row_sum[r] = fused(sum[r], alpha, state.row_sum[r]);
    scratch.gain[r] = alpha * value_unit;
  }
}

}  // namespace
}  // namespace intflash
