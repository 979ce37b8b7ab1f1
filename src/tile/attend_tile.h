// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// One query tile against the keys of one span: per score block Q K^T -> softmax -> P V.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tile/digit_products.h"
#include "tile/fetch.h"
#include "tile/key_list.h"
#include "tile/mask_words.h"
#include "tile/online_softmax.h"
#include "tile/partial_blocks.h"
#include "tile/state.h"
#include "tile/types.h"
#include "tile/value_levels.h"

namespace intflash::internal {
namespace {

// Fixed scratch of attend_tile; the port's own follows it. Rows that see no key of a block are left
// out: `row` lists the others, the active ones, and what belongs to them lies close together.
template <class Isa>
struct TileScratch {
  static constexpr std::int32_t kPaddedRows = (Isa::kTileRows + 15) / 16 * 16;

  alignas(64) std::int32_t dots[Isa::kTileRows][kScoreBlock];  // of all rows
  alignas(64) std::int16_t x[Isa::kTileRows][kScoreBlock];
  alignas(64) std::uint8_t weights[Isa::kTileRows][kScoreBlock];
  typename Isa::I16 score_lanes[kPaddedRows];   // of max_of_rows
  typename Isa::I32 weight_lanes[kPaddedRows];  // of sum_of_rows
  std::int32_t row[Isa::kTileRows];
  const ScoreBlock* factors[Isa::kTileRows];
  const std::uint64_t* keep[Isa::kTileRows];
  alignas(64) std::int32_t shift[kPaddedRows];
  alignas(64) std::int32_t multiplier[kPaddedRows];
  alignas(64) std::int32_t largest[kPaddedRows];
  alignas(64) std::int32_t weight_sum[kPaddedRows];
  alignas(64) float exponent[kPaddedRows];
  alignas(64) float sum[kPaddedRows];
  alignas(64) float unit[kPaddedRows];
  alignas(64) float gain[kPaddedRows];
  float* accumulators[Isa::kTileRows];
  std::uint32_t digit_rows;  // a bit per row of the tile that takes second digits
  bool has_keep;             // whether keep has the words of the active rows, after weigh_block
  GeneralScratch general;
  ScoreBlock row_blocks[Isa::kTileRows];  // factors of rows that do not share the block's
  alignas(64) float f32_weights[Isa::kTileRows][kScoreBlock];  // P of mode int8_qk
};

// The active rows of a block that all rows see whole: all rows.
struct AllRows {
  static constexpr bool kMasked = false;
  const ScoreBlock& block;

  INTFLASH_INLINE std::int32_t row(std::int32_t a) const { return a; }
  INTFLASH_INLINE const ScoreBlock& factors(std::int32_t) const { return block; }
  INTFLASH_INLINE const std::uint64_t* keep(std::int32_t) const { return nullptr; }
};
// The active rows that choose_rows has listed.
template <class Isa>
struct ChosenRows {
  static constexpr bool kMasked = true;
  const TileScratch<Isa>& scratch;

