// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// One query tile against the keys of one span: per score block Q K^T -> softmax -> P V.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tile/online_softmax.h"
#include "tile/partial_blocks.h"
#include "tile/state.h"
#include "tile/types.h"

namespace intflash {
namespace {

// Fixed scratch of attend_tile; the port's own follows it. Rows that see no key of a block are left
// out: `row` lists the others, the active ones, and what belongs to them lies close together.
template <class Isa>
struct TileScratch {
  alignas(64) std::int32_t dots[Isa::kTileRows][kScoreBlock];  // of all rows
  alignas(64) std::int16_t x[Isa::kTileRows][kScoreBlock];
  alignas(64) std::uint8_t weights[Isa::kTileRows][kScoreBlock];
  std::int32_t row[Isa::kTileRows];
  const ScoreBlock* factors[Isa::kTileRows];
  const std::uint64_t* keep[Isa::kTileRows];
  alignas(64) std::int32_t multiplier[Isa::kTileRows];
  alignas(64) std::int32_t scale_exponent[Isa::kTileRows];
  alignas(64) std::int32_t shift[Isa::kTileRows];
  alignas(64) std::int32_t value_multiplier[Isa::kTileRows];
  alignas(64) std::int32_t largest[Isa::kTileRows];
  alignas(64) float exponent[Isa::kTileRows];
  alignas(64) float sum[Isa::kTileRows];
  alignas(64) float gain[Isa::kTileRows];
  float* accumulators[Isa::kTileRows];
  SoftmaxScratch softmax;
  ScoreBlock row_blocks[Isa::kTileRows];  // factors of rows that do not share the block's

