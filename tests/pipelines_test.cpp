// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The simulated pipelines: their 8-bit floating-point numbers one by one, and the errors of each
// against figures of an earlier, independent simulation.
#include "pipelines.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "error_metrics.h"
#include "seed.h"
#include "stopwatch.h"
#include "synthetic.h"

namespace intflash::internal {
namespace {

// ---- FP8 ----

struct Format {
  const char* name;
  double (*round)(double);
  int fraction_bits;
  int bias;
  int num_codes;  // finite codes from 0 up; what follows is infinity or NaN
  double max;
};
constexpr Format kFormats[] = {{"e4m3", round_to_e4m3, 3, 7, 0x7f, 448},
                               {"e5m2", round_to_e5m2, 2, 15, 0x7c, 57344}};

// 2^(exponent - bias) * 1.fraction; codes with exponent 0 are 0.fraction at the lowest exponent.
double number_of(const Format& format, int code) {
  const int fraction = code & ((1 << format.fraction_bits) - 1);
  const int exponent = code >> format.fraction_bits;
  const int hidden = exponent == 0 ? 0 : 1 << format.fraction_bits;
  return std::ldexp(hidden + fraction, std::max(exponent, 1) - format.bias - format.fraction_bits);
}

TEST(Float8, EveryNumberOfTheFormatRoundsToItself) {
  for (const Format& format : kFormats) {
    for (int code = 0; code < format.num_codes; ++code) {
      const double number = number_of(format, code);
      EXPECT_EQ(format.round(number), number) << format.name << " code " << code;
      EXPECT_EQ(format.round(-number), -number) << format.name << " code " << code;
    }
    EXPECT_EQ(number_of(format, format.num_codes - 1), format.max) << format.name;
  }
}

TEST(Float8, WhatLiesBetweenGoesToTheNearestAndTiesToTheEvenCode) {
  for (const Format& format : kFormats) {
    for (int code = 0; code + 1 < format.num_codes; ++code) {
      const double low = number_of(format, code), high = number_of(format, code + 1);
      const double middle = (low + high) / 2;
      EXPECT_EQ(format.round(middle), code % 2 == 0 ? low : high)
          << format.name << " code " << code;
      EXPECT_EQ(format.round(std::nextafter(middle, 0.0)), low) << format.name << " code " << code;
      EXPECT_EQ(format.round(std::nextafter(middle, 1e9)), high) << format.name << " code " << code;
      EXPECT_EQ(format.round(-middle), -format.round(middle)) << format.name << " code " << code;
    }
  }
}

TEST(Float8, WhatLiesBeyondTheLargestSaturates) {
  for (const Format& format : kFormats) {
    for (const double factor : {1.0001, 1.07, 2.0, 1e300}) {
      EXPECT_EQ(format.round(factor * format.max), format.max) << format.name;
      EXPECT_EQ(format.round(-factor * format.max), -format.max) << format.name;
    }
    EXPECT_EQ(format.round(std::numeric_limits<double>::infinity()), format.max) << format.name;
  }
}

// ---- Pipelines ----

Head random_head(std::int64_t query_len, std::int64_t kv_len, std::int64_t head_dim) {
  return make_head(Distribution::kNormal, query_len, kv_len, head_dim, seed_from_test_name());
}

// Row by row, every weight at once.
Matrix softmax_attention(const Head& head) {
  Matrix out(head.query.tokens, head.value.dim);
  for (std::int64_t i = 0; i < head.query.tokens; ++i) {
    double sum = 0;
    for (std::int64_t t = 0; t < head.key.tokens; ++t) {
      if (head.causal && t - i > head.key.tokens - head.query.tokens) continue;
      double score = 0;
      for (std::int64_t c = 0; c < head.key.dim; ++c)
        score += head.query.row(i)[c] * head.key.row(t)[c];
      const double weight = std::exp(head.softmax_scale * score);
      sum += weight;
      for (std::int64_t c = 0; c < head.value.dim; ++c)
        out.row(i)[c] += weight * head.value.row(t)[c];
    }
    for (std::int64_t c = 0; c < head.value.dim; ++c) out.row(i)[c] /= sum > 0 ? sum : 1;
  }
  return out;
}

ErrorMetrics error_of(const Matrix& out, const Matrix& reference) {
  return measure_error(std::span<const double>(out.data), std::span<const double>(reference.data));
}

TEST(Pipelines, UnroundedAttentionIsTheSoftmaxOfItsDefinition) {
  for (const std::int64_t kv_len : {1, 63, 64, 65, 200}) {
    for (const bool causal : {false, true}) {
      Head head = random_head(70, kv_len, 20);
      head.causal = causal;
      EXPECT_LT(error_of(attend_unrounded(head), softmax_attention(head)).max_abs, 1e-13) << kv_len;
    }
  }
}

TEST(Pipelines, ACausalRowEqualsTheRowOverItsVisibleKeysAlone) {
  // Scales that span tokens see the keys that the mask hides, so only what is per token can be
  // compared.
  Head head = random_head(100, 100, 32);
  head.causal = true;
  const Matrix whole = pipeline("half-INT8").attend(head);
  for (const std::int64_t row : {0, 63, 64, 99}) {
    Head alone = head;
    alone.query = Matrix(1, 32);
    std::copy_n(head.query.row(row), 32, alone.query.row(0));
    for (Matrix* matrix : {&alone.key, &alone.value}) {
      matrix->tokens = row + 1;
      matrix->data.resize(static_cast<std::size_t>(32 * (row + 1)));
    }
    const Matrix out = pipeline("half-INT8").attend(alone);
    EXPECT_TRUE(std::equal(out.row(0), out.row(0) + 32, whole.row(row))) << row;
  }
}

TEST(Pipelines, KeysThatAllTokensShareABiasOfChangeNothingWhereKeysAreSmoothed) {
  const Head head = random_head(20, 128, 16);
  Head biased = head;
  for (std::int64_t t = 0; t < 128; ++t) {
    for (std::int64_t c = 0; c < 16; c += 4) biased.key.row(t)[c] += 32;
  }
  for (const char* name : {"Sage2-8b", "Sage2-4b", "Sage1-B", "Sage1-vB", "A", "A7", "B"}) {
    EXPECT_LT(error_of(pipeline(name).attend(biased), pipeline(name).attend(head)).rel_l1, 1e-3)
        << name;
  }
}

TEST(Pipelines, HaveNamesThatDifferAndSurviveInputsOfZero) {
  Head head = random_head(3, 70, 24);
  for (Matrix* matrix : {&head.query, &head.key, &head.value})
    std::fill(matrix->data.begin(), matrix->data.end(), 0.0);
  std::set<std::string> names;
  for (const Pipeline& p : pipelines()) {
    EXPECT_TRUE(names.insert(p.name).second) << p.name;
    EXPECT_EQ(p.attend(head).data, std::vector<double>(3 * 24, 0.0)) << p.name;
  }
}

// Errors against float64 of one head with head_dim 128, 4096 keys and 256 queries, from an earlier
// simulation that shares no code with this one: relative L1 on N(0,1) and on FlashAttention-3's
// outliers, RMSE on U(-0.5, 0.5).
struct KnownErrors {
  const char* name;
  double normal_rel_l1, outliers_rel_l1, uniform_rmse;
};
constexpr KnownErrors kKnownErrors[] = {
    {"FP8 e5m2", 0.104, 0.213, 2.98e-4},   {"FP8 e4m3", 0.053, 0.087, 1.60e-4},
    {"FA3-FP8", 0.053, 0.052, 1.60e-4},    {"Sage2-8b", 0.039, 0.055, 1.69e-4},
    {"Sage1-B", 0.0126, 0.044, 2.13e-6},   {"Sage1-vB", 0.032, 0.075, 2.23e-5},
    {"half-INT8", 0.0090, 0.021, 2.07e-6}, {"A", 0.0123, 0.023, 1.75e-5},
    {"A7", 0.0155, 0.024, 2.06e-5},        {"B", 0.0121, 0.0145, 1.77e-5},
};

struct Sample {
  Head head;
  Matrix reference;
};

std::vector<Sample> samples_of(Distribution distribution, std::int64_t kv_len,
                               std::uint64_t count) {
  std::vector<Sample> samples;
  for (std::uint64_t i = 0; i < count; ++i) {
    Head head = make_head(distribution, 64, kv_len, 128, seed_from_test_name() + i);
    Matrix reference = attend_unrounded(head);
    samples.push_back({std::move(head), std::move(reference)});
  }
  return samples;
}

double median_error(const char* name, const std::vector<Sample>& samples,
                    double ErrorMetrics::*figure) {
  std::vector<double> errors;
  for (const Sample& sample : samples) {
    errors.push_back(error_of(pipeline(name).attend(sample.head), sample.reference).*figure);
  }
  return median(std::move(errors));
}

TEST(PipelinesFull, ErrOnNormalInputsAsKnownAlsoWithFewerKeys) {
  const std::vector<Sample> samples = samples_of(Distribution::kNormal, 1024, 1);
  for (const KnownErrors& known : kKnownErrors) {
    EXPECT_NEAR(median_error(known.name, samples, &ErrorMetrics::rel_l1), known.normal_rel_l1,
                0.25 * known.normal_rel_l1)
        << known.name;
  }
}

TEST(PipelinesFull, ErrOnNormalInputsAsKnown) {
  const std::vector<Sample> samples = samples_of(Distribution::kNormal, 4096, 5);
  for (const KnownErrors& known : kKnownErrors) {
    EXPECT_NEAR(median_error(known.name, samples, &ErrorMetrics::rel_l1), known.normal_rel_l1,
                0.15 * known.normal_rel_l1)
        << known.name;
  }
}

TEST(PipelinesFull, ErrOnUniformInputsAsKnown) {
  // RMSE: outputs are all near the mean of V, and where that happens to lie moves the relative
  // error by a quarter.
  const std::vector<Sample> samples = samples_of(Distribution::kUniform, 4096, 5);
  for (const KnownErrors& known : kKnownErrors) {
    EXPECT_NEAR(median_error(known.name, samples, &ErrorMetrics::rmse), known.uniform_rmse,
                0.15 * known.uniform_rmse)
        << known.name;
  }
}

TEST(PipelinesFull, ErrOnOutliersAsKnown) {
  // A few outliers make the error of a head: single heads lie from 0.6 to 1.6 times their median.
  const std::vector<Sample> samples = samples_of(Distribution::kOutliers, 4096, 5);
  for (const KnownErrors& known : kKnownErrors) {
    const double error = median_error(known.name, samples, &ErrorMetrics::rel_l1);
    EXPECT_GT(error, known.outliers_rel_l1 / 1.6) << known.name;
    EXPECT_LT(error, known.outliers_rel_l1 * 1.6) << known.name;
  }
}

}  // namespace
}  // namespace intflash::internal
