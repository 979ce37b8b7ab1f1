// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// `intflash calibrate --query`: which heads need second digits.
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "command.h"

namespace intflash::internal::command {
namespace {

class CalibrateCommand : public Command {
 protected:
  // The arguments for query heads over half as many key heads, of which the last has a bias of its
  // keys in two pairs of channels, turned with the position: what rotary embedding makes of one.
  std::string write_biased(float bias) const {
    constexpr std::int64_t kTokens = 512, kChannels = 64;
    const std::string inputs =
        write_inputs({4, kTokens, kChannels}, {2, kTokens, kChannels}, {2, kTokens, kChannels});
    const NpyArray array = read_npy(path("k.npy"));
    std::vector<float> keys(floats(array), floats(array) + array.num_elements());
    for (const std::int64_t pair : {20, 27}) {
      const double frequency = std::pow(1e4, -2.0 * static_cast<double>(pair) / kChannels);
      for (std::int64_t j = 0; j < kTokens; ++j) {
        float* key = keys.data() + (kTokens + j) * kChannels;
        const double angle = static_cast<double>(j) * frequency;
        key[pair] += bias * static_cast<float>(std::cos(angle));
        key[pair + kChannels / 2] += bias * static_cast<float>(std::sin(angle));
      }
    }
    write_npy_files(std::vector<NpyOutput>{{path("k.npy"), array.shape, keys.data()}});
    return inputs;
  }

