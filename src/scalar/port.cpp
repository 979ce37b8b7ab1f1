// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The port that runs everywhere, and the specification of the bits: every other port equals it with
// ==.
#include "tile/general_scores.h"
#include "tile/key_list.h"
#include "tile/row_kernels.h"
#include "tile/score_block.h"
#include "tile/state.h"
#include "tile/weights.h"

namespace intflash::internal {
namespace {

constexpr std::int32_t kTileRows = 8;

// The keep words of a row that sees the whole block.
constexpr std::uint64_t kAll[2] = {~std::uint64_t{0}, ~std::uint64_t{0}};

struct NaturalOrder {
  std::int32_t operator()(std::int32_t key) const { return key; }
  static void expand(const std::uint64_t* keep, std::int32_t* kept) {
    for (std::int32_t key = 0; key < kScoreBlock; ++key)
      kept[key] = key_is_kept(keep, key) ? -1 : 0;
  }
  static void narrow(const std::int32_t* from, std::int16_t* to) {
    for (std::int32_t key = 0; key < kScoreBlock; ++key)
      to[key] = static_cast<std::int16_t>(from[key]);
  }
};

struct Scratch {
  std::int16_t factors[kMaxHeadDim / 4][64];
  std::int32_t dots[kScoreBlock];
  std::int32_t mixed[kScoreBlock];
  std::int16_t x[kScoreBlock];
  std::uint8_t weights[kScoreBlock];
  float f32_weights[kScoreBlock];
  std::int32_t fixed[kScoreBlock];
  std::int32_t kept[kScoreBlock];
  float elements[kScoreBlock];
  ScoreBlock row_block;
};

void prepare_block(ScoreBlock& block, const std::uint64_t* keep) {
  fill_factors<NaturalOrder>(block, keep);
}

// Four factors, the same for each of a tile row's 16 outputs.
using QuadFactors = std::int16_t[64];

template <class Byte>
void spread_factors(const Byte* factors, std::int32_t quads, QuadFactors* spread) {
  for (std::int32_t quad = 0; quad < quads; ++quad) {
    for (std::int32_t i = 0; i < 64; ++i) spread[quad][i] = factors[quad * 4 + i % 4];
  }
}

// sums[output] += sum of factors times what a tile holds, [quads][16 outputs][4].
void add_tile(const std::int8_t* tile, std::int32_t quads, const QuadFactors* factors,
              std::int32_t* sums) {
  std::int32_t products[64] = {};
  for (std::int32_t quad = 0; quad < quads; ++quad) {
    for (std::int32_t i = 0; i < 64; ++i) products[i] += factors[quad][i] * tile[quad * 64 + i];
  }
  for (std::int32_t i = 0; i < 64; ++i) sums[i / 4] += products[i];
}

// dots[key] += query . key, exact: at most 127^2 * 1024 < 2^24.
void add_query_dot_keys(const std::int8_t* query, const std::int8_t* const* keys,
                        std::int32_t head_dim, Scratch& scratch, std::int32_t* dots) {
  const std::int32_t quads = head_dim / 4;
  spread_factors(query, quads, scratch.factors);
  for (std::int32_t key = 0; key < kScoreBlock; key += 16) {
    const std::int8_t* tile = keys[key / 64] + key % 64 * head_dim;
    add_tile(tile, quads, scratch.factors, dots + key);
  }
}

// scratch.dots of a row.
void query_dot_keys(const QueryTile& query, std::int32_t row, const ScoreBlock& block,
                    bool has_digits, Scratch& scratch) {
  const std::int64_t at = std::int64_t{row} * query.code_stride;
  const KvBlock* half = block.half;
  const std::int8_t* const codes[2] = {half[0].key_codes, half[1].key_codes};
  for (std::int32_t key = 0; key < kScoreBlock; ++key) scratch.dots[key] = scratch.mixed[key] = 0;
  add_query_dot_keys(query.codes + at, codes, query.head_dim, scratch, scratch.dots);
  if (!has_digits) return;
  const std::int8_t* const digits[2] = {half[0].key_digits, half[1].key_digits};
  add_query_dot_keys(query.codes + at, digits, query.head_dim, scratch, scratch.mixed);
  add_query_dot_keys(query.digits + at, codes, query.head_dim, scratch, scratch.mixed);
  for (std::int32_t key = 0; key < kScoreBlock; ++key)
    scratch.dots[key] = add_digits(scratch.dots[key], scratch.mixed[key], digit_bits(query, row));
}

// Folded scores in fixed point; returns their maximum over the kept keys.
std::int32_t plain_scores(const ScoreBlock& block, RowScale scale, const std::uint64_t* keep,
                          Scratch& scratch) {
  std::int32_t largest = -32768;
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    const std::int32_t keyed =
        multiply_q15(scratch.dots[key] >> scale.shift, block.key_factor[key]);
    const std::int32_t folded = multiply_q15(keyed, scale.multiplier) + block.value_log2[key];
    const bool kept = keep == nullptr || key_is_kept(keep, key);
    scratch.x[key] = static_cast<std::int16_t>(kept ? folded : -32768);
    largest = max_of<std::int32_t>(largest, scratch.x[key]);
  }
  return largest;
}

// P in u8 and in f32, 255 for the block's maximum; returns the sum of the unfolded weights in
// integers.
std::int32_t quantize_weights(std::int32_t largest, const ScoreBlock& block,
                              const std::uint64_t* keep, Scratch& scratch) {
  std::int32_t sum = 0;
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    const bool kept = keep == nullptr || key_is_kept(keep, key);
    const std::int32_t weight = weight_of(kept ? largest - scratch.x[key] : 32767);
    scratch.weights[key] = static_cast<std::uint8_t>(multiply_q15(weight, kWeightToU8));
    scratch.f32_weights[key] = static_cast<float>(weight) * kWeightToP;
    sum += weight * block.value_weight[key];
  }
  return sum;
}