  INTFLASH_INLINE std::int32_t row(std::int32_t a) const { return scratch.row[a]; }
  INTFLASH_INLINE const ScoreBlock& factors(std::int32_t a) const { return *scratch.factors[a]; }
  INTFLASH_INLINE const std::uint64_t* keep(std::int32_t a) const { return scratch.keep[a]; }
};

// Loops over rows run on to a full vector. They have functions of their own, where nothing seems to
// alias, so that they vectorize.
INTFLASH_INLINE std::int32_t padded(std::int32_t rows) { return (rows + 15) / 16 * 16; }

// row_scale of all rows.
INTFLASH_NOINLINE void scale_all_rows(const QueryTile& query, std::int32_t key_exponent,
                                      float key_mantissa, std::int32_t* INTFLASH_RESTRICT shift,
                                      std::int32_t* INTFLASH_RESTRICT multiplier) {
  const std::int32_t rows = padded(query.rows);
  for (std::int32_t r = 0; r < rows; ++r) {
    const RowScale scale = row_scale(query, r, key_exponent, key_mantissa);
    shift[r] = scale.shift;
    multiplier[r] = scale.multiplier;
  }
}

// alpha = 2^distance.
INTFLASH_NOINLINE void exp2_of_rows(const float* INTFLASH_RESTRICT distance, std::int32_t active,
                                    float* INTFLASH_RESTRICT alpha) {
  const std::int32_t rows = padded(active);
  for (std::int32_t a = 0; a < rows; ++a) alpha[a] = exp2_of(distance[a]);
}

// Sums of weights and their largest scores in f32.
INTFLASH_NOINLINE void weights_of_rows(const std::int32_t* INTFLASH_RESTRICT weight_sum,
                                       const std::int32_t* INTFLASH_RESTRICT largest,
                                       std::int32_t active, float* INTFLASH_RESTRICT sum,
                                       float* INTFLASH_RESTRICT exponent) {
  const std::int32_t rows = padded(active);
  for (std::int32_t a = 0; a < rows; ++a) {
    sum[a] = static_cast<float>(weight_sum[a]);
    exponent[a] = static_cast<float>(largest[a]) * kScoreUnit;
  }
}

// How many rows are active: those of the plain score form come first.
struct ActiveRows {
  std::int32_t plain;
  std::int32_t all;
};

// Lists the rows that see any key of a block, with their factors and fixed points.
template <class Isa>
class RowChooser {
 public:
  // keep: of all rows, [rows][2].
  INTFLASH_INLINE RowChooser(const QueryTile& query, const ScoreBlock& block,
                             const std::uint64_t* keep, const std::uint64_t* seen,
                             TileScratch<Isa>& scratch)
      : query_(query),
        block_(block),
        keep_(keep),
        scratch_(scratch),
        partial_(block, seen, scratch.row_blocks, Isa::kTileRows) {}

  INTFLASH_INLINE std::int32_t active() const { return active_; }

  // Of the rows that wanted has a bit for. With kPlain those are left out, and returned, that the
  // fixed point does not hold.
  template <bool kPlain>
  INTFLASH_INLINE std::uint32_t choose(std::uint32_t wanted) {
    std::uint32_t others = 0;
    for (std::int32_t r = 0; r < query_.rows; ++r) {
      const std::uint64_t* words = keep_ + 2 * r;
      if ((wanted >> r & 1) == 0 || (words[0] | words[1]) == 0) continue;
      look_at(words);
      RowScale scale = row_scale(query_, r, largest_.key_exponent, largest_.key_mantissa);
      if (kPlain && (!is_fixed(scale.exponent) || sees_faint_)) {
        others |= std::uint32_t{1} << r;
        continue;
      }
      if (takes_digits(query_, block_, scale.exponent)) {
        scratch_.digit_rows |= std::uint32_t{1} << r;
        scale = with_digits(query_, r, scale);
      }
      if (factors_ == nullptr) factors_ = &partial_.of(largest_);
      scratch_.factors[active_] = factors_;
      scratch_.row[active_] = r;
      scratch_.keep[active_] = words;
      scratch_.shift[active_] = scale.shift;
      scratch_.multiplier[active_++] = scale.multiplier;
    }
    return others;
  }

 private:
  // Takes a row's constants from the keys that it sees, mostly those of the row before.
  INTFLASH_NOINLINE void look_at(const std::uint64_t* words) {
    if (words_ != nullptr && words[0] == words_[0] && words[1] == words_[1]) return;
    words_ = words;
    largest_ = largest_seen<Isa>(block_, words);
    sees_faint_ = sees_faint_value(block_, words, largest_.value_exponent);
    factors_ = nullptr;
  }

