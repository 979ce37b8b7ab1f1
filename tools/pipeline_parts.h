// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What simulated pipelines are made of: roundings of matrices, exact changes of inputs, and one
// loop over blocks of keys. Each paper's pipelines are a file, and a list here.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "pipelines.h"

namespace intflash {

// Keys between two updates of the running maximum, and the keys that share a scale where a pipeline
// has scales per block (SageAttention: 64 keys; FlashAttention-3's tiles differ by head_dim, and 64
// stands for all of them).
constexpr std::int64_t kBlockKeys = 64;
constexpr std::int64_t kBlockQueries = 128;  // queries that share a scale there
constexpr std::int64_t kAllTokens = std::numeric_limits<std::int64_t>::max();

// ---- Roundings of matrices ----

// A set of representable numbers: the rounding to it, and the largest magnitude in it.
struct Grid {
  double (*round)(double);
  double max;
};
double round_to_nearest_integer(double value);
constexpr Grid kInt8 = {round_to_nearest_integer, 127};
constexpr Grid kInt4 = {round_to_nearest_integer, 7};
constexpr Grid kE4m3 = {round_to_e4m3, 448};

// What shares a scale: tokens in runs, and either all channels or each alone.
enum class Channels { kTogether, kEach };

// The matrix on the grid, each group scaled so that its largest magnitude is the grid's.
Matrix rounded(Matrix matrix, const Grid& grid, std::int64_t tokens_per_scale, Channels channels);
// The same where the tokens of which group_of gives the same number share a scale.
Matrix rounded_by_group(Matrix matrix, const Grid& grid, std::int64_t (*group_of)(std::int64_t));

Matrix int8_per_token(Matrix x);
Matrix int8_per_block(Matrix x, std::int64_t tokens);
Matrix int8_per_channel(Matrix x);
Matrix int8_per_block_and_channel(Matrix x);
Matrix e4m3_per_tensor(Matrix x);
Matrix e4m3_per_block(Matrix x, std::int64_t tokens);
Matrix e4m3_per_channel(Matrix x);
Matrix e5m2_unscaled(Matrix x);

// ---- Exact changes of the inputs ----

// The mean of each channel over count tokens from first on.
std::vector<double> mean_of(const Matrix& x, std::int64_t first, std::int64_t count);

// Keys less their mean: all scores of a row move by the same amount, which softmax does not see.
Matrix smoothed(Matrix key);

// Random signs, then an orthonormal Hadamard transform of each run of the largest power of two that
// divides dim. Done to queries and keys alike it leaves every dot product as it is, and spreads an
// outlier over the run's channels.
Matrix rotated(Matrix x);

Head with_inputs(const Head& head, Matrix query, Matrix key, Matrix value);

// ---- Softmax and the second product ----

double unrounded(double weight);
double round_weight_to_127(double weight);
double round_weight_to_255(double weight);
double round_weight_to_e4m3(double weight);
double round_scaled_weight_to_e4m3(double weight);  // on 448 times the weight

// How a pipeline treats the weights exp(score - maximum), which lie in [0, 1].
struct WeightRule {
  double (*round)(double);
  enum class Maximum { kRunning, kOfBlock } maximum;  // what the rounding is relative to
  enum class Sum { kUnrounded, kRounded } sum;        // what the denominator adds
  // What a block's sum of weighted values is after each 32 keys, before out adds it.
  double (*accumulate)(double) = unrounded;
};
using Maximum = WeightRule::Maximum;
using Sum = WeightRule::Sum;

double dot(const double* a, const double* b, std::int64_t n);

// Of query row i: the number of keys that it sees, from the first on.
std::int64_t visible_keys(const Head& head, std::int64_t i);

// score_terms [blocks of kBlockQueries queries][kv_len] are added to the scores of these queries,
// before softmax_scale; nullptr = none.
Matrix attend(const Head& head, const WeightRule& rule, const Matrix* score_terms = nullptr);

// ---- The papers ----

std::span<const Pipeline> fp8_pipelines();
std::span<const Pipeline> sage_pipelines();
std::span<const Pipeline> turbo_pipelines();
std::span<const Pipeline> integer_pipelines();

}  // namespace intflash