// accumulators += gain * (P V), the product exact in int32: at most 255 * 127 * 128 < 2^22.
void add_weighted_values(const ScoreBlock& block, std::int32_t head_dim_v, float gain,
                         Scratch& scratch, float* accumulators) {
  spread_factors(scratch.weights, kScoreBlock / 4, scratch.factors);
  for (std::int32_t c = 0; c < head_dim_v; c += 16) {
    std::int32_t sums[16] = {};
    for (std::int32_t half = 0; half < 2; ++half) {
      const std::int8_t* tile = block.half[half].value_codes + c * 64;
      add_tile(tile, 16, scratch.factors + half * 16, sums);
    }
    for (std::int32_t i = 0; i < min_of(16, head_dim_v - c); ++i) {
      accumulators[c + i] = fused(static_cast<float>(sums[i]), gain, accumulators[c + i]);
    }
  }
}

// The same where values are in f16, in f32 from key to key.
void add_f16_row(const F16ValuesTask& task) {
  for (std::int32_t c = 0; c < task.head_dim_v; ++c) {
    float sum = 0;
    for (std::int32_t half = 0; half < 2; ++half) {
      const auto* values = reinterpret_cast<const std::uint16_t*>(task.half[half].value_codes);
      for (std::int32_t i = 0; i < task.keys->count[half]; ++i) {
        const std::int32_t key = task.keys->keys[half][i];
        const std::int32_t at = c / 16 * 16 * kBlockTokens + key * 16 + c % 16;
        sum = fused(task.weights[half * kBlockTokens + key], widen_f16(values[at]), sum);
      }
    }
    task.accumulators[0][c] = fused(sum, task.gain[0], task.accumulators[0][c]);
  }
}

// P, and the sum of all weights.
float sum_of_weights(std::int32_t largest, const ScoreBlock& block, const std::uint64_t* keep,
                     Scratch& scratch) {
  const std::int32_t sum = quantize_weights(largest, block, keep, scratch);
  return add_light_keys(static_cast<float>(sum), largest, block, keep, scratch.x, NaturalOrder{});
}

BlockWeight plain_weights(const ScoreBlock& block, RowScale scale, const std::uint64_t* keep,
                          Scratch& scratch) {
  const std::int32_t largest = plain_scores(block, scale, keep, scratch);
  const float sum = sum_of_weights(largest, block, keep, scratch);
  return {static_cast<float>(largest) * kScoreUnit, sum, power_of_two(block.value_exponent)};
}

BlockWeight general_weights(const TileTask& task, std::int32_t row, std::int64_t first_key,
                            bool is_biased, bool has_digits, const ScoreBlock& block,
                            const std::uint64_t* keep, Scratch& scratch) {
  const std::uint64_t* seen = keep != nullptr ? keep : kAll;
  NaturalOrder::expand(seen, scratch.kept);
  GeneralRow form{};
  form.factor = task.query->factor[row];
  form.unit = power_of_two(has_digits ? -digit_bits(*task.query, row) : 0);
  form.term = task.query->score_term[row];
  form.cap = task.score_cap;
  form.bias = is_biased ? task.bias + row : nullptr;
  form.elements = scratch.elements;
  if (is_biased && form.bias->elements != nullptr)
    form.elements = mask_elements<RowLoops>(*form.bias, first_key, scratch.elements);
  form.kept = scratch.kept;
  const float exponent = general_scores(form, block, first_key, scratch.dots);
  if (sees_faint_value(block, seen, block.value_exponent)) {
    const BlockWeight weight =
        weigh_beside_faint(block.half, exponent, scratch.dots, scratch.fixed);
    NaturalOrder::narrow(scratch.fixed, scratch.x);
    quantize_weights(0, block, keep, scratch);
    return weight;
  }
  fixed_scores(scratch.dots, exponent, scratch.fixed);
  std::int32_t largest = -32768;
  for (std::int32_t key = 0; key < kScoreBlock; ++key) {
    const std::int32_t folded = scratch.fixed[key] + block.value_log2[key];
    scratch.x[key] = static_cast<std::int16_t>(folded);
    largest = max_of(largest, folded);
  }
  const float sum = sum_of_weights(largest, block, keep, scratch);
  return general_weight(exponent, largest, sum, block.value_exponent);
}