  const QueryTile& query_;
  const ScoreBlock& block_;
  const std::uint64_t* keep_;
  TileScratch<Isa>& scratch_;
  PartialFactors<Isa> partial_;
  const std::uint64_t* words_ = nullptr;
  LargestScales largest_{};
  bool sees_faint_ = false;
  const ScoreBlock* factors_ = nullptr;
  std::int32_t active_ = 0;
};

// Rows that see any key of the block, by their keep words [rows][2]. general: a bit per row that
// has its scores in the general form whatever it sees.
template <class Isa>
INTFLASH_NOINLINE ActiveRows choose_rows(const QueryTile& query, const ScoreBlock& block,
                                         const std::uint64_t* keep, std::uint32_t general,
                                         TileScratch<Isa>& scratch) {
  std::uint64_t seen[2] = {};
  for (std::int32_t r = 0; r < query.rows; ++r) {
    seen[0] |= keep[2 * r];
    seen[1] |= keep[2 * r + 1];
  }
  scratch.digit_rows = 0;
  RowChooser<Isa> chooser(query, block, keep, seen, scratch);
  general |= chooser.template choose<true>(~general);
  const std::int32_t plain = chooser.active();
  if (general != 0) chooser.template choose<false>(general);
  return {plain, chooser.active()};
}

// Softmax of the active rows: all scores first, then all weights, so that no row waits for its own
// maximum.
template <class Isa, class Rows>
INTFLASH_INLINE void weigh_rows(Rows rows, std::int32_t active, FetchBetween& fetch,
                                TileScratch<Isa>& scratch) {
  for (std::int32_t a = 0; a < active; ++a) {
    scratch.score_lanes[a] = score_lanes<Isa, Rows::kMasked>(
        scratch.dots[rows.row(a)], rows.factors(a), scratch.shift[a], scratch.multiplier[a],
        rows.keep(a), scratch.x[a]);
  }
  fetch.step();
  max_of_rows<Isa>(scratch.score_lanes, active, scratch.largest);
  fetch.step();
  std::int32_t any_light = 0;
  for (std::int32_t a = 0; a < active; ++a) {
    scratch.weight_lanes[a] = weigh_lanes<Isa, Rows::kMasked>(
        scratch.x[a], scratch.largest[a], rows.factors(a), rows.keep(a), scratch.weights[a]);
    any_light |= rows.factors(a).num_light;
    scratch.unit[a] = power_of_two(rows.factors(a).value_exponent);
  }
  fetch.step();
  sum_of_rows<Isa>(scratch.weight_lanes, active, scratch.weight_sum);
  fetch.step();
  weights_of_rows(scratch.weight_sum, scratch.largest, active, scratch.sum, scratch.exponent);
  for (std::int32_t a = 0; any_light != 0 && a < active; ++a) {
    scratch.sum[a] = add_light_keys_of_row<Isa>(scratch.sum[a], scratch.largest[a], rows.factors(a),
                                                rows.keep(a), scratch.x[a]);
  }
}

// Scores of the active rows from first on in the general form, in place of their products. The rows
// of biased have a bias.
template <class Isa>
INTFLASH_INLINE void score_general_rows(const TileTask& task, std::int64_t first_key,
                                        std::uint32_t biased, ChosenRows<Isa> rows,
                                        std::int32_t first, std::int32_t active,
                                        TileScratch<Isa>& scratch) {
  const QueryTile& query = *task.query;
  GeneralScratch& general = scratch.general;
  const std::uint64_t* expanded = nullptr;
  const BiasRow* read = nullptr;
  const float* elements = general.elements;
  for (std::int32_t a = first; a < active; ++a) {
    const std::int32_t row = rows.row(a);
    const std::uint64_t* keep = rows.keep(a);
    if (expanded == nullptr || keep[0] != expanded[0] || keep[1] != expanded[1]) {
      NarrowedOrder<Isa>::expand(keep, general.kept);
      expanded = keep;
    }
    const BiasRow* bias = (biased >> row & 1) != 0 ? task.bias + row : nullptr;
    const bool is_read = bias != nullptr && read != nullptr && same_elements(*bias, *read);
    if (bias != nullptr && bias->elements != nullptr && !is_read) {
      elements = mask_elements<Isa>(*bias, first_key, general.elements);
      read = bias;
    }
    GeneralRow form{};
    const bool has_digits = (scratch.digit_rows >> row & 1) != 0;
    form.factor = query.factor[row];
    form.unit = power_of_two(has_digits ? -digit_bits(query, row) : 0);
    form.term = query.score_term[row];
    form.cap = task.score_cap;
    form.bias = bias;
    form.elements = elements;
    form.kept = general.kept;
    scratch.exponent[a] = general_scores(form, rows.factors(a), first_key, scratch.dots[row]);
  }
}

// Fixed points of the active rows from first on, from their scores; returns a bit per row that sees
// a faint value, whose sum and unit are done.
template <class Isa>
INTFLASH_INLINE std::uint32_t fix_general_rows(ChosenRows<Isa> rows, std::int32_t first,
                                               std::int32_t active, TileScratch<Isa>& scratch) {
  std::uint32_t faint = 0;
  for (std::int32_t a = first; a < active; ++a) {
    const ScoreBlock& block = rows.factors(a);
    const std::int32_t* scores = scratch.dots[rows.row(a)];
    const bool sees_faint = sees_faint_value(block, rows.keep(a), block.value_exponent);
    if (!sees_faint) {
      fixed_scores(scores, scratch.exponent[a], scratch.general.fixed);
      NarrowedOrder<Isa>::narrow(scratch.general.fixed, scratch.x[a]);
      scratch.score_lanes[a] = fold_values<Isa>(block, scratch.x[a]);
      continue;
    }
    faint |= std::uint32_t{1} << a;
    const BlockWeight weight =
        weigh_beside_faint(block.half, scratch.exponent[a], scores, scratch.general.fixed);
    scratch.sum[a] = weight.sum;
    scratch.unit[a] = weight.unit;
    NarrowedOrder<Isa>::narrow(scratch.general.fixed, scratch.x[a]);
    scratch.score_lanes[a] = Isa::broadcast16(0);
  }
  return faint;
}

// Softmax of the active rows from first on in the general score form: all scores first here too.
template <class Isa>
INTFLASH_NOINLINE void weigh_general_rows(const TileTask& task, std::int64_t first_key,
                                          std::uint32_t biased, ChosenRows<Isa> rows,
                                          std::int32_t first, std::int32_t active,
                                          TileScratch<Isa>& scratch) {
  score_general_rows<Isa>(task, first_key, biased, rows, first, active, scratch);
  const std::uint32_t faint = fix_general_rows<Isa>(rows, first, active, scratch);
  max_of_rows<Isa>(scratch.score_lanes, active, scratch.largest);
  for (std::int32_t a = first; a < active; ++a) {
    scratch.weight_lanes[a] = weigh_lanes<Isa, false>(scratch.x[a], scratch.largest[a],
                                                      rows.factors(a), nullptr, scratch.weights[a]);
  }
  sum_of_rows<Isa>(scratch.weight_lanes, active, scratch.weight_sum);
  for (std::int32_t a = first; a < active; ++a) {
    if ((faint >> a & 1) != 0) continue;
    const ScoreBlock& block = rows.factors(a);
    const float sum =
        add_light_keys_of_row<Isa>(static_cast<float>(scratch.weight_sum[a]), scratch.largest[a],
                                   block, rows.keep(a), scratch.x[a]);
    const BlockWeight weight =
        general_weight(scratch.exponent[a], scratch.largest[a], sum, block.value_exponent);
    scratch.sum[a] = weight.sum;
    scratch.unit[a] = weight.unit;
  }
}

// Takes the weights of the active rows into their states, and leaves their gains.
template <class Isa, class Rows>
INTFLASH_INLINE void enter_rows(const TileTask& task, Rows rows, std::int32_t active,
                                FetchBetween& fetch, TileScratch<Isa>& scratch) {
  const AttentionState& state = task.state;
  alignas(64) float distance[TileScratch<Isa>::kPaddedRows] = {};
  alignas(64) float alpha[TileScratch<Isa>::kPaddedRows];
  std::int32_t out_of_reach = 0;
  for (std::int32_t a = 0; a < active; ++a) {
    // A row without a reference is infinitely far from it.
    distance[a] = scratch.exponent[a] - state.reference[rows.row(a)];
    out_of_reach |= distance[a] <= kMaxOverReference ? 0 : 1;
  }
  if (out_of_reach != 0) {
    for (std::int32_t a = 0; a < active; ++a) {
      keep_in_reach(state, rows.row(a), task.head_dim_v, scratch.exponent[a]);
      distance[a] = scratch.exponent[a] - state.reference[rows.row(a)];
    }
  }
  fetch.step();
  exp2_of_rows(distance, active, alpha);
  fetch.step();
  for (std::int32_t a = 0; a < active; ++a) {
    float& row_sum = state.row_sum[rows.row(a)];
    row_sum = fused(scratch.sum[a], alpha[a], row_sum);
    scratch.gain[a] = alpha[a] * scratch.unit[a];
    scratch.accumulators[a] = state.accumulators + rows.row(a) * state.accumulator_stride;
  }
}

INTFLASH_INLINE const std::uint64_t* keep_of(const TileTask& task, std::int32_t b) {
  return task.keep != nullptr ? task.keep[b] : nullptr;
}

// From scratch.dots to P, states and gains of the rows that see any key of block b; returns how
// many do. exponent_limit: of the query. add_digits() makes products of those with second digits,
// of the rows that scratch.digit_rows has.
template <class Isa, class AddDigits>
INTFLASH_INLINE std::int32_t weigh_block(const TileTask& task, std::int32_t b,
                                         std::int32_t exponent_limit, FetchBetween& fetch,
                                         AddDigits add_digits, TileScratch<Isa>& scratch) {
  const QueryTile& query = *task.query;
  const ScoreBlock& block = task.blocks[b];
  const std::uint64_t* keep = keep_of(task, b);
  const std::int64_t first_key = task.first_key + b * kScoreBlock;
  const bool is_capped = task.score_cap > 0.0f;
  fetch.step();
  if (keep == nullptr && !is_capped && is_fixed_for_all(query, block, exponent_limit)) {
    scale_all_rows(query, block.key_exponent, block.key_mantissa, scratch.shift,
                   scratch.multiplier);
    fetch.step();
    weigh_rows<Isa>(AllRows{block}, query.rows, fetch, scratch);
    enter_rows<Isa>(task, AllRows{block}, query.rows, fetch, scratch);
    scratch.has_keep = false;
    return query.rows;
  }
  std::uint64_t all[2 * Isa::kTileRows];
  if (keep == nullptr) __builtin_memset(all, 0xff, sizeof all);
  const std::uint32_t biased = keep != nullptr ? biased_rows(task, b) : 0;
  const ActiveRows active = choose_rows(query, block, keep != nullptr ? keep : all,
                                        is_capped ? ~std::uint32_t{0} : biased, scratch);
  const ChosenRows<Isa> rows{scratch};
  if (scratch.digit_rows != 0) add_digits();
  if (active.plain > 0) weigh_rows<Isa>(rows, active.plain, fetch, scratch);
  if (active.plain < active.all)
    weigh_general_rows<Isa>(task, first_key, biased, rows, active.plain, active.all, scratch);
  enter_rows<Isa>(task, rows, active.all, fetch, scratch);
  scratch.has_keep = keep != nullptr;
  return active.all;
}

// Half of the block where no row sees the other half; 0 where none sees any of it.
INTFLASH_INLINE std::int32_t keys_to_multiply(const QueryTile& query, const std::uint64_t* keep) {
  if (keep == nullptr) return kScoreBlock;
  std::uint64_t low = 0, high = 0;
  for (std::int32_t r = 0; r < query.rows; ++r) {
    low |= keep[2 * r];
    high |= keep[2 * r + 1];
  }
  return high != 0 ? kScoreBlock : low != 0 ? kBlockTokens : 0;
}

// The keys that are read after block b's: its own where nothing is known of them.
INTFLASH_INLINE const KvBlock* next_keys(const TileTask& task, std::int32_t b) {
  if (b + 1 < task.num_blocks) return task.blocks[b + 1].half;
  return task.after != nullptr ? task.after : task.blocks[b].half;
}

// packed: what lies in four bits.
template <class Isa, class... Args>
INTFLASH_INLINE void multiply_keys(std::int32_t packed, Args&&... args) {
  if constexpr ((Isa::kPacked & kPackedKeys) != 0) {
    if ((packed & kPackedKeys) != 0) return Isa::qk_packed_tile(args...);
  }
  Isa::qk_tile(args...);
}
template <class Isa, class... Args>
INTFLASH_INLINE void multiply_values(std::int32_t packed, Args&&... args) {
  if constexpr ((Isa::kPacked & kPackedValues) != 0) {
    if ((packed & kPackedValues) != 0) return Isa::pv_packed_tile(args...);
  }
  Isa::pv_tile(args...);
}

// P V of the active rows where values are in f16. P is made anew of what it came from: bytes have
// been rounded.
template <class Isa>
INTFLASH_NOINLINE void multiply_f16_values(const TileTask& task, std::int32_t active,
                                           const ScoreBlock& block, const KvBlock* next,
                                           TileScratch<Isa>& scratch) {
  std::uint64_t seen[2] = {};
  for (std::int32_t a = 0; a < active; ++a) {
    if (scratch.has_keep) {
      seen[0] |= scratch.keep[a][0];
      seen[1] |= scratch.keep[a][1];
      weights_in_f32<Isa, true>(scratch.x[a], scratch.largest[a], scratch.keep[a],
                                scratch.f32_weights[a]);
    } else {
      weights_in_f32<Isa, false>(scratch.x[a], scratch.largest[a], nullptr, scratch.f32_weights[a]);
    }
  }
  KeyList listed;
  if (scratch.has_keep) list_keys(seen, listed);
  task.add_f16_values({scratch.f32_weights[0], block.half, next,
                       scratch.has_keep ? &listed : &kAllKeys, active, task.head_dim_v,
                       scratch.gain, scratch.accumulators});
}

INTFLASH_INLINE FetchLines lines_of_half(const TileTask& task) {
  const std::int32_t head_dim = task.query->head_dim;
  const std::int32_t groups = (task.head_dim_v + 15) / 16;
  FetchLines lines{head_dim / 4 * 3, head_dim, groups * kValueLines};
  if ((task.packed & kPackedKeys) != 0) {
    lines.keys_beside = head_dim / 8 * 3;
    lines.keys = static_cast<std::int32_t>(packed_key_bytes(head_dim) / 64);
  }
  if ((task.packed & kPackedValues) != 0) lines.values = groups * kPackedValueLines;
  if (task.add_f16_values != nullptr) lines.values = 0;  // all beside P V
  return lines;
}

template <class Isa>
void attend_tile(const TileTask& task) {
  const QueryTile& query = *task.query;
  TileScratch<Isa>& scratch = *static_cast<TileScratch<Isa>*>(task.scratch);
  void* products = static_cast<char*>(task.scratch) + sizeof(TileScratch<Isa>);
  Isa::prepare_query(query, products);
  DigitProducts<Isa> digits(query, products);
  const std::int32_t limit = exponent_limit(query);
  const FetchLines lines = lines_of_half(task);
  for (std::int32_t b = 0; b < task.num_blocks; ++b) {
    const ScoreBlock& block = task.blocks[b];
    const std::int32_t num_keys = keys_to_multiply(query, keep_of(task, b));
    if (num_keys == 0) continue;
    const KvBlock* next = next_keys(task, b);
    const bool fetches = Isa::kFetches && query.rows <= kFewRows;
    FetchBetween fetch = fetches ? FetchBetween(next, lines) : FetchBetween();
    multiply_keys<Isa>(task.packed, query, products, block, next, num_keys, scratch.dots[0]);
    const auto add_digits = [&] { digits.add(block, num_keys, scratch.digit_rows, scratch.dots); };
    const std::int32_t active = weigh_block(task, b, limit, fetch, add_digits, scratch);
    fetch.finish();
    if (task.add_f16_values != nullptr) {
      multiply_f16_values<Isa>(task, active, block, fetches ? next : nullptr, scratch);
      continue;
    }
    multiply_values<Isa>(task.packed, products, scratch.weights[0], active, block, next, num_keys,
                         task.head_dim_v, scratch.gain, scratch.accumulators);
  }
}

template <class Isa>
std::size_t scratch_bytes(std::int32_t head_dim, std::int32_t, bool has_digits) {
  const auto products = static_cast<std::size_t>(products_bytes<Isa>(head_dim));
  return sizeof(TileScratch<Isa>) + products +
         (has_digits ? sizeof(DigitScratch<Isa>) + 2 * products +
                           2 * static_cast<std::size_t>(gathered_bytes<Isa>(head_dim))
                     : 0);
}

template <class Isa>
void prepare_block(ScoreBlock& block, const std::uint64_t* keep) {
  fill_factors<NarrowedOrder<Isa>>(block, keep);
}

}  // namespace
}  // namespace intflash::internal