  RowScale scale(std::int32_t a) const {
    return {scale_exponent[a], shift[a], value_multiplier[a]};
  }
  void set_scale(std::int32_t a, RowScale scale) {
    scale_exponent[a] = scale.exponent;
    shift[a] = scale.shift;
    value_multiplier[a] = scale.value_multiplier;
  }
};

// row_scale of all rows.
INTFLASH_INLINE void scale_rows(const QueryTile& query, const ScoreBlock& block,
                                std::int32_t* INTFLASH_RESTRICT exponent,
                                std::int32_t* INTFLASH_RESTRICT shift,
                                std::int32_t* INTFLASH_RESTRICT value_multiplier) {
  const std::int32_t rows = query.rows;
  const std::int32_t key_exponent = block.key_exponent;
  const float key_mantissa = block.key_mantissa;
  for (std::int32_t r = 0; r < rows; ++r) {
    const RowScale scale = row_scale(query, r, key_exponent, key_mantissa);
    exponent[r] = scale.exponent;
    shift[r] = scale.shift;
    value_multiplier[r] = scale.value_multiplier;
  }
}

// Every row sees every key.
template <class Isa>
INTFLASH_INLINE std::int32_t choose_all_rows(const QueryTile& query, const ScoreBlock& block,
                                             TileScratch<Isa>& scratch) {
  scale_rows(query, block, scratch.scale_exponent, scratch.shift, scratch.value_multiplier);
  for (std::int32_t r = 0; r < query.rows; ++r) {
    scratch.row[r] = r;
    scratch.factors[r] = &block;
    scratch.keep[r] = nullptr;
    scratch.multiplier[r] = query.multiplier[r];
  }
  return query.rows;
}

// Rows that see any key of the block, by their keep words [rows][2], with their factors and fixed
// points; returns how many.
template <class Isa>
INTFLASH_NOINLINE std::int32_t choose_rows(const QueryTile& query, const ScoreBlock& block,
                                           const std::uint64_t* keep, TileScratch<Isa>& scratch) {
  std::uint64_t seen[2] = {};
  for (std::int32_t r = 0; r < query.rows; ++r) {
    seen[0] |= keep[2 * r];
    seen[1] |= keep[2 * r + 1];
  }
  PartialFactors<Isa> partial(block, seen, scratch.row_blocks, Isa::kTileRows);
  LargestScales largest{};
  std::int32_t active = 0;
  for (std::int32_t r = 0; r < query.rows; ++r) {
    const std::uint64_t* words = keep + 2 * r;
    if ((words[0] | words[1]) == 0) continue;
    const bool as_before = active > 0 && words[0] == words[-2] && words[1] == words[-1];
    if (!as_before) largest = largest_seen<Isa>(block, words);
    const ScoreBlock* factors = as_before ? scratch.factors[active - 1] : &partial.of(largest);
    scratch.row[active] = r;
    scratch.factors[active] = factors;
    scratch.keep[active] = words;
    scratch.multiplier[active] = query.multiplier[r];
    scratch.set_scale(active, row_scale(query, r, largest.key_exponent, largest.key_mantissa));
    ++active;
  }
  return active;
}

// Softmax of the active rows: all scores first, then all weights, so that no row waits for its own
// maximum.
template <class Isa, bool kMasked>
INTFLASH_INLINE void weigh_rows(std::int32_t active, TileScratch<Isa>& scratch) {
  for (std::int32_t a = 0; a < active; ++a) {
    scratch.largest[a] =
        score_row<Isa, kMasked>(scratch.dots[scratch.row[a]], *scratch.factors[a], scratch.scale(a),
                                scratch.multiplier[a], scratch.keep[a], scratch.x[a]);
  }
  std::int32_t any_light = 0;
  for (std::int32_t a = 0; a < active; ++a) {
    const std::int32_t sum =
        weigh_row<Isa, kMasked>(scratch.x[a], scratch.largest[a], scratch.scale(a),
                                *scratch.factors[a], scratch.keep[a], scratch.weights[a]);
    scratch.sum[a] = static_cast<float>(sum);
    any_light |= scratch.factors[a]->any_light;
  }
  for (std::int32_t a = 0; a < active; ++a) {
    scratch.exponent[a] =
        static_cast<float>(scratch.largest[a]) * power_of_two(scratch.scale_exponent[a]);
  }
  for (std::int32_t a = 0; any_light != 0 && a < active; ++a) {
    scratch.sum[a] =
        add_light_keys_of_row<Isa>(scratch.sum[a], scratch.largest[a], scratch.scale(a),
                                   *scratch.factors[a], scratch.keep[a], scratch.x[a]);
  }
}

template <class Isa>
INTFLASH_NOINLINE void weigh_capped_rows(const TileTask& task, std::int32_t active,
                                         TileScratch<Isa>& scratch) {
  for (std::int32_t a = 0; a < active; ++a) {
    const BlockWeight weight = weigh_capped_row<Isa>(task, scratch.row[a], *scratch.factors[a],
                                                     scratch.dots[scratch.row[a]], scratch.keep[a],
                                                     scratch.softmax, scratch.weights[a]);
    scratch.exponent[a] = weight.exponent;
    scratch.sum[a] = weight.sum;
  }
}

// Takes the weights of all active rows into their states, and leaves their gains.
template <class Isa>
INTFLASH_INLINE void enter_rows(const TileTask& task, std::int32_t active,
                                TileScratch<Isa>& scratch) {
  const AttentionState& state = task.state;
  float farthest = kNegativeInfinity;
  for (std::int32_t a = 0; a < active; ++a) {
    // A row without a reference is infinitely far from it.
    farthest = max_of(farthest, scratch.exponent[a] - state.reference[scratch.row[a]]);
    scratch.accumulators[a] = state.accumulators + scratch.row[a] * state.accumulator_stride;
  }
  if (farthest > kMaxOverReference) {
    for (std::int32_t a = 0; a < active; ++a) {
      keep_in_reach(state, scratch.row[a], task.head_dim_v, scratch.exponent[a]);
    }
  }
  // Between local arrays, so that nothing seems to alias and the exponentials vectorize.
  float distance[Isa::kTileRows];
  float alpha[Isa::kTileRows];
  for (std::int32_t a = 0; a < active; ++a)
    distance[a] = scratch.exponent[a] - state.reference[scratch.row[a]];
  for (std::int32_t a = 0; a < active; ++a) alpha[a] = exp2_of(distance[a]);
  for (std::int32_t a = 0; a < active; ++a) {
    float& row_sum = state.row_sum[scratch.row[a]];
    row_sum = fused(scratch.sum[a], alpha[a], row_sum);
    scratch.gain[a] = alpha[a] * power_of_two(scratch.factors[a]->value_exponent);
  }
}

// Half of the block where no row sees the other half.
INTFLASH_INLINE std::int32_t keys_to_multiply(const QueryTile& query, const std::uint64_t* keep) {
  std::uint64_t high = keep == nullptr ? 1 : 0;
  for (std::int32_t r = 0; keep != nullptr && r < query.rows; ++r) high |= keep[2 * r + 1];
  return high != 0 ? kScoreBlock : kBlockTokens;
}

template <class Isa>
void attend_tile(const TileTask& task) {
  const QueryTile& query = *task.query;
  TileScratch<Isa>& scratch = *static_cast<TileScratch<Isa>*>(task.scratch);
  void* products = static_cast<char*>(task.scratch) + sizeof(TileScratch<Isa>);
  Isa::prepare_query(query, products);
  for (std::int32_t b = 0; b < task.num_blocks; ++b) {
    const ScoreBlock& block = task.blocks[b];
    const std::uint64_t* keep = task.keep[b];
    const std::int32_t num_keys = keys_to_multiply(query, keep);
    Isa::qk_tile(query, products, block, num_keys, scratch.dots[0]);
    const std::int32_t active = keep == nullptr ? choose_all_rows(query, block, scratch)
                                                : choose_rows(query, block, keep, scratch);
    if (task.score_cap > 0.0f) {
      weigh_capped_rows(task, active, scratch);
    } else if (keep == nullptr) {
      weigh_rows<Isa, false>(active, scratch);
    } else {
      weigh_rows<Isa, true>(active, scratch);
    }
    enter_rows(task, active, scratch);
    Isa::pv_tile(products, scratch.weights[0], active, block, num_keys, task.head_dim_v,
                 scratch.gain, scratch.accumulators);
  }
}

template <class Isa>
std::size_t scratch_bytes(std::int32_t head_dim, std::int32_t) {
  return sizeof(TileScratch<Isa>) + Isa::query_bytes(head_dim);
}

template <class Isa>
void prepare_block(ScoreBlock& block, const std::uint64_t* keep) {
  fill_factors<NarrowedOrder<Isa>>(block, keep);
}

}  // namespace
}  // namespace intflash
