// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The roundings, and what each format rounds by which.
#include "storage_formats.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "core/rotation.h"
#include "tile/rotation.h"
#include "tile/row_ops.h"
#include "tile/value_codes.h"

namespace intflash {
namespace {

constexpr std::int64_t kBlockTokens = 64;  // that share what FlashQ has by channel

double round_to_integer(double value) { return std::nearbyint(value); }
double round_to_f16(double value) { return round_to_float(value, 10, -14, 65504); }
double round_to_bf16(double value) { return round_to_float(value, 7, -126, 0x1.fep127); }

template <double (*kRound)(double)>
Matrix unscaled(const Matrix& x) {
  Matrix result = x;
  for (double& element : result.data) element = kRound(element);
  return result;
}

double largest_of(const Matrix& x, std::int64_t token) {
  double largest = 0;
  for (std::int64_t c = 0; c < x.dim; ++c) largest = std::max(largest, std::fabs(x.row(token)[c]));
  return largest;
}

// Each token times what makes its largest magnitude that of the format.
template <double (*kRound)(double), int kLargest>
Matrix per_token(const Matrix& x) {
  Matrix result = x;
  for (std::int64_t t = 0; t < x.tokens; ++t) {
    const double scale = largest_of(x, t) / kLargest;
    for (std::int64_t c = 0; scale > 0 && c < x.dim; ++c)
      result.row(t)[c] = kRound(x.row(t)[c] / scale) * scale;
  }
  return result;
}
constexpr Rounding int8_per_token = per_token<round_to_integer, 127>;
constexpr Rounding int4_per_token = per_token<round_to_integer, 7>;

// The smallest power of 2^(1/64) that is not below a token's largest magnitude / 127.
double value_scale(const Matrix& x, std::int64_t token) {
  return std::exp2(std::ceil(64 * std::log2(largest_of(x, token) / 127)) / 64);
}

// The library's INT8 codes of values.
Matrix int8_values(const Matrix& x) {
  Matrix result = x;
  for (std::int64_t t = 0; t < x.tokens; ++t) {
    const double scale = value_scale(x, t);
    for (std::int64_t c = 0; scale > 0 && c < x.dim; ++c)
      result.row(t)[c] = std::nearbyint(x.row(t)[c] / scale) * scale;
  }
  return result;
}

// FlashQ of TurboAttention (arXiv 2412.08585, section 3.1) on INT8 codes per token: in a block of
// 64 tokens each channel's codes lie between its least one and 15 steps above, both integers.
Matrix flash_q(const Matrix& x) {
  Matrix result = x;
  for (std::int64_t first = 0; first < x.tokens; first += kBlockTokens) {
    const std::int64_t end = std::min(first + kBlockTokens, x.tokens);
    std::vector<double> scales, codes(static_cast<std::size_t>(end - first));
    for (std::int64_t t = first; t < end; ++t) scales.push_back(largest_of(x, t) / 127);
    for (std::int64_t c = 0; c < x.dim; ++c) {
      for (std::size_t i = 0; i < codes.size(); ++i) {
        const double element = x.row(first + static_cast<std::int64_t>(i))[c];
        codes[i] = scales[i] > 0 ? std::nearbyint(element / scales[i]) : 0;
      }
      const auto [least, most] = std::minmax_element(codes.begin(), codes.end());
      const double zero = *least, step = std::max(std::ceil((*most - zero) / 15), 1.0);
      for (std::size_t i = 0; i < codes.size(); ++i) {
        const double code = zero + step * std::nearbyint((codes[i] - zero) / step);
        result.row(first + static_cast<std::int64_t>(i))[c] = std::min(code, 127.0) * scales[i];
      }
    }
  }
  return result;
}

// Values of codec k8v4, by the library's own search.
Matrix sixteen_levels(const Matrix& x) {
  Matrix result = x;
  std::vector<std::int8_t> codes(static_cast<std::size_t>(x.dim));
  std::vector<std::uint8_t> levels(codes.size());
  for (std::int64_t t = 0; t < x.tokens; ++t) {
    auto scale = static_cast<float>(value_scale(x, t));
    for (std::int64_t c = 0; scale > 0 && c < x.dim; ++c)
      codes[static_cast<std::size_t>(c)] =
          static_cast<std::int8_t>(std::nearbyint(x.row(t)[c] / static_cast<double>(scale)));
    internal::code_values<internal::RowLoops>(codes.data(), x.dim, scale, levels.data());
    for (std::int64_t c = 0; c < x.dim; ++c)
      result.row(t)[c] =
          static_cast<double>(scale) * internal::kLevels.level[levels[static_cast<std::size_t>(c)]];
  }
  return result;
}

constexpr StorageFormat all_of(const char* name, const char* what, Rounding round) {
  return {name, what, round, round, round};
}
constexpr StorageFormat kFormats[] = {
    all_of("f16", "binary16", unscaled<round_to_f16>),
    all_of("bf16", "bfloat16", unscaled<round_to_bf16>),
    {"int8", "the library's: INT8 per token, V's scales on a grid", int8_per_token, int8_per_token,
     int8_values},
    all_of("e4m3", "per token, the largest at 448", per_token<round_to_e4m3, 448>),
    all_of("e4m3 unscaled", "as it is, at most 448", unscaled<round_to_e4m3>),
    all_of("e5m2", "per token, the largest at 57344", per_token<round_to_e5m2, 57344>),
    all_of("e5m2 unscaled", "as it is, at most 57344", unscaled<round_to_e5m2>),
    {"k8v4", "codec k8v4: K as int8, V one of 16 levels per token; Q in int8", int8_per_token,
     int8_per_token, sixteen_levels},
    {"flashq4", "K and V int8 per token, then 4 bits by channel and 64 tokens; Q in int8",
     int8_per_token, flash_q, flash_q},
    {"flashq4, 16 levels", "K as flashq4, V as k8v4; Q in int8", int8_per_token, flash_q,
     sixteen_levels},
    {"int4", "K and V in -7 ... 7 per token; Q in int8", int8_per_token, int4_per_token,
     int4_per_token},
};

}  // namespace

std::span<const StorageFormat> storage_formats() { return kFormats; }

Matrix stored(Rounding round, const Matrix& x, bool rotated) {
  if (!rotated) return round(x);
  Matrix turned = x;
  std::vector<float> row(static_cast<std::size_t>(x.dim));
  for (std::int64_t t = 0; t < x.tokens; ++t) {
    std::transform(x.row(t), x.row(t) + x.dim, row.begin(),
                   [](double element) { return static_cast<float>(element); });
    internal::rotate_row<internal::RowLoops>(row.data(), internal::rotation_signs(true), row.data(),
                                             x.dim);
    std::copy(row.begin(), row.end(), turned.row(t));
  }
  turned = round(turned);
  for (std::int64_t t = 0; t < x.tokens; ++t) {
    std::copy(turned.row(t), turned.row(t) + x.dim, row.begin());
    internal::rotate_back(row.data(), x.dim);
    std::copy(row.begin(), row.end(), turned.row(t));
  }
  return turned;
}

}  // namespace intflash
