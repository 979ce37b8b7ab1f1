// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "engine/row_group.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "inputs/rope.h"
#include "inputs/tensor.h"
#include "inputs/token_rows.h"
#include "states/row_result.h"
#include "tile/float_math.h"
#include "tile/limits.h"
#include "tile/mask_words.h"
#include "tile/rope.h"
#include "tile/score_block.h"

namespace intflash::internal {
namespace {

struct RowPlace {
  std::int64_t query_head;
  std::int64_t query;
};

RowPlace place_of(const RowGroup& group, std::int64_t row) {
  return {group.first_head + row % group.group_size, row / group.group_size};
}

// query . center of a row that is turned first, in f32 as quantize_rows does it.
double turned_center_dot(const RowGroup& group, RowPlace place) {
  float buffer[kMaxHeadDim];
  const float* row = widened_token(*group.query, group.query_dtype, group.batch, place.query_head,
                                   group.first_token + place.query, group.head_dim, buffer);
  if (row != buffer) std::copy_n(row, group.head_dim, buffer);
  embed_row(later_rows(group.rope, place.query), 0, buffer);
  double dot = 0;
  for (std::int64_t c = 0; c < group.head_dim; ++c)
    dot += static_cast<double>(buffer[c]) * static_cast<double>(group.key_center[c]);
  return dot;
}

// query . center in double, for what centring took from the row's scores.
double center_dot(const RowGroup& group, RowPlace place) {
  if (group.rope.cos != nullptr) return turned_center_dot(group, place);
  double row[kMaxHeadDim];
  tensor_row(*group.query, group.query_dtype, group.batch, place.query_head,
             group.first_token + place.query, group.head_dim, row);
  double dot = 0;
  for (std::int64_t c = 0; c < group.head_dim; ++c)
    dot += row[c] * static_cast<double>(group.key_center[c]);
  return dot;
}

// Rows beyond the last become copies of the first.
void pad_rows(QueryTile& query) {
  for (std::int32_t r = query.rows; r < kMaxTileRows; ++r) {
    query.multiplier[r] = query.multiplier[0];
    query.exponent[r] = query.exponent[0];
    query.mantissa[r] = query.mantissa[0];
    query.factor[r] = query.factor[0];
    query.score_bits[r] = query.score_bits[0];
    query.score_term[r] = query.score_term[0];
  }
}

// query_scale * softmax_scale * log2(e) as the fixed point wants it.
void set_row_factor(QueryTile& query, std::int32_t r, float factor) {
  query.factor[r] = factor;
  if (factor < kLeastFactor) {
    query.multiplier[r] = 0;
    query.mantissa[r] = 0.5f;
    query.exponent[r] = -126;
    return;
  }
  int exponent = 0;
  query.mantissa[r] = std::frexp(factor, &exponent);
  query.exponent[r] = exponent;
  query.multiplier[r] =
      static_cast<std::int32_t>(std::min(std::nearbyint(query.mantissa[r] * 32768.0f), 32767.0f));
}

// Whether two rows see the same keys with the same biases, but for their positions: heads of a
// group that share a mask.
bool same_masks(const Tile& tile, const SeenRanges& seen, std::int32_t a, std::int32_t b) {
  const BiasRow& row = tile.bias[a];
  const BiasRow& other = tile.bias[b];
  return same_elements(row, other) && row.factor == other.factor && row.slope == other.slope &&
         tile.bits[a].words == tile.bits[b].words && tile.bits[a].begin == tile.bits[b].begin &&
         seen.rows[a].begin == seen.rows[b].begin && seen.rows[a].end == seen.rows[b].end;
}

// Keep words of a score block's rows; returns the rows that have a bias there, a bit each.
std::uint32_t mask_block(const KernelTable& kernels, const Tile& tile, const SeenRanges& seen,
                         std::int64_t first_key, std::uint64_t* words) {
  const std::int32_t rows = tile.query.rows;
  write_keep_words(seen.rows, rows, first_key, words);
  std::uint32_t biased = 0;
  for (std::int32_t r = 0; tile.has_bias && r < rows; ++r) {
    if (r > 0 && same_masks(tile, seen, r, r - 1)) {
      std::copy_n(words + 2 * r - 2, 2, words + 2 * r);
      biased |= (biased >> (r - 1) & 1) << r;
      continue;
    }
    if (mask_row(kernels, tile.bias[r], tile.bits[r], first_key, words + 2 * r))
      biased |= std::uint32_t{1} << r;
  }
  return biased;
}

bool all_kept(const std::uint64_t* words, std::int32_t rows) {
  return std::all_of(words, words + 2 * rows, [](std::uint64_t word) { return ~word == 0; });
}

// Which keys a row sees, and what is added to its scores.
void set_row_mask(const RowGroup& group, RowPlace place, std::int32_t r, Tile& tile) {
  KeyRange keys = visible_keys(group.mask, place.query);
  BiasRow& bias = tile.bias[r];
  BitRow& bits = tile.bits[r];
  bias = bias_row(group.bias, group.batch, place.query_head, place.query);
  bits = bit_row(group.bias, place.query);
  if (group.plain_keys != nullptr && group.plain_keys[place.query].begin >= 0) {
    const KeyRange left = group.plain_keys[place.query];
    keys.begin = std::max(keys.begin, left.begin);
    keys.end = std::max(keys.begin, std::min(keys.end, left.end));
    bias.elements = nullptr;
  }
  tile.seen.set(r, keys);
  const std::int64_t position = group.mask.kv_len - group.mask.query_len + place.query;
  if (!group.window.is_none()) tile.coded[r] = group.window.coded_keys(position);
  tile.has_bias |= bias.elements != nullptr || bias.slope != 0 || bits.words != nullptr;
}

// Codes, digits where they are asked for, and scales of num_rows rows from first_row on: the rows
// of one head at once.
void quantize_query_rows(const RowGroup& group, const TileShape& shape, std::int64_t first_row,
                         std::int64_t num_rows, std::int8_t* codes, std::int8_t* digits,
                         float* scales) {
  const std::int64_t at_once = group.group_size == 1 ? num_rows : 1;
  for (std::int64_t r = 0; r < num_rows; r += at_once) {
    const RowPlace place = place_of(group, first_row + r);
    quantize_tokens(*group.kernels, *group.query, group.query_dtype, group.batch, place.query_head,
                    group.first_token + place.query, static_cast<std::int32_t>(at_once),
                    group.head_dim, {nullptr, group.rotation.keys, false}, shape.code_stride,
                    codes + r * shape.code_stride,
                    digits == nullptr ? nullptr : digits + r * shape.code_stride, scales + r,
                    later_rows(group.rope, place.query));
  }
}

std::int8_t* codes_of(Tile& tile) {
  return reinterpret_cast<std::int8_t*>(reinterpret_cast<char*>(&tile) +
                                        round_up(sizeof(Tile), 64));
}

// What centring took from a row's scores, where that matters to the result.
double center_score(const RowGroup& group, RowPlace place) {
  const bool is_needed =
      group.key_center != nullptr && (group.lse != nullptr || group.score_cap > 0 ||
                                      group.sinks != nullptr || group.leaves_states);
  return is_needed ? center_dot(group, place) * static_cast<double>(group.softmax_scale) : 0.0;
}

// What is to be added to a row's scores in the end. Below a cap it has been in them all along.
double center_term(const RowGroup& group, const Tile& tile, std::int32_t row) {
  return group.score_cap > 0 ? 0.0 : tile.center_score[row];
}

auto merge_into_left(const RowGroup& group, const Tile& tile) {
  return [&group, &tile](std::int32_t left) {
    group.kernels->rows->merge_states(tile.states[left + 1], tile.states[left], tile.query.rows,
                                      static_cast<std::int32_t>(group.head_dim_v));
  };
}

}  // namespace

void begin_tile(const TileShape& shape, const StateStack& states, Tile& tile) {
  tile.tree = SpanTree();
  tile.states = states;
  tile.has_bias = false;
  tile.query.rows = 0;
  tile.query.code_stride = static_cast<std::int32_t>(shape.code_stride);
  tile.query.codes = codes_of(tile);
  tile.query.digits = codes_of(tile) + shape.rows * shape.code_stride;
  tile.query.digits_above = shape.digits_above;
  tile.seen.clear();
}

void add_rows(const RowGroup& group, const TileShape& shape, std::int64_t first_row,
              std::int64_t num_rows, Tile& tile) {
  QueryTile& query = tile.query;
  const std::int32_t begin = query.rows;
  query.rows += static_cast<std::int32_t>(num_rows);
  query.head_dim = static_cast<std::int32_t>(group.head_dim);
  std::int8_t* codes = codes_of(tile);

  float scales[kMaxTileRows];
  std::int8_t* digits = shape.has_digits() ? codes + shape.rows * shape.code_stride : nullptr;
  const std::int64_t at = begin * shape.code_stride;
  quantize_query_rows(group, shape, first_row, num_rows, codes + at,
                      digits == nullptr ? nullptr : digits + at, scales);
  set_row_scales(*group.kernels, group.softmax_scale, scales, begin, query);
  for (std::int32_t r = begin; r < query.rows; ++r) {
    const RowPlace place = place_of(group, first_row + r - begin);
    tile.center_score[r] = center_score(group, place);
    query.score_term[r] = static_cast<float>(tile.center_score[r] * kLog2E);
    set_row_mask(group, place, r, tile);
  }
  pad_rows(query);
}

void set_row_scales(const KernelTable& kernels, float softmax_scale, const float* scale,
                    std::int32_t begin, QueryTile& query) {
  const float to_log2 = static_cast<float>(static_cast<double>(softmax_scale) * kLog2E);
  for (std::int32_t r = begin; r < query.rows; ++r) {
    set_row_factor(query, r, scale[r - begin] * to_log2);
    // |query . key| < 128 * sum of |code| for every key, and with second digits, of which a key's
    // are worth half a code at most, as the query's are, 64 more per channel.
    const std::int32_t bound =
        128 * kernels.rows->sum_magnitudes(query.codes + r * query.code_stride, query.head_dim) +
        64 * query.head_dim;
    query.score_bits[r] =
        static_cast<std::int32_t>(std::bit_width(static_cast<std::uint32_t>(bound)));
  }
}

void add_seen_rows(const RowGroup& group, std::int64_t first_row, std::int64_t num_rows,
                   Tile& tile) {
  for (std::int64_t i = 0; i < num_rows; ++i)
    tile.center_score[tile.query.rows++] = center_score(group, place_of(group, first_row + i));
}

void clear_state(const AttentionState& state, std::int32_t rows) {
  std::fill_n(state.reference, rows, -INFINITY);
  std::fill_n(state.row_sum, rows, 0.0f);
  std::fill_n(state.accumulators, rows * state.accumulator_stride, 0.0f);
}

namespace {

TileTask tile_task(const RowGroup& group, const Worker& worker, const Tile& tile,
                   const AttentionState& state) {
  TileTask task{};
  task.query = &tile.query;
  task.head_dim_v = static_cast<std::int32_t>(group.head_dim_v);
  task.score_cap = cap_in_log2(group.score_cap);
  task.state = state;
  task.scratch = worker.scratch;
  if (group.has_f16_values) task.add_f16_values = group.kernels->rows->add_f16_values;
  return task;
}

}  // namespace

namespace {

// Whether all rows see all keys of a span as the codec has them.
bool is_of_one_form(const RowGroup& group, const Tile& tile, std::int64_t span) {
  if (group.window.is_none()) return true;
  const KeyRange keys = keys_of_span(span);
  return std::all_of(tile.coded, tile.coded + tile.query.rows, [&](const KeyRange& coded) {
    return coded.begin <= keys.begin && coded.end >= keys.end;
  });
}

}  // namespace

std::int64_t count_whole_spans(const RowGroup& group, const Tile& tile, std::int64_t first,
                               std::int64_t end, const ScoreBlock* blocks) {
  const KernelTable& kernels = *group.kernels;
  if (kernels.attend_spans == nullptr || group.has_f16_values ||
      tile.query.rows < kernels.tile_rows || tile.has_bias)
    return 0;
  std::int64_t span = first;
  while (span < std::min(end, first + kMaxSpansAtOnce) && is_of_one_form(group, tile, span) &&
         tile.seen.all_see(keys_of_span(span)) &&
         takes_codes_alone(tile.query, blocks + (span - first) * kBlocksPerSpan, kBlocksPerSpan))
    ++span;
  return span - first;
}

void attend_whole_spans(const RowGroup& group, const Worker& worker, std::int64_t first,
                        std::int64_t count, const ScoreBlock* blocks, Tile& tile) {
  TileTask task = tile_task(group, worker, tile, enter_span(group, first, nullptr, tile));
  std::int32_t merges[kMaxSpansAtOnce] = {};
  for (std::int64_t i = 1; i < count; ++i)
    tile.tree.push(first + i, [&](std::int32_t) { ++merges[i]; });
  task.state_stride = tile.states.stride;
  task.merges = merges;
  task.num_blocks = static_cast<std::int32_t>(count * kBlocksPerSpan);
  task.blocks = blocks;
  task.first_key = keys_of_span(first).begin;
  group.kernels->attend_spans(task);
}

void set_part(const Tile& tile, std::int32_t form, SeenRanges& part) {
  part.clear();
  for (std::int32_t r = 0; r < tile.query.rows; ++r) {
    const KeyRange coded = tile.coded[r];
    // Where none is as the codec has it, all are one run.
    const bool is_one = coded.begin == coded.end;
    const KeyRange forms[kNumForms] = {
        {0, is_one ? 0 : coded.begin}, coded, {is_one ? 0 : coded.end, INT64_MAX}};
    const KeyRange keys = {std::max(tile.seen.rows[r].begin, forms[form].begin),
                           std::min(tile.seen.rows[r].end, forms[form].end)};
    part.set(r, keys.begin < keys.end ? keys : KeyRange{});
  }
  part.clip({tile.seen.min_begin, tile.seen.max_end});
}

void attend_into(const RowGroup& group, const Worker& worker, const SpanKeys& keys,
                 const Tile& tile, const SeenRanges& seen, const AttentionState& state) {
  const std::int64_t first_key =
      std::max(keys.keys.begin, seen.min_begin / kScoreBlock * kScoreBlock);
  const std::int64_t end_key = std::min(keys.keys.end, seen.max_end);
  const std::int32_t rows = tile.query.rows;
  const std::uint64_t* keep[kBlocksPerSpan] = {};
  std::uint32_t biased[kBlocksPerSpan] = {};
  std::int32_t num_blocks = 0;
  for (std::int64_t key = first_key; key < end_key; key += kScoreBlock, ++num_blocks) {
    const bool whole = seen.all_see({key, key + kScoreBlock});
    if (whole && !tile.has_bias) continue;
    std::uint64_t* words = worker.keep + num_blocks * kMaxTileRows * 2;
    biased[num_blocks] = mask_block(*group.kernels, tile, seen, key, words);
    if (!whole || biased[num_blocks] != 0 || !all_kept(words, rows)) keep[num_blocks] = words;
  }
  TileTask task = tile_task(group, worker, tile, state);
  task.num_blocks = num_blocks;
  task.blocks = keys.blocks + (first_key - keys.keys.begin) / kScoreBlock;
  task.after = keys.after;
  task.packed = keys.packed;
  task.keep = keep;
  task.biased = biased;
  if (tile.has_bias) task.bias = tile.bias;
  task.first_key = first_key;
  group.kernels->attend_tile(task);
}

AttentionState enter_span(const RowGroup& group, std::int64_t span, const AttentionState* part,
                          Tile& tile) {
  const bool is_open = tile.tree.has_open(span);
  if (!is_open) tile.tree.push(span, merge_into_left(group, tile));
  const bool takes_part = part != nullptr && tile.tree.completes(span);
  const AttentionState state = takes_part ? *part : tile.states[tile.tree.size() - 1];
  if (!is_open) clear_state(state, tile.query.rows);
  return state;
}

void leave_span(const RowGroup& group, std::int64_t span, const AttentionState* part, Tile& tile) {
  const std::int32_t last = tile.tree.size() - 1;
  tile.tree.complete(span, [&](std::int32_t left) {
    const bool is_part = part != nullptr && left + 1 == last;
    group.kernels->rows->merge_states(is_part ? *part : tile.states[left + 1], tile.states[left],
                                      tile.query.rows, static_cast<std::int32_t>(group.head_dim_v));
  });
}

void merge_all(const RowGroup& group, Tile& tile) {
  tile.tree.finish(merge_into_left(group, tile));
}

void finish_tile(const RowGroup& group, std::int64_t first_row, Tile& tile) {
  const AttentionState total = tile.states[0];
  if (tile.tree.size() == 0) clear_state(total, tile.query.rows);
  for (std::int32_t r = 0; r < tile.query.rows; ++r) {
    const RowPlace place = place_of(group, first_row + r);
    const std::int64_t head = place.query_head - group.first_head;
    RowResult result{};
    result.dim = static_cast<std::int32_t>(group.head_dim_v);
    result.center_score = center_term(group, tile, r);
    result.sink = group.sinks == nullptr ? kNegativeInfinity : group.sinks[head];
    result.rotated = group.rotation.values;
    result.value_center = group.value_center;
    result.out_dtype = static_cast<Dtype>(group.out_dtype);
    result.out = const_cast<void*>(rows_of(*group.out, group.out_dtype, group.batch,
                                           place.query_head, group.first_token + place.query)
                                       .data);
    if (group.lse != nullptr)
      result.lse = group.lse + head * group.lse_stride_head + place.query * group.lse_stride_token;
    write_result(*group.kernels, total, r, result);
  }
}

void leave_state(const RowGroup& group, std::int64_t first_row, const Tile& tile,
                 const AttentionState& state, const intflash_state& to) {
  const std::int64_t dim = group.head_dim_v;
  for (std::int32_t r = 0; r < tile.query.rows; ++r) {
    const RowPlace place = place_of(group, first_row + r);
    const std::int64_t row = place.query_head * group.mask.query_len + place.query;
    const bool is_empty = state.reference == nullptr;
    to.reference[row] = is_empty ? kNegativeInfinity : state.reference[r];
    to.row_sum[row] = is_empty ? 0.0f : state.row_sum[r];
    to.center_score[row] = center_term(group, tile, r);
    if (is_empty) {
      std::fill_n(to.accumulators + row * dim, dim, 0.0f);
    } else {
      std::copy_n(state.accumulators + r * state.accumulator_stride, dim,
                  to.accumulators + row * dim);
    }
  }
}

}  // namespace intflash::internal
