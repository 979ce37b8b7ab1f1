// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// TurboAttention and SageAttention in 4 bits as they are simulated: exponential, codes, who shares
// a scale, the choice by head, and what these make of attention.
#include "turbo.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <span>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "error_metrics.h"
#include "seed.h"
#include "synthetic.h"

namespace intflash::internal {
namespace {

double rel_l1(const Matrix& out, const Matrix& reference) {
  return measure_error(std::span<const double>(out.data), std::span<const double>(reference.data))
      .rel_l1;
}

// The figures of the cubic: 4.0e-4, and 1.03e-3 of what it stands for.
TEST(Turbo, TheExponentialErrsAsItsCubicDoesAndEndsAtSix) {
  double absolute = 0, relative = 0;
  for (int i = 0; i <= 60000; ++i) {
    const double x = -i / 10000.0, error = std::fabs(sas_exp(x) - std::exp(x));
    absolute = std::max(absolute, error);
    relative = std::max(relative, error / std::exp(x));
  }
  EXPECT_NEAR(absolute, 4.0e-4, 0.05e-4);
  EXPECT_NEAR(relative, 1.03e-3, 0.01e-3);
  EXPECT_GT(sas_exp(-6), 0.002);
  EXPECT_EQ(sas_exp(std::nextafter(-6.0, -7.0)), 0);
  EXPECT_EQ(sas_exp(-INFINITY), 0);
}

TEST(Turbo, CodesOnAGridOfSixteenOrFourStepsStayWhatTheyAre) {
  for (const int bits : {2, 4}) {
    for (const int step : {1, 3, 7}) {
      std::vector<double> codes;
      for (int q = 0; q < 1 << bits; ++q) codes.push_back(step * (q - 9));
      const std::vector<double> before = codes;
      flash_q(codes, bits);
      EXPECT_EQ(codes, before) << bits << " bits, step " << step;
    }
  }
}

TEST(Turbo, CodesMoveByHalfAStepAtMostOrOneAtTheEndAndStayCodes) {
  std::mt19937 random(static_cast<unsigned>(seed_from_test_name()));
  for (int i = 0; i < 2000; ++i) {
    const int bits = i % 2 == 0 ? 2 : 4, range = 1 + static_cast<int>(random() % 119);
    std::vector<double> codes(64);
    for (double& code : codes)
      code = static_cast<int>(random() % static_cast<unsigned>(2 * range + 1)) - range;
    const auto [least, most] = std::minmax_element(codes.begin(), codes.end());
    const double step = std::ceil((*most - *least) / ((1 << bits) - 1)), end = *most - step / 2;
    std::vector<double> stored = codes;
    flash_q(stored, bits);
    for (std::size_t j = 0; j < codes.size(); ++j) {
      ASSERT_LE(std::fabs(stored[j] - codes[j]), codes[j] < end ? step / 2 : step);
      ASSERT_LE(std::fabs(stored[j]), 127);
      ASSERT_TRUE(std::fmod(stored[j], step) == 0 || std::fabs(stored[j]) == 127) << stored[j];
    }
  }
}

// Two tokens of some ranges by channel.
Matrix of_ranges(const std::vector<double>& ranges) {
  Matrix matrix(2, static_cast<std::int64_t>(ranges.size()));
  for (std::size_t c = 0; c < ranges.size(); ++c) {
    matrix.row(0)[c] = 5 - ranges[c] / 4;
    matrix.row(1)[c] = 5 + 3 * ranges[c] / 4;
  }
  return matrix;
}

TEST(Turbo, HalfOfTheHeadsGetTwoBitsThoseOfLeastGapTimesDeviation) {
  const std::vector<std::vector<double>> ranges = {
      {1, 1, 9, 9},          // gap 8, deviation 4
      {7, 7, 7, 7},          // 0
      {1, 5, 5, 9},          // 8, 2.83: 22.6
      {1.5, 1.5, 8.5, 8.5},  // 7, 3.5: 24.5
      {0, 0, 0, 9},          // 9, 3.9
  };
  std::vector<Head> heads(5);
  for (std::size_t h = 0; h < 5; ++h) {
    heads[h].key = of_ranges(ranges[h]);
    heads[h].value = of_ranges(ranges[4 - h]);
  }
  const std::vector<TurboBits> bits = turbo_bits(heads);
  ASSERT_EQ(bits.size(), 5u);
  for (std::size_t h = 0; h < 5; ++h) {
    EXPECT_EQ(bits[h].key, h == 1 || h == 2 ? 2 : 4) << h;
    EXPECT_EQ(bits[4 - h].value, h == 1 || h == 2 ? 2 : 4) << h;
  }
  // 22.6 against 6 * 3: the larger deviation has the smaller product.
  heads = {heads[2], heads[2]};
  heads[1].key = of_ranges({2, 2, 8, 8});
  EXPECT_EQ(turbo_bits(heads)[1].key, 2);
}

TEST(Turbo, ADecodingRowSeesItsLastBlockInInt8) {
  const Head full = make_head(Distribution::kNormal, 8, 64, 32, seed_from_test_name());
  EXPECT_EQ(attend_turbo(full, {4, 4}).data, attend_turbo(full, {2, 2}).data);
  Head head = make_head(Distribution::kNormal, 140, 140, 32, seed_from_test_name());
  head.causal = true;
  const Matrix four = attend_turbo(head, {4, 4}), two = attend_turbo(head, {2, 2});
  for (std::int64_t i = 0; i < 140; ++i)
    EXPECT_EQ(std::equal(four.row(i), four.row(i) + 32, two.row(i)), i < 64) << i;
}

// Codes that are what INT8 of 119 steps makes of them: what is left is the exponential, and weights
// in 119 steps of the largest in a tile.
TEST(Turbo, APrefillOfCodesRoundsItsWeightsAlone) {
  std::mt19937 random(static_cast<unsigned>(seed_from_test_name()));
  const auto codes = [&](std::int64_t tokens) {
    Matrix x(tokens, 8);
    for (double& element : x.data) element = static_cast<int>(random() % 239) - 119;
    x.data[0] = 119;
    return x;
  };
  const Head head = {codes(30), codes(50), codes(50), 1e-4, true};
  Matrix weights(30, 50), expected(30, 8);
  std::vector<double> sums(30);
  for (std::int64_t i = 0; i < 30; ++i) {
    double* row = weights.row(i);
    const std::int64_t visible = 21 + i;
    for (std::int64_t t = 0; t < visible; ++t) {
      for (std::int64_t c = 0; c < 8; ++c)
        row[t] += head.softmax_scale * head.query.row(i)[c] * head.key.row(t)[c];
    }
    const double most = *std::max_element(row, row + visible);
    for (std::int64_t t = 0; t < visible; ++t) {
      row[t] = sas_exp(row[t] - most);
      sums[static_cast<std::size_t>(i)] += row[t];
    }
  }
  const double step = *std::max_element(weights.data.begin(), weights.data.end()) / 119;
  for (std::int64_t i = 0; i < 30; ++i) {
    for (std::int64_t t = 0; t < 50; ++t) {
      for (std::int64_t c = 0; c < 8; ++c) {
        expected.row(i)[c] += std::nearbyint(weights.row(i)[t] / step) * step *
                              head.value.row(t)[c] / sums[static_cast<std::size_t>(i)];
      }
    }
  }
  EXPECT_LT(rel_l1(pipeline("Turbo").attend(head), expected), 1e-12);
}

// Queries that lie so around 0 that Sage2-4b finds no mean to take from them: what its delta adds
// to scores is then 0.
Head balanced_head() {
  Head head = make_head(Distribution::kNormal, 64, 64, 32, seed_from_test_name());
  for (std::int64_t t = 0; t < 64; ++t) {
    for (std::int64_t c = 0; c < 32 && t % 16 >= 8; ++c)
      head.query.row(t)[c] = -head.query.row(t - 8)[c];
  }
  return head;
}

// In per-thread quantization of 32 queries every eighth one, and of keys two of every eight.
TEST(Sage, RowsThatOneThreadMultipliesShareAScaleOf4Bits) {
  const Head head = balanced_head();
  Head large = head;
  for (std::int64_t c = 0; c < 32; ++c) {
    large.query.row(5)[c] *= 1e6;
    large.query.row(13)[c] *= 1e6;
  }
  const Matrix out = pipeline("Sage2-4b").attend(head), beside = pipeline("Sage2-4b").attend(large);
  const auto distance = [](const double* a, const double* b) {
    double largest = 0;
    for (std::int64_t c = 0; c < 32; ++c) largest = std::max(largest, std::fabs(a[c] - b[c]));
    return largest;
  };
  for (std::int64_t t = 0; t < 64; ++t) {
    const bool shares = t < 32 && t % 8 == 5;
    EXPECT_EQ(distance(beside.row(t), out.row(t)) > 1e-6, shares) << t;
  }
  // All codes are 0: the mean of the values.
  EXPECT_LT(distance(beside.row(21), beside.row(29)), 1e-6);

  large = head;
  large.softmax_scale = 0.01;  // so that these two keys do not take all the weight
  for (std::int64_t c = 0; c < 32; ++c) {
    large.key.row(2)[c] = 50 * head.key.row(2)[c];
    large.key.row(3)[c] = -large.key.row(2)[c];
  }
  const Matrix wide = pipeline("Sage2-4b").attend(large);
  for (const auto& [a, b, shares] : {std::tuple(10, 59, true), std::tuple(8, 57, false)}) {
    Head swapped = large;
    std::swap_ranges(swapped.key.row(a), swapped.key.row(a) + 32, swapped.key.row(b));
    const Matrix after = pipeline("Sage2-4b").attend(swapped);
    double largest = 0;
    for (std::int64_t t = 0; t < 64; ++t)
      largest = std::max(largest, distance(after.row(t), wide.row(t)));
    EXPECT_EQ(largest > 1e-6, !shares) << a;
  }
}

// Queries that equal their block's mean have no codes but 0, and scores of the delta alone.
TEST(Sage, ScoresOfTheMeanQueryAreNotRoundedIn4Bits) {
  Head head = make_head(Distribution::kNormal, 140, 60, 32, seed_from_test_name());
  for (std::int64_t t = 0; t < 140; ++t)
    std::copy_n(head.query.row(t < 128 ? 0 : 128), 32, head.query.row(t));
  Head values = head;  // as e4m3 has them, per channel
  for (std::int64_t c = 0; c < 32; ++c) {
    double largest = 0;
    for (std::int64_t t = 0; t < 60; ++t)
      largest = std::max(largest, std::fabs(head.value.row(t)[c]));
    for (std::int64_t t = 0; t < 60; ++t) {
      values.value.row(t)[c] = round_to_e4m3(head.value.row(t)[c] * 448 / largest) * largest / 448;
    }
  }
  Matrix expected(140, 32);
  for (std::int64_t i = 0; i < 140; ++i) {
    std::vector<double> scores(60);
    for (std::int64_t t = 0; t < 60; ++t) {
      for (std::int64_t c = 0; c < 32; ++c)
        scores[static_cast<std::size_t>(t)] +=
            head.softmax_scale * head.query.row(i)[c] * head.key.row(t)[c];
    }
    const double largest = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (std::int64_t t = 0; t < 60; ++t) {
      const double weight = std::exp(scores[static_cast<std::size_t>(t)] - largest);
      sum += weight;
      for (std::int64_t c = 0; c < 32; ++c)
        expected.row(i)[c] += round_to_e4m3(448 * weight) / 448 * values.value.row(t)[c];
    }
    for (std::int64_t c = 0; c < 32; ++c) expected.row(i)[c] /= sum;
  }
  // The accumulator's 13 bits of fraction.
  EXPECT_LT(rel_l1(pipeline("Sage2-4b").attend(head), expected), 0x1p-13);
}

// Errors that follow from others. Scores that are off by s, at random and each for itself, leave
// out off by s of it; so do values. INT4 with a step of m / 7, m the largest of those that share
// it, is off by a step / sqrt(12); e4m3 P V by 3.9 % (Sage2-8b). FlashQ's K and V have an SQNR
// of 20.5 dB (storage formats, where out has 14.1 %). Turbo has weights in 1/119 of the running
// maximum, which is what errs most, and Sage1-vB in 1/127.
TEST(Turbo, AndSageIn4BitsErrOnNormalInputsAsTheirStepsSay) {
  const Head head = make_head(Distribution::kNormal, 64, 1024, 128, seed_from_test_name());
  const Matrix reference = attend_unrounded(head);
  const auto error_of = [&](const char* name) {
    return rel_l1(pipeline(name).attend(head), reference);
  };
  // The largest of 4 * 128 and of 16 * 128 normal numbers: 3.20 and 3.60.
  const double steps = (3.20 * 3.20 + 3.60 * 3.60) / 49 / 12;
  const double sage = std::sqrt(steps + 0.039 * 0.039);
  EXPECT_NEAR(error_of("Sage2-4b"), sage, 0.1 * sage);
  EXPECT_NEAR(error_of("Turbo-4"), 0.141, 0.015);
  EXPECT_NEAR(error_of("Turbo") / error_of("Sage1-vB"), 127.0 / 119, 0.1);
}

}  // namespace
}  // namespace intflash::internal
