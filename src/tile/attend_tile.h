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

// Fixed scratch of attend_tile; the port's own follows it. Rows that see no key of a block are left
// out: `row` lists the others, and what belongs to them lies close together.
template <class Isa>
struct TileScratch {
  alignas(64) std::int32_t dots[Isa::kStripRows][kScoreBlock];
  alignas(64) std::int16_t x[Isa::kStripRows][kScoreBlock];
  alignas(64) std::uint8_t weights[kMaxTileRows][kScoreBlock];
  // Of all rows, where every row sees the whole block: the fixed point, and what softmax found in
  // it.
  alignas(64) std::int32_t scale_exponent[kMaxTileRows];
  alignas(64) std::int32_t shift[kMaxTileRows];
  alignas(64) std::int32_t value_multiplier[kMaxTileRows];
  alignas(64) std::int32_t largest[kMaxTileRows];
  alignas(64) std::int32_t integer_sum[kMaxTileRows];
  // Of the active rows.
  alignas(64) float exponent[kMaxTileRows];
  alignas(64) float sum[kMaxTileRows];
  alignas(64) float gain[kMaxTileRows];
  alignas(64) std::int32_t value_exponent[kMaxTileRows];
  alignas(64) std::int32_t row[kMaxTileRows];
  float* accumulators[kMaxTileRows];
  SoftmaxScratch softmax;
  ScoreBlock row_block;

  RowScale scale(std::int32_t r) const {
    return {scale_exponent[r], shift[r], value_multiplier[r]};
  }
};

// The largest of 128 scales >= 0 whose keys are kept, as bits.
template <class Isa>
INTFLASH_INLINE std::int32_t largest_kept(const float* low, const float* high,
                                          const std::uint64_t* keep) {
  typename Isa::I32 largest = Isa::zero();
  INTFLASH_UNROLL
  for (std::int32_t key = 0; key < kBlockTokens; key += Isa::kLanes) {
    const auto low_kept = Isa::bit_and(Isa::load_any(low + key), Isa::keep_lanes(keep[0] >> key));
    const auto high_kept = Isa::bit_and(Isa::load_any(high + key), Isa::keep_lanes(keep[1] >> key));
    largest = Isa::max32(largest, Isa::max32(low_kept, high_kept));
  }
  return Isa::max_lane32(largest);
}

// Factors of a block for rows that see only part of it. They depend on the exponents of the largest
// scales that the row sees, and rows of a tile have few different ones: those of the whole block,
// or those of the last row that differed.
template <class Isa>
class PartialFactors {
 public:
  // seen: keys that any of the rows sees.
  INTFLASH_INLINE PartialFactors(const ScoreBlock& block, const std::uint64_t* seen,
                                 ScoreBlock& other)
      : block_(block), other_(other), has_other_(false) {
    seen_[0] = seen[0];
    seen_[1] = seen[1];
  }

  INTFLASH_INLINE const ScoreBlock& of(LargestScales largest) {
    if (serves(block_, largest)) return block_;
    if (!(has_other_ && serves(other_, largest))) {
      refill<NarrowedOrder<Isa>>(block_, seen_, largest, other_);
      has_other_ = true;
    }
    return other_;
  }

 private:
  static INTFLASH_INLINE bool serves(const ScoreBlock& factors, LargestScales largest) {
    return largest.any_value && largest.key_mantissa > 0.0f &&
           largest.key_exponent == factors.key_exponent &&
           largest.value_exponent == factors.value_exponent;
  }
  template <class Order>
  static INTFLASH_NOINLINE void refill(const ScoreBlock& block, const std::uint64_t* seen,
                                       LargestScales largest, ScoreBlock& other) {
    alignas(64) std::int32_t kept[kScoreBlock];
    alignas(64) std::int32_t key_scale[kScoreBlock];
    alignas(64) std::int32_t value_scale[kScoreBlock];
    Order::expand(seen, kept);
    const KvBlock* half = block.half;
    gather_scales(half[0].key_scale, half[1].key_scale, kept, key_scale);
    gather_scales(half[0].value_scale, half[1].value_scale, kept, value_scale);
    other.half[0] = half[0];
    other.half[1] = half[1];
    fill_factors_beside<Order>(other, kept, key_scale, value_scale, largest);
  }