// Whether the fixed point does not hold the row's scores, or the values that it sees.
bool is_beyond_fixed(RowScale scale, const ScoreBlock& block, const std::uint64_t* keep) {
  return !is_fixed(scale.exponent) ||
         sees_faint_value(block, keep != nullptr ? keep : kAll, block.value_exponent);
}

// A row against block b of the task.
void attend_row(const TileTask& task, std::int32_t row, std::int32_t b, Scratch& scratch) {
  const QueryTile& query = *task.query;
  const ScoreBlock& shared = task.blocks[b];
  const std::uint64_t* keep = task.keep[b] == nullptr ? nullptr : task.keep[b] + 2 * row;
  const ScoreBlock* block = &shared;
  if (keep != nullptr) {
    if ((keep[0] | keep[1]) == 0) return;
    // The row's constants come from the keys that it sees, whatever else the block holds.
    scratch.row_block.half[0] = shared.half[0];
    scratch.row_block.half[1] = shared.half[1];
    fill_factors<NaturalOrder>(scratch.row_block, keep);
    block = &scratch.row_block;
  }
  const bool is_biased = (biased_rows(task, b) >> row & 1) != 0;
  const RowScale scale = row_scale(query, row, block->key_exponent, block->key_mantissa);
  const bool has_digits = takes_digits(query, *block, scale.exponent);
  query_dot_keys(query, row, *block, has_digits, scratch);
  const bool is_general =
      task.score_cap > 0.0f || is_biased || is_beyond_fixed(scale, *block, keep);
  const BlockWeight weight =
      is_general ? general_weights(task, row, task.first_key + b * kScoreBlock, is_biased,
                                   has_digits, *block, keep, scratch)
                 : plain_weights(*block, has_digits ? with_digits(query, row, scale) : scale, keep,
                                 scratch);
  keep_in_reach(task.state, row, task.head_dim_v, weight.exponent);
  const float alpha = exp2_of(weight.exponent - task.state.reference[row]);
  task.state.row_sum[row] = fused(weight.sum, alpha, task.state.row_sum[row]);
  float* const accumulators = task.state.accumulators + row * task.state.accumulator_stride;
  const float gain = alpha * weight.unit;
  if (task.add_f16_values != nullptr) {
    KeyList keys;
    list_keys(keep != nullptr ? keep : kAll, keys);
    task.add_f16_values({scratch.f32_weights, block->half, nullptr, &keys, 1, task.head_dim_v,
                         &gain, &accumulators});
  } else {
    add_weighted_values(*block, task.head_dim_v, gain, scratch, accumulators);
  }
}

void attend_tile(const TileTask& task) {
  Scratch& scratch = *static_cast<Scratch*>(task.scratch);
  for (std::int32_t b = 0; b < task.num_blocks; ++b) {
    for (std::int32_t r = 0; r < task.query->rows; ++r) attend_row(task, r, b, scratch);
  }
}

std::size_t scratch_bytes(std::int32_t, std::int32_t, bool) { return sizeof(Scratch); }

// Products of one tile in L1, over and over: what add_tile reaches where nothing else is done.
double integer_peak(std::int64_t repeats) {
  constexpr std::int32_t kQuads = 16;
  QuadFactors factors[kQuads] = {};
  std::int8_t tile[kQuads * 64] = {};
  std::int32_t sums[16] = {};
  for (std::int64_t i = 0; i < repeats; ++i) {
    add_tile(tile, kQuads, factors, sums);
    __asm__ volatile("" : : "r"(sums), "r"(tile), "r"(factors) : "memory");
  }
  return 2.0 * 64 * kQuads * static_cast<double>(repeats);
}

}  // namespace

extern constexpr RowKernels row_kernels_scalar = make_row_kernels<RowLoops>(add_f16_row);
extern constexpr KernelTable kernels_scalar = {
    .name = "scalar",
    .tile_rows = kTileRows,
    .rows = &row_kernels_scalar,
    .prepare_block = prepare_block,
    .scratch_bytes = scratch_bytes,
    .attend_tile = attend_tile,
    .attend_spans = nullptr,
    .packed_rows = 0,
    .packed = 0,
    .integer_peak = integer_peak,
};

}  // namespace intflash::internal
