// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// One query tile against the keys of one span: per score block Q K^T -> softmax -> P V, strip by
// strip of rows.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tile/online_softmax.h"
#include "tile/state.h"
#include "tile/types.h"

namespace intflash {
namespace {

// Fixed scratch of attend_tile; the port's packed query follows it. Rows that see no key of a block
// are left out: `row` lists the others, and what belongs to them lies close together.
template <class Isa>
struct TileScratch {
  alignas(64) std::int32_t dots[Isa::kStripRows][kScoreBlock];
  alignas(64) std::uint8_t weights[kMaxTileRows][kScoreBlock];
  alignas(64) RowScale scale[kMaxTileRows];  // of all rows
  alignas(64) float exponent[kMaxTileRows];
  alignas(64) float sum[kMaxTileRows];
  alignas(64) float gain[kMaxTileRows];
  alignas(64) std::int32_t value_exponent[kMaxTileRows];
  std::int32_t row[kMaxTileRows];
  float* accumulators[kMaxTileRows];
  SoftmaxScratch softmax;
  ScoreBlock row_block;
};

// The factors for a row that sees the keys in keep. They are the block's own unless the largest
// scales lie among hidden keys; then only their exponents matter to the arrays, and rarely differ.
template <class Isa>
INTFLASH_INLINE const ScoreBlock& factors_for(const ScoreBlock& block, const std::uint64_t* keep,
                                              ScoreBlock& own) {
  float largest_key = 0.0f;
  float largest_value = 0.0f;
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    const KvBlock& half = block.half[key / kBlockTokens];
    const bool kept = key_is_kept(keep, key);
    largest_key = max_of(largest_key, kept ? half.key_scale[key % kBlockTokens] : 0.0f);
    largest_value = max_of(largest_value, kept ? half.value_scale[key % kBlockTokens] : 0.0f);
  }
  const bool same_key = largest_key > 0.0f && exponent_of(largest_key) == block.key_exponent &&
                        mantissa_of(largest_key) == block.key_mantissa;
  const bool same_value =
      largest_value > 0.0f && exponent_of(largest_value) == block.value_exponent;
  if (same_key && same_value) return block;
  own.half[0] = block.half[0];
  own.half[1] = block.half[1];
  fill_factors(own, keep, NarrowedOrder<Isa::kLanes>{});
  return own;
}

// A row that sees only part of the block, or whose scores are capped.
template <class Isa>
INTFLASH_NOINLINE BlockWeight weigh_special_row(const TileTask& task, std::int32_t row,
                                                const ScoreBlock& block, const std::int32_t* dots,
                                                const std::uint64_t* keep, SoftmaxScratch& scratch,
                                                std::uint8_t* weights) {
  const QueryTile& query = *task.query;
  if (keep == nullptr) {
    return capped_softmax_row<Isa, false>(query, row, block, dots, keep, task.score_cap, scratch,
                                          weights);
  }
  expand_keep<Isa>(keep, scratch.mask);
  if (task.score_cap > 0.0f) {
    return capped_softmax_row<Isa, true>(query, row, block, dots, keep, task.score_cap, scratch,
                                         weights);
  }
  const RowScale scale = row_scale(query, row, block);
  const RowWeights sums =
      softmax_row<Isa, true>(scale, query.multiplier[row], block, dots, scratch, weights);
  return block_weight<Isa>(sums, scale, block, keep, scratch);
}

// Weights of rows first ... first + rows - 1, whose products with the keys are in scratch.dots;
// returns the new number of active rows.
template <class Isa>
INTFLASH_INLINE std::int32_t weigh_strip(const TileTask& task, const ScoreBlock& block,
                                         const std::uint64_t* keep, std::int32_t first,
                                         std::int32_t rows, std::int32_t active,
                                         TileScratch<Isa>& scratch) {
  const bool plain = keep == nullptr && !(task.score_cap > 0.0f);
  for (std::int32_t r = first; r < first + rows; ++r) {
    const std::int32_t* dots = scratch.dots[r - first];
    BlockWeight weight;
    const ScoreBlock* factors = &block;
    if (plain) {
      const RowWeights sums =
          softmax_row<Isa, false>(scratch.scale[r], task.query->multiplier[r], block, dots,
                                  scratch.softmax, scratch.weights[active]);
      weight = block_weight<Isa>(sums, scratch.scale[r], block, nullptr, scratch.softmax);
    } else {
      const std::uint64_t* row_keep = keep == nullptr ? nullptr : keep + 2 * r;
      if (row_keep != nullptr && (row_keep[0] | row_keep[1]) == 0) continue;
      if (row_keep != nullptr) factors = &factors_for<Isa>(block, row_keep, scratch.row_block);
      weight = weigh_special_row<Isa>(task, r, *factors, dots, row_keep, scratch.softmax,
                                      scratch.weights[active]);
    }
    scratch.exponent[active] = weight.exponent;
    scratch.sum[active] = weight.sum;
    scratch.value_exponent[active] = factors->value_exponent;
    scratch.row[active] = r;
    ++active;
  }
  return active;
}

// Takes the weights of all active rows into their states, and leaves their gains.
template <class Isa>
INTFLASH_INLINE void enter_rows(const TileTask& task, std::int32_t active,
                                TileScratch<Isa>& scratch) {
  const AttentionState& state = task.state;
  alignas(64) float distance[kMaxTileRows];
  for (std::int32_t a = 0; a < active; ++a) {
    const std::int32_t r = scratch.row[a];
    keep_in_reach(state, r, task.head_dim_v, scratch.exponent[a]);
    distance[a] = scratch.exponent[a] - state.reference[r];
    scratch.accumulators[a] = state.accumulators + r * state.accumulator_stride;
  }
  for (std::int32_t a = active; a < kMaxTileRows; ++a) distance[a] = 0.0f;
  alignas(64) float alpha[kMaxTileRows];
  for (std::int32_t a = 0; a < kMaxTileRows; ++a) alpha[a] = exp2_of(distance[a]);
  for (std::int32_t a = 0; a < active; ++a) {
    float& row_sum = state.row_sum[scratch.row[a]];
    row_sum = fused(scratch.sum[a], alpha[a], row_sum);
    scratch.gain[a] = alpha[a] * power_of_two(scratch.value_exponent[a]);
  }
}

// Scores and weights of all rows for one block; returns how many rows see any of its keys.
template <class Isa>
INTFLASH_INLINE std::int32_t weigh_block(const TileTask& task, const ScoreBlock& block,
                                         const std::uint64_t* keep, const void* packed_query,
                                         TileScratch<Isa>& scratch) {
  const QueryTile& query = *task.query;
  for (std::int32_t r = 0; r < query.rows; ++r) scratch.scale[r] = row_scale(query, r, block);
  std::int32_t active = 0;
  for (std::int32_t first = 0; first < query.rows; first += Isa::kStripRows) {
    const std::int32_t rows = min_of(Isa::kStripRows, query.rows - first);
    Isa::qk_strip(query, packed_query, first, rows, block, scratch.dots[0]);
    active = weigh_strip<Isa>(task, block, keep, first, rows, active, scratch);
  }
  enter_rows<Isa>(task, active, scratch);
  return active;
}

template <class Isa>
void attend_tile(const TileTask& task) {
  TileScratch<Isa>& scratch = *static_cast<TileScratch<Isa>*>(task.scratch);
  void* packed_query = static_cast<char*>(task.scratch) + sizeof(TileScratch<Isa>);
  Isa::prepare_query(*task.query, packed_query);
  for (std::int32_t b = 0; b < task.num_blocks; ++b) {
    const ScoreBlock& block = task.blocks[b];
    const std::int32_t active = weigh_block<Isa>(task, block, task.keep[b], packed_query, scratch);
    for (std::int32_t r = 0; r < active; r += Isa::kStripRows) {
      Isa::pv_strip(scratch.weights[r], min_of(Isa::kStripRows, active - r), block, task.head_dim_v,
                    scratch.gain + r, scratch.accumulators + r);
    }
  }
}

template <class Isa>
std::size_t scratch_bytes(std::int32_t head_dim, std::int32_t) {
  return sizeof(TileScratch<Isa>) + Isa::query_bytes(head_dim);
}

template <class Isa>
void prepare_block(ScoreBlock& block, const std::uint64_t* keep) {
  fill_factors(block, keep, NarrowedOrder<Isa::kLanes>{});
}

}  // namespace
}  // namespace intflash
