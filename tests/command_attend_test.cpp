// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What `intflash attend` computes, by its options: against the definition, and on every port.
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "command.h"

namespace intflash::internal::command {
namespace {

TEST_F(Command, AttendPrintsExactlyTheDocumentedKeys) {
  const std::string inputs = write_small_inputs();
  const std::set<std::string> keys = {
      "port", "kernel", "mode", "threads", "seconds_quantize", "seconds_attention", "gops"};
  const Result result = run("attend " + inputs + " --json --threads 1");
  ASSERT_EQ(result.code, 0) << result.err;
  const Json report = Json::parse(result.out);
  EXPECT_EQ(keys_of(report), keys);
  EXPECT_EQ(report["mode"], "int8");
  EXPECT_EQ(report["threads"], 1);
  EXPECT_GT(report["gops"], 0);

  const Json checked = Json::parse(run("attend " + inputs + " --json --check").out);
  EXPECT_EQ(keys_of(checked["error"]),
            (std::set<std::string>{"rel_l1", "rmse", "cosine", "max_abs"}));
  EXPECT_LT(checked["error"]["rel_l1"], 0.02);
  EXPECT_GT(checked["error"]["cosine"], 0.999);
}

TEST_F(Command, EveryModeAndOptionOfAttendRuns) {
  const std::string inputs = write_small_inputs();
  for (const char* options :
       {"--mode exact", "--mode intfa", "--causal", "--window 0", "--window 7 --causal",
        "--softmax-scale 0.3", "--score-cap 20", "--center none", "--center k", "--center kv",
        "--rotate on", "--rotate off", "--threads 2", "--isa scalar"}) {
    const Result result = run("attend " + inputs + " --json --check " + options);
    ASSERT_EQ(result.code, 0) << options << ": " << result.err;
    EXPECT_LT(Json::parse(result.out)["error"]["rel_l1"], 0.1) << options;
  }
  const Result text = run("attend " + inputs + " --check");
  EXPECT_EQ(text.code, 0);
  EXPECT_NE(text.out.find("GOP/s"), std::string::npos);
  EXPECT_NE(text.out.find("relative L1"), std::string::npos);
}

TEST_F(Command, TheExactModeHasNoError) {
  const Result result = run("attend " + write_small_inputs() + " --mode exact --check --json");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(Json::parse(result.out)["error"]["max_abs"], 0);
}

TEST_F(Command, AnAdditiveMaskIsBroadcastAsNumpyDoes) {
  for (const Shape& shape :
       {Shape{kKeys}, Shape{kQueries, kKeys}, Shape{kHeads, 1, kKeys},
        Shape{kBatch, 1, kQueries, kKeys}, Shape{kBatch, kHeads, kQueries, kKeys}}) {
    const std::string option = write_mask("m.npy", shape);
    const NpyArray mask = read_npy(path("m.npy"));
    const auto length = [&](std::size_t axis_from_end) {
      return axis_from_end > shape.size() ? 1 : shape[shape.size() - axis_from_end];
    };
    expect_definition(option, [&](std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) {
      const std::int64_t row = (b % length(4) * length(3) + h % length(3)) * length(2);
      return static_cast<double>(floats(mask)[(row + i % length(2)) * kKeys + j]);
    });
  }
}

TEST_F(Command, AMaskOfBytesKeepsTheKeysWhereItIsNotZero) {
  std::string mask;
  for (std::int64_t i = 0; i < kQueries * kKeys; ++i) mask += i % kKeys % 4 == 1 ? '\0' : '\2';
  for (const char* descr : {"|b1", "|u1"}) {
    const std::string header = std::string("{'descr': '") + descr +
                               "', 'fortran_order': False, 'shape': (" + std::to_string(kQueries) +
                               ", " + std::to_string(kKeys) + ")}";
    std::string file("\x93NUMPY\1\0", 8);
    file += {static_cast<char>(header.size()), '\0'};
    std::ofstream(path("m.npy"), std::ios::binary) << file << header << mask;
    expect_definition(" --additive-mask '" + path("m.npy") + "'",
                      [](std::int64_t, std::int64_t, std::int64_t, std::int64_t j) {
                        return j % 4 == 1 ? -INFINITY : 0.0;
                      });
  }
  expect_failure("attend " + write_small_inputs() + " --sinks '" + path("m.npy") + "'", 1,
                 "m.npy: dtype '|u1' is not supported");
}

TEST_F(Command, SinksJoinTheDenominators) {
  const float sinks[kHeads] = {2, -INFINITY, 0.5f, -3};
  write_npy_files(std::vector<NpyOutput>{{path("s.npy"), {kHeads}, sinks}});
  expect_definition(
      " --sinks '" + path("s.npy") + "'",
      [](std::int64_t, std::int64_t, std::int64_t, std::int64_t) { return 0.0; },
      [&](std::int64_t h) { return static_cast<double>(sinks[h]); });
}

TEST_F(Command, AlibiTakesSlopeTimesDistance) {
  const auto distance = [](std::int64_t i, std::int64_t j) {
    return std::fabs(static_cast<double>(kKeys - kQueries + i - j));
  };
  expect_definition(" --alibi", [&](std::int64_t, std::int64_t h, std::int64_t i, std::int64_t j) {
    const double slopes[kHeads] = {1.0 / 4, 1.0 / 16, 1.0 / 64, 1.0 / 256};
    return -slopes[h] * distance(i, j);
  });
  const float slopes[kHeads] = {0.5f, 0, 0.25f, 2};
  write_npy_files(std::vector<NpyOutput>{{path("a.npy"), {kHeads}, slopes}});
  expect_definition(" --alibi-slopes '" + path("a.npy") + "'",
                    [&](std::int64_t, std::int64_t h, std::int64_t i, std::int64_t j) {
                      return -static_cast<double>(slopes[h]) * distance(i, j);
                    });
}

TEST_F(Command, EveryQuerySeesThePrefix) {
  expect_definition(" --causal --prefix-len 7",
                    [](std::int64_t, std::int64_t, std::int64_t i, std::int64_t j) {
                      return j < 7 || j <= kKeys - kQueries + i ? 0.0 : -INFINITY;
                    });
}

TEST_F(Command, ACausalMaskIsAlignedWithEitherCorner) {
  expect_definition(" --mask causal",
                    [](std::int64_t, std::int64_t, std::int64_t i, std::int64_t j) {
                      return j <= kKeys - kQueries + i ? 0.0 : -INFINITY;
                    });
  expect_definition(" --mask causal-top-left",
                    [](std::int64_t, std::int64_t, std::int64_t i, std::int64_t j) {
                      return j <= i ? 0.0 : -INFINITY;
                    });
}

TEST_F(Command, MasksAndSinksThatDoNotFitAreNamed) {
  const std::string attend = "attend " + write_small_inputs();
  expect_failure(attend + write_mask("m.npy", {40, 39}), 1,
                 "m.npy: shape (40, 39) does not fit [batch, heads, query_len, kv_len] = [1, 4, "
                 "40, 40]");
  expect_failure(attend + write_mask("m.npy", {40, 1}), 1, "m.npy: shape (40, 1)");
  expect_failure(attend + write_mask("m.npy", {2, 40, 40}), 1, "m.npy: shape (2, 40, 40)");
  expect_failure(attend + write_mask("m.npy", {1, 1, 1, 1, 40}), 1, "m.npy: shape");
  expect_failure(attend + write_mask("m.npy", {}), 1, "m.npy: shape ()");
  expect_failure(attend + " --sinks '" + write_normal("s.npy", {2}, 1) + "'", 1,
                 "s.npy: shape (2) is not [heads] = [4]");
  expect_failure(attend + " --alibi-slopes '" + write_normal("a.npy", {4, 1}, 1) + "'", 1,
                 "a.npy: shape (4, 1) is not [heads] = [4]");
  expect_failure(attend + " --alibi --alibi-slopes a.npy", 2, "excludes");
  expect_failure(attend + " --window 3 --prefix-len 3", 2, "excludes");
  for (const char* other : {"--causal", "--window 3", "--prefix-len 3"}) {
    expect_failure(attend + " --mask none " + other, 2, "excludes");
  }
  expect_failure(attend + " --prefix-len 41", 1, "prefix_len");
  expect_failure(attend + " --prefix-len -1", 2, "-1");
  expect_failure(attend + " --alibi --mode intfa", 1, "INTFA");
}

TEST_F(Command, AWindowOfZeroKeysGivesTheValueOfTheQuerysOwnToken) {
  const std::string inputs = write_inputs({1, 8, 16}, {1, 8, 16}, {1, 8, 16});
  ASSERT_EQ(run("attend " + inputs + " --window 0 --mode exact --out '" + path("o.npy") + "'").code,
            0);
  EXPECT_EQ(read_npy(path("o.npy")).data, read_npy(path("v.npy")).data);
}

TEST_F(Command, NoKeysGiveZerosAndMinusInfinity) {
  const std::string inputs = write_inputs({2, 3, 16}, {1, 0, 16}, {1, 0, 16});
  const Result result = run("attend " + inputs + " --check --out '" + path("o.npy") + "' --lse '" +
                            path("l.npy") + "'");
  ASSERT_EQ(result.code, 0) << result.err;
  const NpyArray out = read_npy(path("o.npy")), lse = read_npy(path("l.npy"));
  EXPECT_EQ(out.data, std::vector<std::byte>(out.data.size()));
  for (std::int64_t i = 0; i < lse.num_elements(); ++i) {
    EXPECT_EQ(reinterpret_cast<const float*>(lse.data.data())[i], -INFINITY);
  }
}

TEST_F(Command, EveryPortWritesTheSameBytes) {
  const std::string inputs = write_inputs({3, 150, 72}, {1, 150, 72}, {1, 150, 40});
  const std::string outputs = " --out '" + path("o.npy") + "' --lse '" + path("l.npy") + "'";
  ASSERT_EQ(run("attend --isa scalar --causal " + inputs + outputs).code, 0);
  const std::string out = read_text(path("o.npy")), lse = read_text(path("l.npy"));
  for (const std::string& port : supported_ports()) {
    const Result result = run("attend --json --causal --isa " + port + " " + inputs + outputs);
    ASSERT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(Json::parse(result.out)["port"], port);
    EXPECT_TRUE(read_text(path("o.npy")) == out) << port;
    EXPECT_TRUE(read_text(path("l.npy")) == lse) << port;
  }
}

// Of the inputs shipped with the project.
struct Shipped {
  std::string query;  // path of ..._q.npy; key and value are called ..._k.npy and ..._v.npy
  bool causal;
  double most_rel_l1;
};

std::vector<Shipped> shipped_inputs() {
  std::vector<Shipped> inputs;
  for (const auto& entry : fs::recursive_directory_iterator(INTFLASH_DATA_DIR)) {
    const std::string query = entry.path().string();
    if (!query.ends_with("_q.npy")) continue;
    const bool decoder = entry.path().filename().string().starts_with("tinyllama");
    inputs.push_back({query, decoder, decoder ? 0.0105 : 0.007});
  }
  return inputs;
}

TEST_F(Command, RealInputsMeetTheirErrorAndEveryPortAgrees) {
  const std::vector<Shipped> inputs = shipped_inputs();
  ASSERT_FALSE(inputs.empty()) << "no *_q.npy in " INTFLASH_DATA_DIR;
  for (const Shipped& input : inputs) {
    const std::string stem =
        input.query.substr(0, input.query.size() - std::string("q.npy").size());
    const std::string arguments = "attend --query '" + stem + "q.npy' --key '" + stem +
                                  "k.npy' --value '" + stem + "v.npy' --json --out '" +
                                  path("o.npy") + "'" + (input.causal ? " --causal" : "");
    SCOPED_TRACE(arguments);
    const Result best = run(arguments + " --check");
    ASSERT_EQ(best.code, 0) << best.err;
    EXPECT_LE(Json::parse(best.out)["error"]["rel_l1"], input.most_rel_l1);
    const std::string out = read_text(path("o.npy"));
    for (const std::string& port : supported_ports()) {
      ASSERT_EQ(run(arguments + " --isa " + port).code, 0);
      EXPECT_TRUE(read_text(path("o.npy")) == out) << port;
    }
  }
}

}  // namespace
}  // namespace intflash::internal::command
