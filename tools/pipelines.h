// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Published attention pipelines with products of 8 bits or fewer, simulated: what each rounds is
// rounded, all else is double precision. One head at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace intflash {

// A row-major matrix: one token a row.
struct Matrix {
  std::int64_t tokens = 0;
  std::int64_t dim = 0;
  std::vector<double> data;  // [tokens][dim]

  Matrix() = default;
  Matrix(std::int64_t tokens_, std::int64_t dim_)
      : tokens(tokens_), dim(dim_), data(static_cast<std::size_t>(tokens_ * dim_)) {}
  double* row(std::int64_t token) { return data.data() + token * dim; }
  const double* row(std::int64_t token) const { return data.data() + token * dim; }
};

struct Head {
  Matrix query;  // [query_len][head_dim]
  Matrix key;    // [kv_len][head_dim]
  Matrix value;  // [kv_len][head_dim_v]
  double softmax_scale;
  bool causal;  // query i sees keys 0 ... kv_len - query_len + i
};

struct Pipeline {
  const char* name;
  const char* what;               // what it rounds, for a legend
  Matrix (*attend)(const Head&);  // -> [query_len][head_dim_v]; rows that see no key are 0
};

// Every pipeline simulated here, in the order in which tables print them.
std::span<const Pipeline> pipelines();
// The pipeline of that name, which must exist.
const Pipeline& pipeline(const char* name);

// Attention without any rounding.
Matrix attend_unrounded(const Head& head);

// The nearest number with so many bits of fraction, of at most max, in steps that no longer shrink
// below 2^min_exponent; ties to even.
double round_to_float(double value, int fraction_bits, int min_exponent, double max);
// The same of the 8-bit floating-point formats of arXiv 2209.05433.
double round_to_e4m3(double value);  // 1.xxx * 2^-6 ... 448, subnormals in steps of 2^-9
double round_to_e5m2(double value);  // 1.xx * 2^-14 ... 57344, subnormals in steps of 2^-16

}  // namespace intflash
