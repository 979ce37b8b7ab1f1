// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The error figures against values worked out by hand, and their edges: zeros, infinities, NaN,
// nothing.
#include "error_metrics.h"

#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include <gtest/gtest.h>

namespace intflash::internal {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

ErrorMetrics measure(const std::vector<float>& value, const std::vector<float>& reference) {
  return measure_error(std::span<const float>(value), std::span<const float>(reference));
}

TEST(ErrorMetrics, FiguresAreThoseOfTheirDefinitions) {
  const ErrorMetrics error = measure({1, 2, 3, 8}, {1, 2, 5, 7});
  EXPECT_DOUBLE_EQ(error.rel_l1, 3.0 / 15);
  EXPECT_DOUBLE_EQ(error.rmse, std::sqrt(5.0 / 4));
  EXPECT_DOUBLE_EQ(error.cosine, 76 / (std::sqrt(78.0) * std::sqrt(79.0)));
  EXPECT_DOUBLE_EQ(error.max_abs, 2);
  EXPECT_EQ(error.worst_index, 2);
  EXPECT_EQ(error.worst_value, 3);
  EXPECT_EQ(error.worst_reference, 5);
}

TEST(ErrorMetrics, EqualArraysHaveNoError) {
  const ErrorMetrics error = measure({1, -2, 3}, {1, -2, 3});
  EXPECT_EQ(error.rel_l1, 0);
  EXPECT_EQ(error.rmse, 0);
  EXPECT_NEAR(error.cosine, 1, 1e-15);
  EXPECT_EQ(error.max_abs, 0);
  EXPECT_EQ(error.worst_index, 0);
}

TEST(ErrorMetrics, DoublesAreNotRoundedToFloat) {
  const std::vector<double> value = {1 + 1e-12}, reference = {1};
  const ErrorMetrics error =
      measure_error(std::span<const double>(value), std::span<const double>(reference));
  EXPECT_NEAR(error.rel_l1, 1e-12, 1e-15);
}

TEST(ErrorMetrics, SumsDoNotOverflowOrVanishInFloat) {
  const ErrorMetrics large = measure({3e38f, 3e38f}, {1.5e38f, 3e38f});
  EXPECT_NEAR(large.rel_l1, 1.0 / 3, 1e-6);
  const std::vector<float> value(1 << 20, 1 + 0x1p-20f), reference(1 << 20, 1);
  EXPECT_NEAR(measure(value, reference).rel_l1, 0x1p-20, 1e-12);
}

TEST(ErrorMetrics, NothingDiffersFromNothing) {
  const ErrorMetrics error = measure({}, {});
  EXPECT_EQ(error.rel_l1, 0);
  EXPECT_EQ(error.rmse, 0);
  EXPECT_EQ(error.cosine, 1);
  EXPECT_EQ(error.worst_index, -1);
}

TEST(ErrorMetrics, ZeroIsRightAndAnythingBesideZeroIsInfinitelyWrong) {
  const ErrorMetrics right = measure({0, -0.0f}, {0, 0});
  EXPECT_EQ(right.rel_l1, 0);
  EXPECT_EQ(right.cosine, 1);
  const ErrorMetrics wrong = measure({0, 1}, {0, 0});
  EXPECT_EQ(wrong.rel_l1, kInf);
  EXPECT_EQ(wrong.cosine, 0);
  EXPECT_EQ(wrong.worst_index, 1);
}

TEST(ErrorMetrics, ANanIsTheWorstElementWhereverItStands) {
  for (std::size_t position = 0; position < 4; ++position) {
    std::vector<float> value = {1, 2, 3, 4};
    const std::vector<float> reference = {1, 9, 3, 5};
    value[position] = kNan;
    const ErrorMetrics error = measure(value, reference);
    EXPECT_TRUE(std::isnan(error.rel_l1));
    EXPECT_TRUE(std::isnan(error.rmse));
    EXPECT_TRUE(std::isnan(error.cosine));
    EXPECT_TRUE(std::isnan(error.max_abs));
    EXPECT_EQ(error.worst_index, static_cast<std::int64_t>(position));
    EXPECT_TRUE(std::isnan(measure(reference, value).rel_l1));
  }
}

TEST(ErrorMetrics, AnExpectedInfinityIsRightAndAnyOtherIsWrong) {
  const ErrorMetrics right = measure({-kInf, 2}, {-kInf, 2});
  EXPECT_EQ(right.rel_l1, 0);
  EXPECT_NEAR(right.cosine, 1, 1e-15);
  for (const auto& [value, reference] : {std::pair{kInf, -kInf}, {kInf, 1.0f}, {1.0f, kInf}}) {
    const ErrorMetrics wrong = measure({value, 2}, {reference, 2});
    EXPECT_EQ(wrong.max_abs, kInf);
    EXPECT_FALSE(wrong.rel_l1 <= 1);
    EXPECT_EQ(wrong.worst_index, 0);
  }
}

}  // namespace
}  // namespace intflash::internal