  const ScoreBlock& block_;
  ScoreBlock& other_;
  bool has_other_;
  std::uint64_t seen_[2];
};

// A row that sees only part of the block, or whose scores are capped.
template <class Isa>
INTFLASH_NOINLINE BlockWeight weigh_special_row(const TileTask& task, std::int32_t row,
                                                const ScoreBlock& block, LargestScales largest,
                                                const std::int32_t* dots, const std::uint64_t* keep,
                                                SoftmaxScratch& scratch, std::uint8_t* weights) {
  const QueryTile& query = *task.query;
  if (keep == nullptr) {
    return capped_softmax_row<Isa, false>(query, row, block, dots, keep, task.score_cap, scratch,
                                          weights);
  }
  if (task.score_cap > 0.0f) {
    return capped_softmax_row<Isa, true>(query, row, block, dots, keep, task.score_cap, scratch,
                                         weights);
  }
  const RowScale scale = row_scale(query, row, largest.key_exponent, largest.key_mantissa);
  return masked_softmax_row<Isa>(query, row, block, scale, dots, keep, scratch, weights);
}

// Weights of rows first ... first + rows - 1, whose products with the keys are in scratch.dots;
// returns the new number of active rows. keep [rows of the tile][2]; nullptr: all keys are seen.
template <class Isa>
INTFLASH_INLINE std::int32_t weigh_special_strip(const TileTask& task, const ScoreBlock& block,
                                                 const std::uint64_t* keep,
                                                 PartialFactors<Isa>& partial, std::int32_t first,
                                                 std::int32_t rows, std::int32_t active,
                                                 TileScratch<Isa>& scratch) {
  for (std::int32_t r = first; r < first + rows; ++r) {
    const std::uint64_t* row_keep = keep == nullptr ? nullptr : keep + 2 * r;
    if (row_keep != nullptr && (row_keep[0] | row_keep[1]) == 0) continue;
    LargestScales largest{};
    const ScoreBlock* factors = &block;
    if (row_keep != nullptr) {
      const KvBlock* half = block.half;
      largest =
          largest_scales(largest_kept<Isa>(half[0].key_scale, half[1].key_scale, row_keep),
                         largest_kept<Isa>(half[0].value_scale, half[1].value_scale, row_keep));
      factors = &partial.of(largest);
    }
    const BlockWeight weight =
        weigh_special_row<Isa>(task, r, *factors, largest, scratch.dots[r - first], row_keep,
                               scratch.softmax, scratch.weights[active]);
    scratch.exponent[active] = weight.exponent;
    scratch.sum[active] = weight.sum;
    scratch.value_exponent[active] = factors->value_exponent;
    scratch.row[active] = r;
    ++active;
  }
  return active;
}

// The same where every row sees every key: all scores first, then all weights, so that no row waits
// for its own maximum.
template <class Isa>
INTFLASH_INLINE void weigh_plain_strip(const TileTask& task, const ScoreBlock& block,
                                       std::int32_t first, std::int32_t rows,
                                       TileScratch<Isa>& scratch) {
  for (std::int32_t r = first; r < first + rows; ++r) {
    scratch.largest[r] =
        score_row<Isa, false>(scratch.dots[r - first], block, scratch.scale(r),
                              task.query->multiplier[r], nullptr, scratch.x[r - first]);
  }
  for (std::int32_t r = first; r < first + rows; ++r) {
    scratch.integer_sum[r] =
        weigh_row<Isa, false>(scratch.x[r - first], scratch.largest[r], scratch.scale(r), block,
                              nullptr, scratch.weights[r]);
  }
  if (block.any_light == 0) return;
  for (std::int32_t r = first; r < first + rows; ++r) {
    scratch.sum[r] = block_weight<Isa>(scratch.largest[r], scratch.integer_sum[r], scratch.scale(r),
                                       block, nullptr, scratch.x[r - first])
                         .sum;
  }
}

// row_scale of all rows.
INTFLASH_INLINE void scale_rows(const QueryTile& query, std::int32_t key_exponent,
                                float key_mantissa, std::int32_t* INTFLASH_RESTRICT exponent,
                                std::int32_t* INTFLASH_RESTRICT shift,
                                std::int32_t* INTFLASH_RESTRICT value_multiplier) {
  const std::int32_t rows = query.rows;
  for (std::int32_t r = 0; r < rows; ++r) {
    const RowScale scale = row_scale(query, r, key_exponent, key_mantissa);
    exponent[r] = scale.exponent;
    shift[r] = scale.shift;
    value_multiplier[r] = scale.value_multiplier;
  }
}

