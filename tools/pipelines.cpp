// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The roundings, one loop over blocks of keys that all pipelines share, and then each pipeline in a
// few lines.
#include "pipelines.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

namespace intflash {
namespace {

// Keys between two updates of the running maximum, and the keys that share a scale where a pipeline
// has scales per block (SageAttention: 64 keys; FlashAttention-3's tiles differ by head_dim, and 64
// stands for all of them).
constexpr std::int64_t kBlockKeys = 64;
constexpr std::int64_t kBlockQueries = 128;  // queries that share a scale there
constexpr std::int64_t kWarpQueries = 32;    // and where SageAttention 2 has a scale per warp
constexpr std::int64_t kAllTokens = std::numeric_limits<std::int64_t>::max();

// ---- Roundings of matrices ----

// A set of representable numbers: the rounding to it, and the largest magnitude in it.
struct Grid {
  double (*round)(double);
  double max;
};
double round_to_integer(double value) { return std::nearbyint(value); }
constexpr Grid kInt8 = {round_to_integer, 127};
constexpr Grid kE4m3 = {round_to_e4m3, 448};

// What shares a scale: tokens in runs, and either all channels or each alone.
enum class Channels { kTogether, kEach };

void round_group(Matrix& matrix, std::int64_t first_token, std::int64_t end_token,
                 std::int64_t first_channel, std::int64_t end_channel, const Grid& grid) {
  double largest = 0;
  for (std::int64_t t = first_token; t < end_token; ++t) {
    for (std::int64_t c = first_channel; c < end_channel; ++c)
      largest = std::max(largest, std::fabs(matrix.row(t)[c]));
  }
  if (largest == 0) return;
  const double scale = largest / grid.max;
  for (std::int64_t t = first_token; t < end_token; ++t) {
    for (std::int64_t c = first_channel; c < end_channel; ++c) {
      matrix.row(t)[c] = grid.round(matrix.row(t)[c] / scale) * scale;
    }
  }
}

// The matrix on the grid, each group scaled so that its largest magnitude is the grid's.
Matrix rounded(Matrix matrix, const Grid& grid, std::int64_t tokens_per_scale, Channels channels) {
  for (std::int64_t first = 0; first < matrix.tokens;) {
    const std::int64_t end = first + std::min(tokens_per_scale, matrix.tokens - first);
    const std::int64_t width = channels == Channels::kEach ? 1 : matrix.dim;
    for (std::int64_t c = 0; c < matrix.dim; c += width)
      round_group(matrix, first, end, c, c + width, grid);
    first = end;
  }
  return matrix;
}

Matrix int8_per_token(Matrix x) { return rounded(std::move(x), kInt8, 1, Channels::kTogether); }
Matrix int8_per_block(Matrix x, std::int64_t tokens) {
  return rounded(std::move(x), kInt8, tokens, Channels::kTogether);
}
Matrix int8_per_channel(Matrix x) {
  return rounded(std::move(x), kInt8, kAllTokens, Channels::kEach);
}
Matrix int8_per_block_and_channel(Matrix x) {
  return rounded(std::move(x), kInt8, kBlockKeys, Channels::kEach);
}
Matrix e4m3_per_tensor(Matrix x) {
  return rounded(std::move(x), kE4m3, kAllTokens, Channels::kTogether);
}
Matrix e4m3_per_block(Matrix x, std::int64_t tokens) {
  return rounded(std::move(x), kE4m3, tokens, Channels::kTogether);
}
Matrix e4m3_per_channel(Matrix x) {
  return rounded(std::move(x), kE4m3, kAllTokens, Channels::kEach);
}

Matrix e5m2_unscaled(Matrix x) {
  for (double& element : x.data) element = round_to_e5m2(element);
  return x;
}

// ---- Exact changes of the inputs ----

// Keys less their mean: all scores of a row move by the same amount, which softmax does not see.
Matrix smoothed(Matrix key) {
  std::vector<double> mean(static_cast<std::size_t>(key.dim));
  for (std::int64_t t = 0; t < key.tokens; ++t) {
    for (std::int64_t c = 0; c < key.dim; ++c) mean[static_cast<std::size_t>(c)] += key.row(t)[c];
  }
  for (std::int64_t t = 0; t < key.tokens; ++t) {
    for (std::int64_t c = 0; c < key.dim; ++c) {
      key.row(t)[c] -= mean[static_cast<std::size_t>(c)] / static_cast<double>(key.tokens);
    }
  }
  return key;
}

// Random signs, then an orthonormal Hadamard transform of each run of the largest power of two that
// divides dim. Done to queries and keys alike it leaves every dot product as it is, and spreads an
// outlier over the run's channels.
Matrix rotated(Matrix x) {
  const std::int64_t run = x.dim & -x.dim;
  std::vector<double> factor(static_cast<std::size_t>(x.dim));
  std::uint32_t state = 1;
  for (double& f : factor) {
    state = state * 1664525 +
            1013904223;  // a linear congruential generator; its top bit decides the sign
    f = (state >> 31 != 0 ? -1.0 : 1.0) / std::sqrt(static_cast<double>(run));
  }
  for (std::int64_t t = 0; t < x.tokens; ++t) {
    double* row = x.row(t);
    for (std::int64_t c = 0; c < x.dim; ++c) row[c] *= factor[static_cast<std::size_t>(c)];
    for (std::int64_t half = 1; half < run; half *= 2) {
      for (std::int64_t c = 0; c < x.dim; ++c) {
        if ((c & half) != 0) continue;
        const double a = row[c], b = row[c + half];
        row[c] = a + b;
        row[c + half] = a - b;
      }
    }
  }
  return x;
}

// ---- Softmax and the second product ----

double unrounded(double weight) { return weight; }
double round_weight_to_127(double weight) { return std::nearbyint(weight * 127) / 127; }
double round_weight_to_255(double weight) { return std::nearbyint(weight * 255) / 255; }
double round_weight_to_e4m3(double weight) { return round_to_e4m3(weight); }
double round_scaled_weight_to_e4m3(double weight) { return round_to_e4m3(weight * 448) / 448; }

// How a pipeline treats the weights exp(score - maximum), which lie in [0, 1].
struct WeightRule {
  double (*round)(double);
  enum class Maximum { kRunning, kOfBlock } maximum;  // what the rounding is relative to
  enum class Sum { kUnrounded, kRounded } sum;        // what the denominator adds
};
using Maximum = WeightRule::Maximum;
using Sum = WeightRule::Sum;

double dot(const double* a, const double* b, std::int64_t n) {
  double lanes[8] = {};  // eight chains of additions: one would wait for each sum
  std::int64_t c = 0;
  for (; c + 8 <= n; c += 8) {
    for (int lane = 0; lane < 8; ++lane) lanes[lane] += a[c + lane] * b[c + lane];
  }
  for (; c < n; ++c) lanes[0] += a[c] * b[c];
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
         ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

// One row, block of keys by block, as FlashAttention does it.
void attend_row(const Head& head, std::int64_t visible, const WeightRule& rule, const double* query,
                double* out) {
  double row_max = -std::numeric_limits<double>::infinity();
  double row_sum = 0;
  for (std::int64_t first = 0; first < visible; first += kBlockKeys) {
    const std::int64_t count = std::min(kBlockKeys, visible - first);
    double weights[kBlockKeys];
    for (std::int64_t j = 0; j < count; ++j) {
      weights[j] = head.softmax_scale * dot(query, head.key.row(first + j), head.key.dim);
    }
    const double block_max = *std::max_element(weights, weights + count);
    const double new_max = std::max(row_max, block_max);
    const double shrink = std::exp(row_max - new_max);
    const double reference = rule.maximum == Maximum::kOfBlock ? block_max : new_max;
    const double block_factor = std::exp(reference - new_max);

    row_sum *= shrink;
    for (std::int64_t c = 0; c < head.value.dim; ++c) out[c] *= shrink;
    for (std::int64_t j = 0; j < count; ++j) {
      const double weight = std::exp(weights[j] - reference);
      const double rounded_weight = rule.round(weight);
      row_sum += block_factor * (rule.sum == Sum::kRounded ? rounded_weight : weight);
      const double* value = head.value.row(first + j);
      for (std::int64_t c = 0; c < head.value.dim; ++c)
        out[c] += block_factor * rounded_weight * value[c];
    }
    row_max = new_max;
  }
  if (row_sum == 0) return;  // a row that sees no key stays 0
  for (std::int64_t c = 0; c < head.value.dim; ++c) out[c] /= row_sum;
}

Matrix attend(const Head& head, const WeightRule& rule) {
  Matrix out(head.query.tokens, head.value.dim);
  for (std::int64_t i = 0; i < head.query.tokens; ++i) {
    const std::int64_t visible =
        head.causal ? head.key.tokens - head.query.tokens + i + 1 : head.key.tokens;
    attend_row(head, std::max<std::int64_t>(visible, 0), rule, head.query.row(i), out.row(i));
  }
  return out;
}

Head with_inputs(const Head& head, Matrix query, Matrix key, Matrix value) {
  return {std::move(query), std::move(key), std::move(value), head.softmax_scale, head.causal};
}

// ---- The pipelines ----

// The FP8 baseline of INT-FlashAttention's tables: everything cast to e5m2 as it is.
Matrix fp8_e5m2(const Head& head) {
  return attend(with_inputs(head, e5m2_unscaled(head.query), e5m2_unscaled(head.key),
                            e5m2_unscaled(head.value)),
                {round_to_e5m2, Maximum::kRunning, Sum::kUnrounded});
}

// The FP8 baseline of FlashAttention-3's table: one scale per tensor, weights cast as they are.
Matrix fp8_e4m3(const Head& head) {
  return attend(with_inputs(head, e4m3_per_tensor(head.query), e4m3_per_tensor(head.key),
                            e4m3_per_tensor(head.value)),
                {round_weight_to_e4m3, Maximum::kRunning, Sum::kUnrounded});
}

// FlashAttention-3 in FP8 (arXiv 2407.08608): rotated queries and keys, a scale per block; its
// weights use all of e4m3.
Matrix fa3_fp8(const Head& head) {
  return attend(with_inputs(head, e4m3_per_block(rotated(head.query), kBlockQueries),
                            e4m3_per_block(rotated(head.key), kBlockKeys),
                            e4m3_per_block(head.value, kBlockKeys)),
                {round_scaled_weight_to_e4m3, Maximum::kRunning, Sum::kUnrounded});
}

// SageAttention 2, its 8-bit form (arXiv 2411.10958): INT8 scores of smoothed keys, FP8 weights and
// values.
Matrix sage2_8b(const Head& head) {
  return attend(
      with_inputs(head, int8_per_block(head.query, kWarpQueries),
                  int8_per_block(smoothed(head.key), kBlockKeys), e4m3_per_channel(head.value)),
      {round_scaled_weight_to_e4m3, Maximum::kRunning, Sum::kUnrounded});
}

// SageAttention 1, kernel B (arXiv 2410.02367): INT8 scores with a scale per block, the rest in
// floating point.
Matrix sage1_b(const Head& head) {
  return attend(with_inputs(head, int8_per_block(head.query, kBlockQueries),
                            int8_per_block(smoothed(head.key), kBlockKeys), head.value),
                {unrounded, Maximum::kRunning, Sum::kUnrounded});
}

// SageAttention 1, kernel vB: weights in steps of 1/127 and INT8 values per channel as well.
Matrix sage1_vb(const Head& head) {
  return attend(
      with_inputs(head, int8_per_block(head.query, kBlockQueries),
                  int8_per_block(smoothed(head.key), kBlockKeys), int8_per_channel(head.value)),
      {round_weight_to_127, Maximum::kRunning, Sum::kUnrounded});
}

// INT-FlashAttention's half-INT8: INT8 scores with a scale per token, the rest in floating point.
Matrix half_int8(const Head& head) {
  return attend(with_inputs(head, int8_per_token(head.query), int8_per_token(head.key), head.value),
                {unrounded, Maximum::kRunning, Sum::kUnrounded});
}

// All integer, with the weights rounded against their own block's maximum: A, with 255 levels; A7,
// with 127, which AVX2's saturating multiply-add asks for; B, A on rotated queries and keys.
Matrix block_max_a(const Head& head) {
  return attend(with_inputs(head, int8_per_token(head.query), int8_per_token(smoothed(head.key)),
                            int8_per_block_and_channel(head.value)),
                {round_weight_to_255, Maximum::kOfBlock, Sum::kRounded});
}

Matrix block_max_a7(const Head& head) {
  return attend(with_inputs(head, int8_per_token(head.query), int8_per_token(smoothed(head.key)),
                            int8_per_block_and_channel(head.value)),
                {round_weight_to_127, Maximum::kOfBlock, Sum::kRounded});
}

Matrix block_max_b(const Head& head) {
  return block_max_a(with_inputs(head, rotated(head.query), rotated(head.key), head.value));
}

constexpr Pipeline kPipelines[] = {
    {"FP8 e5m2", "everything cast to e5m2, no scales", fp8_e5m2},
    {"FP8 e4m3", "e4m3, one scale per tensor", fp8_e4m3},
    {"FA3-FP8", "e4m3, scales per block, Q and K rotated", fa3_fp8},
    {"Sage2-8b", "INT8 QK per block, K smoothed; e4m3 PV, V per channel", sage2_8b},
    {"Sage1-B", "INT8 QK per block, K smoothed; PV in floating point", sage1_b},
    {"Sage1-vB", "INT8 QK per block, K smoothed; P in 1/127, V per channel", sage1_vb},
    {"half-INT8", "INT8 QK per token; PV in floating point", half_int8},
    {"A", "INT8 per token, K smoothed; P in 1/255 of its block's maximum, V per block and channel",
     block_max_a},
    {"A7", "A with P in 1/127", block_max_a7},
    {"B", "A with Q and K rotated", block_max_b},
};

}  // namespace

double round_to_float(double value, int fraction_bits, int min_exponent, double max) {
  if (value == 0 || std::isnan(value)) return value;
  const double magnitude = std::min(std::fabs(value), max);
  // Below the smallest normal number the step no longer shrinks.
  const int exponent = std::max(std::ilogb(magnitude), min_exponent);
  const double step = std::ldexp(1.0, exponent - fraction_bits);
  return std::copysign(std::nearbyint(magnitude / step) * step, value);
}
double round_to_e4m3(double value) { return round_to_float(value, 3, -6, 448); }
double round_to_e5m2(double value) { return round_to_float(value, 2, -14, 57344); }

std::span<const Pipeline> pipelines() { return kPipelines; }

const Pipeline& pipeline(const char* name) {
  return *std::find_if(std::begin(kPipelines), std::end(kPipelines),
                       [name](const Pipeline& p) { return std::strcmp(p.name, name) == 0; });
}

Matrix attend_unrounded(const Head& head) {
  return attend(head, {unrounded, Maximum::kRunning, Sum::kUnrounded});
}

}  // namespace intflash
