// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// TurboAttention: one loop over tiles for prefill, whose keys and values are in INT8, and for
// decoding, which sees them as the cache keeps them.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

#include "pipeline_parts.h"
#include "turbo.h"

namespace intflash {
namespace {

// INT8 of 119 steps: the second stage may go half a step of its own beyond, 8 in 4 bits.
constexpr double kCodeMax = 119;
constexpr Grid kProtected = {round_to_nearest_integer, kCodeMax};
constexpr std::int64_t kTile = 64;  // queries, and keys, that share a scale
constexpr double kCut = 6;          // SAS: what lies further below the maximum weighs nothing

Matrix first_stage(const Matrix& x, std::int64_t tokens_per_scale) {
  return rounded(x, kProtected, tokens_per_scale, Channels::kTogether);
}

// Both stages, of blocks of 64 tokens.
Matrix both_stages(const Matrix& x, int bits) {
  Matrix result = first_stage(x, kTile);
  std::vector<double> codes;
  for (std::int64_t first = 0; first < x.tokens; first += kTile) {
    const std::int64_t end = std::min(first + kTile, x.tokens);
    double largest = 0;
    for (const double* e = x.row(first); e < x.row(end); ++e)
      largest = std::max(largest, std::fabs(*e));
    if (largest == 0) continue;
    const double scale = largest / kCodeMax;
    for (std::int64_t c = 0; c < x.dim; ++c) {
      codes.clear();
      for (std::int64_t t = first; t < end; ++t)
        codes.push_back(std::nearbyint(result.row(t)[c] / scale));
      flash_q(codes, bits);
      for (std::int64_t t = first; t < end; ++t)
        result.row(t)[c] = codes[static_cast<std::size_t>(t - first)] * scale;
    }
  }
  return result;
}

// Rounded: what queries see of their last block of keys, and of those before.
struct Operands {
  const Matrix &query, &key, &value, &cached_key, &cached_value;
};

struct RowState {
  double row_max = -std::numeric_limits<double>::infinity();
  double row_sum = 0;
};

struct Tile {
  std::int64_t first_row, rows, first_key, end_key;
};

// Softmax by SAS, but for what a row has seen before, which shrinks exactly; weights are in INT8,
// of one scale for the tile.
void attend_tile(const Head& head, const Matrix& query, const Matrix& key, const Matrix& value,
                 const Tile& tile, RowState* states, Matrix& out) {
  const auto [first_row, rows, first, end] = tile;
  std::vector<double> weights(static_cast<std::size_t>(rows * kTile));
  double largest = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t i = first_row + r;
    const std::int64_t count = std::min(end, visible_keys(head, i)) - first;
    if (count <= 0) continue;
    double* row = weights.data() + r * kTile;
    for (std::int64_t j = 0; j < count; ++j)
      row[j] = head.softmax_scale * dot(query.row(i), key.row(first + j), key.dim);
    RowState& state = states[r];
    const double new_max = std::max(state.row_max, *std::max_element(row, row + count));
    const double shrink = std::exp(state.row_max - new_max);
    state.row_sum *= shrink;
    for (std::int64_t c = 0; c < value.dim; ++c) out.row(i)[c] *= shrink;
    for (std::int64_t j = 0; j < count; ++j) {
      row[j] = sas_exp(row[j] - new_max);
      state.row_sum += row[j];
      largest = std::max(largest, row[j]);
    }
    state.row_max = new_max;
  }
  if (largest == 0) return;
  const double scale = largest / kCodeMax;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t j = 0; j < end - first; ++j) {
      const double weight =
          std::nearbyint(weights[static_cast<std::size_t>(r * kTile + j)] / scale) * scale;
      for (std::int64_t c = 0; weight != 0 && c < value.dim; ++c)
        out.row(first_row + r)[c] += weight * value.row(first + j)[c];
    }
  }
}

// Tiles of tile_rows queries.
Matrix attend_tiles(const Head& head, const Operands& seen, std::int64_t tile_rows) {
  Matrix out(head.query.tokens, head.value.dim);
  for (std::int64_t first_row = 0; first_row < head.query.tokens; first_row += tile_rows) {
    const std::int64_t rows = std::min(tile_rows, head.query.tokens - first_row);
    std::vector<RowState> states(static_cast<std::size_t>(rows));
    const std::int64_t visible = visible_keys(head, first_row + rows - 1);
    for (std::int64_t first = 0; first < visible; first += kTile) {
      const std::int64_t end = std::min(first + kTile, visible);
      const bool is_last = end == visible;
      attend_tile(head, seen.query, is_last ? seen.key : seen.cached_key,
                  is_last ? seen.value : seen.cached_value, {first_row, rows, first, end},
                  states.data(), out);
    }
    for (std::int64_t r = 0; r < rows; ++r) {
      const double sum = states[static_cast<std::size_t>(r)].row_sum;
      for (std::int64_t c = 0; sum > 0 && c < out.dim; ++c) out.row(first_row + r)[c] /= sum;
    }
  }
  return out;
}

