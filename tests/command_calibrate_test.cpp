// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// `intflash calibrate --query`: which heads need second digits; and with --budget, which codec each
// layer gets.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "command.h"
#include "intflash/intflash.hpp"

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

// Layers 3 and 7, whose queries see all keys: those of 7 are short, so that few bits of keys cost
// little there.
class BudgetCommand : public CalibrateCommand {
 protected:
  static constexpr std::int64_t kTokens = 704, kDim = 32;

  std::string write_layers() const {
    for (const unsigned layer : {3u, 7u}) {
      const std::string name = std::to_string(layer) + "_";
      write_normal(name + "q.npy", {2, 10, kDim}, layer);
      write_normal(name + "k.npy", {1, kTokens, kDim}, layer + 1);
      write_normal(name + "v.npy", {1, kTokens, kDim}, layer + 2);
    }
    const NpyArray array = read_npy(path("7_k.npy"));
    std::vector<float> keys(floats(array), floats(array) + array.num_elements());
    for (float& key : keys) key *= 0.1f;
    write_npy_files(std::vector<NpyOutput>{{path("7_k.npy"), array.shape, keys.data()}});
    return "--layers 3,7-7 " + files("{}_");
  }
  std::string files(const std::string& name) const {
    return "--query '" + path(name + "q.npy") + "' --key '" + path(name + "k.npy") + "' --value '" +
           path(name + "v.npy") + "'";
  }
};

TEST_F(BudgetCommand, SpendsItsBytesWhereTheySaveMostError) {
  const std::string layers = write_layers() + " ";
  // int8 has 2 * 32 + 12 bytes.
  const Json report = calibrate(layers + "--budget 71 --out '" + path("c.json") + "' --report '" +
                                path("c.svg") + "'");
  EXPECT_EQ(Json::parse(read_text(path("c.json"))), report);
  ASSERT_EQ(report["layers"].size(), 2u);
  double best = INFINITY, chosen = 0, bytes = 0;
  for (const Json& a : report["layers"][0]["codecs"]) {
    for (const Json& b : report["layers"][1]["codecs"]) {
      const double total = a["bytes_per_token"].get<double>() + b["bytes_per_token"].get<double>();
      const double damage =
          std::pow(a["rel_l1"].get<double>(), 2) + std::pow(b["rel_l1"].get<double>(), 2);
      if (total <= 2 * 71) best = std::min(best, damage);
    }
  }
  for (const Json& layer : report["layers"]) {
    bytes += layer["bytes_per_token"].get<double>() / 2;
    chosen += std::pow(layer["rel_l1"].get<double>(), 2);
    ASSERT_EQ(layer["groups"].size(), 1u);
    EXPECT_EQ(layer["groups"][0]["kv_heads"], 1);
    EXPECT_EQ(layer["groups"][0]["rel_l1_by_head"].size(), 2u);
    EXPECT_EQ(layer["codecs"][2]["codec"], "int8");
    EXPECT_EQ(layer["codecs"][2]["bytes_per_token"], 76);
  }
  EXPECT_EQ(chosen, best);
  EXPECT_NEAR(report["rel_l1"].get<double>(), std::sqrt(best / 2), 1e-9);
  EXPECT_EQ(report["bytes_per_token"], bytes);
  EXPECT_EQ(report["layers"][0]["layer"], 3);
  EXPECT_EQ(report["layers"][1]["layer"], 7);
  EXPECT_EQ(report["front"][0]["bytes_per_token"],
            report["layers"][0]["codecs"][6]["bytes_per_token"]);
  // Short keys bear four bits: there k4v4 is as good as k8v4, and elsewhere it is not.
  const auto error = [&](int layer, int codec) {
    return report["layers"][layer]["codecs"][codec]["rel_l1"].get<double>();
  };
  EXPECT_GT(error(0, 4), 1.2 * error(0, 3));
  EXPECT_LT(error(1, 4), 1.1 * error(1, 3));
  const std::string picture = read_text(path("c.svg"));
  for (const char* part : {"<svg ", "layer 3<", "layer 7<", "class=\"choice\"", "</svg>"})
    EXPECT_NE(picture.find(part), std::string::npos) << part;

  const Result text = run("calibrate " + layers + "--budget 1000");
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_NE(text.out.find("int8_wide"), std::string::npos) << text.out;
}

