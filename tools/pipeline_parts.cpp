// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
#include "pipeline_parts.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

namespace intflash {
namespace {

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

}  // namespace

double round_to_nearest_integer(double value) { return std::nearbyint(value); }

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

Matrix rounded_by_group(Matrix matrix, const Grid& grid, std::int64_t (*group_of)(std::int64_t)) {
  std::vector<double> largest;  // of each group
  const auto of_group = [&](std::int64_t t) -> double& {
    const auto group = static_cast<std::size_t>(group_of(t));
    if (group >= largest.size()) largest.resize(group + 1);
    return largest[group];
  };
  for (std::int64_t t = 0; t < matrix.tokens; ++t) {
    for (std::int64_t c = 0; c < matrix.dim; ++c)
      of_group(t) = std::max(of_group(t), std::fabs(matrix.row(t)[c]));
  }
  for (std::int64_t t = 0; t < matrix.tokens; ++t) {
    const double scale = of_group(t) / grid.max;
    for (std::int64_t c = 0; scale > 0 && c < matrix.dim; ++c)
      matrix.row(t)[c] = grid.round(matrix.row(t)[c] / scale) * scale;
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

std::vector<double> mean_of(const Matrix& x, std::int64_t first, std::int64_t count) {
  std::vector<double> mean(static_cast<std::size_t>(x.dim));
  for (std::int64_t t = first; t < first + count; ++t) {
    for (std::int64_t c = 0; c < x.dim; ++c) mean[static_cast<std::size_t>(c)] += x.row(t)[c];
  }
  for (double& element : mean) element /= static_cast<double>(count);
  return mean;
}

Matrix smoothed(Matrix key) {
  const std::vector<double> mean = mean_of(key, 0, key.tokens);
  for (std::int64_t t = 0; t < key.tokens; ++t) {
    for (std::int64_t c = 0; c < key.dim; ++c) key.row(t)[c] -= mean[static_cast<std::size_t>(c)];
  }
  return key;
}

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

Head with_inputs(const Head& head, Matrix query, Matrix key, Matrix value) {
  return {std::move(query), std::move(key), std::move(value), head.softmax_scale, head.causal};
}

double unrounded(double weight) { return weight; }
double round_weight_to_127(double weight) { return std::nearbyint(weight * 127) / 127; }
double round_weight_to_255(double weight) { return std::nearbyint(weight * 255) / 255; }
double round_weight_to_e4m3(double weight) { return round_to_e4m3(weight); }
double round_scaled_weight_to_e4m3(double weight) { return round_to_e4m3(weight * 448) / 448; }

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

namespace {

constexpr std::int64_t kStepKeys = 32;  // whose weighted values are added before a rounding

// Adds factor times the sum of count weighted values.
void add_values(const double* weights, const Matrix& value, std::int64_t first, std::int64_t count,
                const WeightRule& rule, double factor, double* out) {
  std::vector<double> sum(static_cast<std::size_t>(value.dim));
  for (std::int64_t j = 0; j < count; ++j) {
    const double* row = value.row(first + j);
    for (std::int64_t c = 0; c < value.dim; ++c)
      sum[static_cast<std::size_t>(c)] += weights[j] * row[c];
    if (rule.accumulate == unrounded || ((j + 1) % kStepKeys != 0 && j + 1 < count)) continue;
    for (double& element : sum) element = rule.accumulate(element);
  }
  for (std::int64_t c = 0; c < value.dim; ++c) out[c] += factor * sum[static_cast<std::size_t>(c)];
}

// One row, block of keys by block, as FlashAttention does it.
void attend_row(const Head& head, std::int64_t visible, const WeightRule& rule, const double* query,
                const double* terms, double* out) {
  double row_max = -std::numeric_limits<double>::infinity();
  double row_sum = 0;
  for (std::int64_t first = 0; first < visible; first += kBlockKeys) {
    const std::int64_t count = std::min(kBlockKeys, visible - first);
    double weights[kBlockKeys];
    for (std::int64_t j = 0; j < count; ++j) {
      const double product = dot(query, head.key.row(first + j), head.key.dim);
      weights[j] = head.softmax_scale * (terms == nullptr ? product : product + terms[first + j]);
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
      weights[j] = rule.round(weight);
      row_sum += block_factor * (rule.sum == Sum::kRounded ? weights[j] : weight);
    }
    add_values(weights, head.value, first, count, rule, block_factor, out);
    row_max = new_max;
  }
  if (row_sum == 0) return;  // a row that sees no key stays 0
  for (std::int64_t c = 0; c < head.value.dim; ++c) out[c] /= row_sum;
}

}  // namespace

std::int64_t visible_keys(const Head& head, std::int64_t i) {
  if (!head.causal) return head.key.tokens;
  return std::max<std::int64_t>(head.key.tokens - head.query.tokens + i + 1, 0);
}

Matrix attend(const Head& head, const WeightRule& rule, const Matrix* score_terms) {
  Matrix out(head.query.tokens, head.value.dim);
  for (std::int64_t i = 0; i < head.query.tokens; ++i) {
    const double* terms = score_terms == nullptr ? nullptr : score_terms->row(i / kBlockQueries);
    attend_row(head, visible_keys(head, i), rule, head.query.row(i), terms, out.row(i));
  }
  return out;
}

}  // namespace intflash