// Prefill (Algorithm 1): all in INT8, in tiles of 64 queries and 64 keys.
Matrix turbo_prefill(const Head& head) {
  const Matrix query = first_stage(head.query, kTile);
  const Matrix key = first_stage(head.key, kTile), value = first_stage(head.value, kTile);
  return attend_tiles(head, {query, key, value, key, value}, kTile);
}

Matrix turbo_4(const Head& head) { return attend_turbo(head, {4, 4}); }
Matrix turbo_2(const Head& head) { return attend_turbo(head, {2, 2}); }

// Of the keys or values of a head: the gap of its channels' ranges times their standard deviation.
double priority_of(const Matrix& x) {
  std::vector<double> ranges;
  for (std::int64_t c = 0; c < x.dim; ++c) {
    double least = std::numeric_limits<double>::infinity(), most = -least;
    for (std::int64_t t = 0; t < x.tokens; ++t) {
      least = std::min(least, x.row(t)[c]);
      most = std::max(most, x.row(t)[c]);
    }
    ranges.push_back(most - least);
  }
  const auto count = static_cast<double>(ranges.size());
  const double mean = std::accumulate(ranges.begin(), ranges.end(), 0.0) / count;
  double squares = 0;
  for (const double range : ranges) squares += (range - mean) * (range - mean);
  const auto [narrowest, widest] = std::minmax_element(ranges.begin(), ranges.end());
  return (*widest - *narrowest) * std::sqrt(squares / count);
}

constexpr Pipeline kPipelines[] = {
    {"Turbo", "TurboAttention's prefill: INT8 of 64 tokens, exponential by SAS", turbo_prefill},
    {"Turbo-4", "and decoding: K and V in 4 bits by channel, the last 64 in INT8", turbo_4},
    {"Turbo-2", "the same in 2 bits", turbo_2},
};

}  // namespace

std::span<const Pipeline> turbo_pipelines() { return kPipelines; }

double sas_exp(double x) {
  if (x < -kCut) return 0;
  const double whole = std::floor(-x), rest = -x - whole;
  const double cubic = ((-0.1025 * rest + 0.4626) * rest - 0.9922) * rest + 0.9996;
  return std::exp(-whole) * cubic;
}

void flash_q(std::span<double> codes, int bits) {
  const auto [least, most] = std::minmax_element(codes.begin(), codes.end());
  const double last = (1 << bits) - 1;
  // Rounded up, so that the codes span the channel.
  const double step = std::max(std::ceil((*most - *least) / last), 1.0);
  const double zero = std::nearbyint(*least / step);
  for (double& code : codes) {
    const double q = std::clamp(std::nearbyint(code / step) - zero, 0.0, last);
    // Half a step of 2 bits may reach beyond INT8.
    code = std::clamp((q + zero) * step, -127.0, 127.0);
  }
}

std::vector<TurboBits> turbo_bits(std::span<const Head> kv_heads) {
  std::vector<TurboBits> bits(kv_heads.size());
  for (const bool of_keys : {true, false}) {
    std::vector<double> priorities;
    for (const Head& head : kv_heads)
      priorities.push_back(priority_of(of_keys ? head.key : head.value));
    std::vector<std::size_t> order(bits.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return priorities[a] < priorities[b]; });
    for (std::size_t i = 0; i < order.size() / 2; ++i)
      (of_keys ? bits[order[i]].key : bits[order[i]].value) = 2;
  }
  return bits;
}

Matrix attend_turbo(const Head& head, TurboBits bits) {
  const Matrix query = first_stage(head.query, 1);
  const Matrix key = first_stage(head.key, kTile), value = first_stage(head.value, kTile);
  const Matrix cached_key = both_stages(head.key, bits.key);
  const Matrix cached_value = both_stages(head.value, bits.value);
  return attend_tiles(head, {query, key, value, cached_key, cached_value}, 1);
}

}  // namespace intflash