  Json calibrate(const std::string& arguments) const {
    const Result result = run("calibrate --json " + arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    return Json::parse(result.out);
  }
};

TEST_F(CalibrateCommand, NormalKeysDoWithOneDigit) {
  const Json report = calibrate("--causal " + write_biased(0));
  EXPECT_EQ(report["codec"], "int8");
  ASSERT_EQ(report["heads"].size(), 4u);
  for (const Json& head : report["heads"]) {
    EXPECT_FALSE(head["needs_digits"]);
    EXPECT_LT(head["share_with_digits"], 0.01);
    EXPECT_LT(head["rel_l1_one_digit"], 0.02);
    EXPECT_LT(head["rel_l1_two_digits"], head["rel_l1_one_digit"]);
  }
}

TEST_F(CalibrateCommand, HeadsOfKeysWithATurningBiasNeedSecondDigits) {
  const std::string inputs = write_biased(150);
  const Json report = calibrate(inputs);
  EXPECT_EQ(report["codec"], "int8_wide");
  EXPECT_EQ(report["score_digits"], 0);
  for (std::size_t h = 0; h < 4; ++h) {
    SCOPED_TRACE(h);
    const Json& head = report["heads"][h];
    const bool is_biased = h >= 2;
    EXPECT_EQ(head["needs_digits"], is_biased);
    if (is_biased) {
      EXPECT_GT(head["share_with_digits"], 0.9);
      EXPECT_GT(head["rel_l1_one_digit"], 0.05);
      EXPECT_LT(head["rel_l1_as_needed"], 0.02);
    }
  }
  const Result text = run("calibrate " + inputs);
  EXPECT_EQ(text.code, 0);
  EXPECT_NE(text.out.find("int8_wide: one digit is too coarse for heads 2, 3\n"), std::string::npos)
      << text.out;
}

// Of calls of so few rows all are sampled.
TEST_F(CalibrateCommand, ErrorsOfHeadsAreThoseOfCompare) {
  const std::string inputs =
      "--causal --softmax-scale 0.5 " + write_inputs({1, 60, 64}, {1, 300, 64}, {1, 300, 64});
  const Json report = calibrate(inputs);
  EXPECT_EQ(report["sampled_rows"], 60);
  const Json& head = report["heads"][0];
  const Json compared = Json::parse(run("compare --json " + inputs).out);
  for (const Json& row : compared["rows"]) {
    const double error = row["error"]["rel_l1"];
    if (row["name"] == "intflash int8") {
      EXPECT_NEAR(head["rel_l1_as_needed"], error, 1e-6);
    } else if (row["name"] == "intflash int8, one digit") {
      EXPECT_NEAR(head["rel_l1_one_digit"], error, 1e-6);
    } else if (row["name"] == "intflash int8, two digits") {
      EXPECT_NEAR(head["rel_l1_two_digits"], error, 1e-6);
    }
  }
}

// A row that takes no second digit in any block has the bits that one digit gives it.
TEST_F(CalibrateCommand, WhereNoScoreTakesASecondDigitOneGivesTheSameBits) {
  const Json report = calibrate("--softmax-scale 0.001 " + write_biased(0));
  EXPECT_EQ(report["score_digits"], 1);
  for (const Json& head : report["heads"]) {
    EXPECT_EQ(head["share_with_digits"], 0);
    EXPECT_EQ(head["rel_l1_one_digit"], head["rel_l1_as_needed"]);
  }
}

TEST_F(CalibrateCommand, SamplesRowsFromAllOverALongQuery) {
  // Only the rows from 100 on see large keys.
  const std::string inputs = write_inputs({1, 400, 64}, {1, 400, 64}, {1, 400, 64});
  const NpyArray array = read_npy(path("k.npy"));
  std::vector<float> keys(floats(array), floats(array) + array.num_elements());
  for (std::size_t i = 128 * 64; i < keys.size(); ++i) keys[i] *= 100;
  write_npy_files(std::vector<NpyOutput>{{path("k.npy"), array.shape, keys.data()}});
  const Json causal = calibrate("--causal " + inputs);
  EXPECT_EQ(causal["sampled_rows"], 128);
  // Of 400 rows 272 see 128 keys with one digit, and up to 272 with two.
  const double with_digits = 272.0 * 273 / 2;
  EXPECT_NEAR(causal["heads"][0]["share_with_digits"], with_digits / (400.0 * 401 / 2), 0.01);
}

TEST_F(CalibrateCommand, SampledRowsSeeWhatTheMaskLeavesThem) {
  const std::string inputs = write_inputs({1, 400, 64}, {1, 400, 64}, {1, 400, 64});
  const NpyArray array = read_npy(path("k.npy"));
  std::vector<float> keys(floats(array), floats(array) + array.num_elements());
  // Only the last of eight runs of rows sees large keys.
  for (std::size_t i = 384 * 64; i < keys.size(); ++i) keys[i] *= 100;
  write_npy_files(std::vector<NpyOutput>{{path("k.npy"), array.shape, keys.data()}});
  const double seen_by_few = calibrate("--causal " + inputs)["heads"][0]["rel_l1_one_digit"];
  const double seen_by_all = calibrate(inputs)["heads"][0]["rel_l1_one_digit"];
  EXPECT_LT(2 * seen_by_few, seen_by_all);
}

TEST_F(CalibrateCommand, WritesCentresBesideTheReport) {
  const std::string inputs = write_small_inputs();
  const Json report = calibrate(inputs + " --key-center '" + path("kc.npy") + "' --value-center '" +
                                path("vc.npy") + "'");
  EXPECT_EQ(report["heads"].size(), 4u);
  EXPECT_EQ(read_npy(path("kc.npy")).shape, (Shape{2, 32}));
}

TEST_F(CalibrateCommand, RefusesWhatSaysNothing) {
  const std::string inputs = write_small_inputs();
  const std::string pair = "--key '" + path("k.npy") + "' --value '" + path("v.npy") + "'";
  expect_failure("calibrate " + pair, 2, "calibrate needs --query, or --key-center");
  expect_failure("calibrate --json --key-center a.npy --value-center b.npy " + pair, 2, "--query");
  expect_failure("calibrate --key-center a.npy " + inputs, 2, "--value-center");
  expect_failure("calibrate --query '" + path("none.npy") + "' " + pair, 1, "none.npy");
}

}  // namespace
}  // namespace intflash::internal::command