// Weights of a block that every row sees whole.
template <class Isa>
INTFLASH_INLINE void weigh_plain_block(const TileTask& task, const ScoreBlock& block,
                                       void* packed_query, TileScratch<Isa>& scratch) {
  const QueryTile& query = *task.query;
  scale_rows(query, block.key_exponent, block.key_mantissa, scratch.scale_exponent, scratch.shift,
             scratch.value_multiplier);
  for (std::int32_t first = 0; first < query.rows; first += Isa::kStripRows) {
    const std::int32_t rows = min_of(Isa::kStripRows, query.rows - first);
    Isa::qk_strip(query, packed_query, first, rows, block, scratch.dots[0]);
    weigh_plain_strip<Isa>(task, block, first, rows, scratch);
  }
  for (std::int32_t r = 0; r < query.rows; ++r) {
    scratch.exponent[r] =
        static_cast<float>(scratch.largest[r]) * power_of_two(scratch.scale_exponent[r]);
    scratch.sum[r] =
        block.any_light == 0 ? static_cast<float>(scratch.integer_sum[r]) : scratch.sum[r];
    scratch.value_exponent[r] = block.value_exponent;
    scratch.row[r] = r;
  }
}

// Weights of any block; returns how many rows see any of its keys.
template <class Isa>
INTFLASH_INLINE std::int32_t weigh_block(const TileTask& task, const ScoreBlock& block,
                                         const std::uint64_t* keep, void* packed_query,
                                         TileScratch<Isa>& scratch) {
  const QueryTile& query = *task.query;
  if (keep == nullptr && !(task.score_cap > 0.0f)) {
    weigh_plain_block<Isa>(task, block, packed_query, scratch);
    return query.rows;
  }
  std::uint64_t seen[2] = {};
  for (std::int32_t r = 0; keep != nullptr && r < query.rows; ++r) {
    seen[0] |= keep[2 * r];
    seen[1] |= keep[2 * r + 1];
  }
  PartialFactors<Isa> partial(block, seen, scratch.row_block);
  std::int32_t active = 0;
  for (std::int32_t first = 0; first < query.rows; first += Isa::kStripRows) {
    const std::int32_t rows = min_of(Isa::kStripRows, query.rows - first);
    Isa::qk_strip(query, packed_query, first, rows, block, scratch.dots[0]);
    active = weigh_special_strip<Isa>(task, block, keep, partial, first, rows, active, scratch);
  }
  return active;
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
  float distance[kMaxTileRows];
  float alpha[kMaxTileRows];
  for (std::int32_t a = 0; a < active; ++a)
    distance[a] = scratch.exponent[a] - state.reference[scratch.row[a]];
  for (std::int32_t a = 0; a < active; ++a) alpha[a] = exp2_of(distance[a]);
  for (std::int32_t a = 0; a < active; ++a) {
    float& row_sum = state.row_sum[scratch.row[a]];
    row_sum = fused(scratch.sum[a], alpha[a], row_sum);
    scratch.gain[a] = alpha[a] * power_of_two(scratch.value_exponent[a]);
  }
}

template <class Isa>
void attend_tile(const TileTask& task) {
  TileScratch<Isa>& scratch = *static_cast<TileScratch<Isa>*>(task.scratch);
  void* packed_query = static_cast<char*>(task.scratch) + sizeof(TileScratch<Isa>);
  Isa::prepare_query(*task.query, packed_query);
  for (std::int32_t b = 0; b < task.num_blocks; ++b) {
    const ScoreBlock& block = task.blocks[b];
    const std::int32_t active = weigh_block<Isa>(task, block, task.keep[b], packed_query, scratch);
    enter_rows<Isa>(task, active, scratch);
    for (std::int32_t r = 0; r < active; r += Isa::kStripRows) {
      Isa::pv_strip(packed_query, scratch.weights[r], min_of(Isa::kStripRows, active - r), block,
                    task.head_dim_v, scratch.gain + r, scratch.accumulators + r);
    }
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
