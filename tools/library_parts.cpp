// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Codes as the library has them, rotated by its own matrix, and the rounding of its weights.
#include "library_parts.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "core/rotation.h"
#include "tile/rotation.h"
#include "tile/types.h"

namespace intflash {
namespace {

constexpr std::int64_t kScoreBlock = 128;  // keys whose weights are rounded against one maximum

struct Quantized {
  Matrix rows;                 // what the codes stand for, rotated back
  std::vector<double> scales;  // [tokens]
};

// What the codes of a row are: of queries and keys, perhaps with second digits; values have their
// scales on a grid.
enum class Form { kOneDigit, kTwoDigits, kOnGrid };

// The smallest power of 2^(1/64) that is not below a scale.
float scale_on_grid(float scale) {
  return static_cast<float>(std::exp2(std::ceil(64 * std::log2(static_cast<double>(scale))) / 64));
}

// Replaces a row by what its codes stand for, and returns their scale.
float quantize_row(std::vector<float>& row, Form form) {
  float largest = 0;
  for (const float element : row) largest = std::max(largest, std::fabs(element));
  if (largest < internal::kTinyMagnitude) {
    std::fill(row.begin(), row.end(), 0.0f);
    return 0;
  }
  const bool on_grid = form == Form::kOnGrid;
  const float scale = on_grid ? scale_on_grid(largest / 127) : largest / 127;
  const float inverse = on_grid ? 1 / scale : 127 / largest;
  for (float& element : row) {
    const float steps = element * inverse;
    const float code = std::nearbyint(steps);
    const float digit = std::clamp(std::nearbyint((steps - code) * 256), -127.0f, 127.0f);
    element = scale * (code + (form == Form::kTwoDigits ? digit / 256 : 0));
  }
  return scale;
}

Quantized quantize(const Matrix& x, bool rotated, Form form) {
  Quantized result{Matrix(x.tokens, x.dim), {}};
  std::vector<float> row(static_cast<std::size_t>(x.dim));
  for (std::int64_t t = 0; t < x.tokens; ++t) {
    std::transform(x.row(t), x.row(t) + x.dim, row.begin(),
                   [](double element) { return static_cast<float>(element); });
    if (rotated)
      internal::rotate_row<internal::RowLoops>(row.data(), internal::rotation_signs(rotated),
                                               row.data(), x.dim);
    result.scales.push_back(static_cast<double>(quantize_row(row, form)));
    if (rotated) internal::rotate_back(row.data(), x.dim);
    std::copy(row.begin(), row.end(), result.rows.row(t));
  }
  return result;
}

internal::Rotation rotation_of(const Head& head) {
  internal::Rotation rotation;
  internal::choose_rotation(INTFLASH_ROTATION_AUTO, head.key.dim, head.value.dim, rotation);
  return rotation;
}

Quantized quantized_value(const Head& head) {
  return quantize(head.value, rotation_of(head).values, Form::kOnGrid);
}

Head with_quantized_scores(const Head& head, Form form) {
  const bool rotated = rotation_of(head).keys;
  return {quantize(head.query, rotated, form).rows, quantize(head.key, rotated, form).rows,
          head.value, head.softmax_scale, head.causal};
}

Head with_value(Head head, Matrix value) {
  head.value = std::move(value);
  return head;
}

// The weights of the keys that a row sees, less a factor common to all.
std::vector<double> row_weights(const Head& head, std::int64_t i, std::int64_t visible) {
  std::vector<double> weights;
  const double* query = head.query.row(i);
  for (std::int64_t j = 0; j < visible; ++j) {
    weights.push_back(head.softmax_scale *
                      std::inner_product(query, query + head.key.dim, head.key.row(j), 0.0));
  }
  const double largest = *std::max_element(weights.begin(), weights.end());
  for (double& weight : weights) weight = std::exp(weight - largest);
  return weights;
}

// One row whose weights are rounded to u8, against the largest of their block once the values'
// scales are folded in; the denominator adds them unrounded.
void attend_row(const Head& head, const std::vector<double>& scales, std::int64_t i,
                std::int64_t visible, double* out) {
  std::vector<double> weights = row_weights(head, i, visible);
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (std::size_t j = 0; j < weights.size(); ++j) weights[j] *= scales[j];
  for (std::int64_t first = 0; first < visible; first += kScoreBlock) {
    const std::int64_t end = std::min(first + kScoreBlock, visible);
    const double step = *std::max_element(weights.begin() + first, weights.begin() + end) / 255;
    for (std::int64_t j = first; j < end; ++j) {
      const auto key = static_cast<std::size_t>(j);
      if (weights[key] == 0) continue;
      const double factor = std::nearbyint(weights[key] / step) * step / (scales[key] * sum);
      for (std::int64_t c = 0; c < head.value.dim; ++c) out[c] += factor * head.value.row(j)[c];
    }
  }
}

Matrix attend_rounding_weights(const Head& head, const std::vector<double>& scales) {
  Matrix out(head.query.tokens, head.value.dim);
  for (std::int64_t i = 0; i < head.query.tokens; ++i) {
    const std::int64_t visible =
        head.causal ? head.key.tokens - head.query.tokens + i + 1 : head.key.tokens;
    if (visible > 0) attend_row(head, scales, i, visible, out.row(i));
  }
  return out;
}

Matrix scores_of_one_digit(const Head& head) {
  return attend_unrounded(with_quantized_scores(head, Form::kOneDigit));
}

Matrix scores_of_two_digits(const Head& head) {
  return attend_unrounded(with_quantized_scores(head, Form::kTwoDigits));
}

Matrix values(const Head& head) {
  return attend_unrounded(with_value(head, quantized_value(head).rows));
}

Matrix weights(const Head& head) {
  return attend_rounding_weights(head, quantized_value(head).scales);
}

Matrix joint(const Head& head) {
  Quantized value = quantized_value(head);
  return attend_rounding_weights(
      with_value(with_quantized_scores(head, Form::kOneDigit), std::move(value.rows)),
      value.scales);
}

constexpr Pipeline kParts[] = {
    {"QK", "INT8 codes of Q and K, one digit", scores_of_one_digit},
    {"QK, two digits", "the same with second digits in all scores", scores_of_two_digits},
    {"V", "INT8 codes of V", values},
    {"P", "weights in 1/255 of the largest in their block of 128 keys", weights},
    {"QK, V and P", "the three at once, QK of one digit", joint},
};

}  // namespace

std::span<const Pipeline> library_parts() { return kParts; }

}  // namespace intflash