// Of a layer on its own, by the names of its files.
TEST_F(BudgetCommand, ErrorsOfCodecsAreThoseOfCompare) {
  write_layers();
  const Json report = calibrate(files("3_") + " --budget 100");
  const Json compared = Json::parse(run("compare --json " + files("3_")).out);
  const std::vector<std::pair<int, std::string>> rows = {{2, "intflash int8, one digit"},
                                                         {3, "cache k8v4, 256 + 64"},
                                                         {4, "cache k4v4, 256 + 64"},
                                                         {5, "cache k4v2, 256 + 64"},
                                                         {6, "cache k2v2, 256 + 64"}};
  for (const auto& [codec, name] : rows) {
    for (const Json& row : compared["rows"]) {
      if (row["name"] != name) continue;
      EXPECT_NEAR(report["layers"][0]["codecs"][codec]["rel_l1"].get<double>(),
                  row["error"]["rel_l1"].get<double>(), 1e-6)
          << name;
    }
  }
}

// Two kv heads of two query heads each, which need different things.
TEST_F(BudgetCommand, ByHeadSpendsItsBytesWhereHeadsNeedThem) {
  write_normal("h_q.npy", {4, 10, kDim}, 1);
  write_normal("h_k.npy", {2, kTokens, kDim}, 2);
  write_normal("h_v.npy", {2, kTokens, kDim}, 3);
  const NpyArray array = read_npy(path("h_k.npy"));
  std::vector<float> keys(floats(array), floats(array) + array.num_elements());
  for (std::size_t i = keys.size() / 2; i < keys.size(); ++i) keys[i] *= 0.1f;
  write_npy_files(std::vector<NpyOutput>{{path("h_k.npy"), array.shape, keys.data()}});
  const Json report = calibrate(files("h_") + " --budget 68 --by-head");
  const Json& layer = report["layers"][0];
  ASSERT_EQ(layer["groups"].size(), 2u);
  double best = INFINITY, chosen = 0, bytes = 0;
  for (const Json& a : layer["codecs"]) {
    for (const Json& b : layer["codecs"]) {
      if (a["bytes_per_token"].get<double>() + b["bytes_per_token"].get<double>() > 2 * 68)
        continue;
      double damage = 0;
      for (const std::size_t head : {0, 1, 2, 3})
        damage += std::pow((head < 2 ? a : b)["rel_l1_by_head"][head].get<double>(), 2) / 4;
      best = std::min(best, damage);
    }
  }
  for (std::size_t g = 0; g < 2; ++g) {
    const Json& group = layer["groups"][g];
    EXPECT_EQ(group["first_kv_head"], g);
    EXPECT_EQ(group["kv_heads"], 1);
    bytes += group["bytes_per_token"].get<double>() / 2;
    ASSERT_EQ(group["rel_l1_by_head"].size(), 2u);
    for (const Json& error : group["rel_l1_by_head"])
      chosen += std::pow(error.get<double>(), 2) / 4;
  }
  EXPECT_NEAR(chosen, best, 1e-12);
  EXPECT_NEAR(layer["rel_l1"].get<double>(), std::sqrt(best), 1e-9);
  EXPECT_NEAR(report["rel_l1"].get<double>(), std::sqrt(best), 1e-9);
  EXPECT_NEAR(report["bytes_per_token"].get<double>(), bytes, 1e-9);
  const Result text = run("calibrate " + files("h_") + " --budget 68 --by-head");
  EXPECT_NE(text.out.find("by head"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("1 " + layer["groups"][0]["codec"].get<std::string>() + ", 1 "),
            std::string::npos)
      << text.out;
  expect_failure("calibrate --by-head " + files("h_"), 2, "--by-head requires --budget");
}

TEST_F(BudgetCommand, MeasuresWithTheCentresThatItWrites) {
  write_layers();
  const NpyArray array = read_npy(path("3_k.npy"));
  std::vector<float> keys(floats(array), floats(array) + array.num_elements());
  for (std::size_t i = 0; i < keys.size(); i += kDim) keys[i] += 200;
  write_npy_files(std::vector<NpyOutput>{{path("3_k.npy"), array.shape, keys.data()}});
  const std::string command = files("3_") + " --budget 100";
  const Json plain = calibrate(command);
  const Json centred = calibrate(command + " --centers --out '" + path("c.json") + "'");
  EXPECT_TRUE(plain["layers"][0]["key_center"].is_null());
  // Each is the float that the other command writes.
  calibrate(files("3_") + " --key-center '" + path("kc.npy") + "' --value-center '" +
            path("vc.npy") + "'");
  std::ifstream file(path("c.json"), std::ios::binary);
  const Calibration loaded(
      [](void* user, void* bytes, std::size_t size) {
        auto& from = *static_cast<std::ifstream*>(user);
        from.read(static_cast<char*>(bytes), static_cast<std::streamsize>(size));
        return static_cast<std::size_t>(from.gcount());
      },
      &file);
  ASSERT_EQ(loaded.num_groups(), 1);
  const intflash_head_group group = loaded.group(0);
  EXPECT_EQ(group.head_dim, kDim);
  EXPECT_NEAR(group.key_center[0], 200, 0.3);
  for (const auto& [name, center] :
       {std::pair("kc.npy", group.key_center), std::pair("vc.npy", group.value_center)}) {
    const NpyArray means = read_npy(path(name));
    EXPECT_TRUE(std::equal(center, center + kDim, floats(means))) << name;
  }
  EXPECT_LT(2 * centred["layers"][0]["codecs"][1]["rel_l1"].get<double>(),
            plain["layers"][0]["codecs"][1]["rel_l1"].get<double>());
}

TEST_F(BudgetCommand, RefusesWhatItCannotMeasureOrMeet) {
  const std::string layers = write_layers();
  expect_failure("calibrate --budget 20 " + layers, 1, "codec k2v2 in all layers");
  expect_failure("calibrate --budget 0 " + layers, 2, "--budget");
  expect_failure("calibrate " + layers, 2, "--layers requires --budget");
  expect_failure("calibrate --centers " + files("3_"), 2, "--centers requires --budget");
  expect_failure("calibrate --budget 99 --key-center a.npy --value-center b.npy " + files("3_"), 2,
                 "--key-center excludes --budget");
  expect_failure("calibrate --budget 99 --layers 3,3 " + files("{}_"), 2, "twice");
  expect_failure("calibrate --budget 99 --layers 7-3 " + files("{}_"), 2, "7-3");
  expect_failure("calibrate --budget 99 --layers 3 " + files("3_"), 2, "{} stands for the number");
  expect_failure("calibrate --budget 99 " + files("{}_"), 2, "{} needs --layers");
  expect_failure("calibrate --budget 99 --layers 3,8 " + files("{}_"), 1, "8_q.npy");
  const NpyArray array = read_npy(path("3_v.npy"));
  std::vector<float> values(floats(array), floats(array) + array.num_elements());
  write_npy_files(
      std::vector<NpyOutput>{{path("3_v.npy"), {1, kTokens - 65, kDim}, values.data()},
                             {path("3_k.npy"), {1, kTokens - 65, kDim}, values.data()}});
  expect_failure("calibrate --budget 99 " + files("3_"), 1, "639 tokens");
  values[5 * kDim + 1] = NAN;
  write_npy_files(std::vector<NpyOutput>{{path("7_v.npy"), {1, kTokens, kDim}, values.data()}});
  expect_failure("calibrate --budget 99 " + files("7_"), 1, "7_v.npy: head 0, token 5");
}

}  // namespace
}  // namespace intflash::internal::command
