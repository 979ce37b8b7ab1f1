// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The intflash command's other subcommands: what they write and print.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "command.h"

namespace intflash::internal::command {
namespace {

// A pool so small that requests wait for each other's pages.
TEST_F(Command, ServeSimServesEveryRequestAndVerifiesEveryOutput) {
  const Result result = run(
      "serve-sim --requests 20 --rate 1e6 --prompt-mean 60 --output-mean 12 --chunk 40 --shared "
      "0.5 --pages 24 --heads 4 --head-dim 32 --verify --json --threads 2");
  ASSERT_EQ(result.code, 0) << result.err;
  const Json report = Json::parse(result.out);
  EXPECT_EQ(report["requests"], 20);
  EXPECT_GT(report["forked"], 2);
  EXPECT_LT(report["forked"], 18);
  EXPECT_GT(report["pages_peak"], 10);
  EXPECT_LE(report["pages_peak"], 24);
  EXPECT_LE(report["pages_mean"], report["pages_peak"]);
  EXPECT_LE(report["step_seconds_p50"], report["step_seconds_p99"]);
  EXPECT_GT(report["largest_relative_error"], 1e-4);
  EXPECT_LT(report["largest_relative_error"], 0.04);
  expect_failure("serve-sim --pages 2", 2, "--pages 2");
  expect_failure("serve-sim --page-size 70", 1, "page_size");
}

TEST_F(Command, PlanCutsWhatTheMaskLeaves) {
  const auto parts = [&](const std::string& mask) {
    const Result result =
        run("plan --query-len 1 --kv-len 131072 --workers 16 --json --mask " + mask);
    EXPECT_EQ(result.code, 0) << result.err;
    return Json::parse(result.out)["parts_of_cut_ranges"].get<int>();
  };
  EXPECT_GT(parts("causal"), 0);
  EXPECT_EQ(parts("causal-top-left"), 0);
  expect_failure("plan --mask diagonal", 2, "diagonal");
}

TEST_F(Command, PlanSaysHowManyKeysAreReadOnTheirNode) {
  const auto local_reads = [&](const std::string& shape) {
    const Result result = run("plan --workers 16 --nodes 2 --json " + shape);
    EXPECT_EQ(result.code, 0) << result.err;
    return Json::parse(result.out)["local_reads"].get<double>();
  };
  EXPECT_GE(local_reads("--kv-len 131072"), 0.95);
  EXPECT_NEAR(local_reads("--kv-len 65536 --query-len 512"), 0.5, 0.05);
  expect_failure("plan --nodes 17", 2, "--nodes");
}

TEST_F(Command, CalibrateWritesMeansOverTokensOfTheBatch) {
  const std::vector<float> keys = {1, 2, 3, 4, 5, 6, 7, 8, -1, -2, -3, -4, -5, -6, -7, 0};
  write_npy_files(std::vector<NpyOutput>{{path("k.npy"), {2, 2, 2, 2}, keys.data()},
                                         {path("v.npy"), {2, 1, 4}, keys.data()}});
  const std::string command = "calibrate --key '" + path("k.npy") + "' --value '" + path("v.npy") +
                              "' --key-center '" + path("kc.npy") + "' --value-center '";
  ASSERT_EQ(run(command + path("vc.npy") + "'").code, 0);
  const auto elements = [&](const std::string& name) {
    const NpyArray array = read_npy(path(name));
    std::vector<float> values(static_cast<std::size_t>(array.num_elements()));
    std::memcpy(values.data(), array.data.data(), array.data.size());
    return values;
  };
  EXPECT_EQ(read_npy(path("kc.npy")).shape, (Shape{2, 2}));
  EXPECT_EQ(elements("kc.npy"), (std::vector<float>{0, 0, 0, 2}));
  EXPECT_EQ(read_npy(path("vc.npy")).shape, (Shape{2, 4}));
  EXPECT_EQ(elements("vc.npy"), (std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8}));

  expect_failure(command + path("kc.npy") + "'", 2, "are the same file");
  const float nan[] = {NAN, 0, 0, 0, 0, 0, 0, 0};
  write_npy_files(std::vector<NpyOutput>{{path("v.npy"), {2, 1, 4}, nan}});
  expect_failure(command + path("vc.npy") + "'", 1, "head 0, channel 0 is not finite");
  write_npy_files(std::vector<NpyOutput>{{path("v.npy"), {2, 0, 4}, nan}});
  expect_failure(command + path("vc.npy") + "'", 1, "no tokens");
}

TEST_F(Command, CompareListsTheModesAndThePipelines) {
  const std::string inputs = write_small_inputs();
  const Result json = run("compare --json " + inputs);
  ASSERT_EQ(json.code, 0) << json.err;
  EXPECT_GE(Json::parse(json.out)["rows"].size(), 5u);
  const Result text = run("compare --causal --softmax-scale 0.2 " + inputs);
  EXPECT_EQ(text.code, 0) << text.err;
  for (const char* mode : {"int8", "exact", "intfa"}) {
    EXPECT_NE(text.out.find(mode), std::string::npos) << text.out;
  }
  expect_failure("compare --query x.npy --key x.npy --value x.npy", 1, "x.npy");
}

// The error of each row of compare's table.
std::map<std::string, double> errors_of(const Result& result) {
  EXPECT_EQ(result.code, 0) << result.err;
  const Json report = Json::parse(result.out);
  std::map<std::string, double> errors;
  for (const Json& row : report["rows"]) errors[row["name"]] = row["error"]["rel_l1"].get<double>();
  return errors;
}

TEST_F(Command, CompareAttendsCachesOfFewBitsBehindTheirWindows) {
  // All keys are in a query's own block; of the causal queries 10 see none.
  const std::string inputs =
      "compare --json " + write_inputs({4, 50, 32}, {2, 40, 32}, {2, 40, 32});
  for (const char* mask : {"", " --causal"}) {
    std::map<std::string, double> errors = errors_of(run(inputs + mask));
    const double int8 = errors["intflash int8, one digit"];
    EXPECT_GT(int8, 0) << mask;
    for (const char* form :
         {"k4v4, 64", "k4v4, 256 + 64", "k8v4, 256 + 64", "k4v2, 256 + 64", "k2v2, 256 + 64"})
      EXPECT_EQ(errors[std::string("cache ") + form], int8) << form << mask;
    EXPECT_GT(errors["cache k8v4"], 2 * int8) << mask;
  }
  std::map<std::string, double> errors = errors_of(run("compare --json --quick --random normal"));
  EXPECT_EQ(errors["cache k4v4, 256 + 64"], errors["cache k8v4, 256 + 64"]);  // of 256 keys
  EXPECT_GT(errors["cache k4v4, 64"], errors["cache k8v4"]);
  EXPECT_GT(errors["Turbo-4/2"], errors["Turbo-4"]);
  EXPECT_LT(errors["Turbo-4/2"], errors["Turbo-2"]);
  expect_failure("compare --random cauchy", 2, "--random");
  expect_failure("compare --random normal --query q.npy", 2, "--random");
}

// A number's nearest in bfloat16.
float in_bf16(float number) {
  const auto bits = std::bit_cast<std::uint32_t>(number);
  return std::bit_cast<float>((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
}

TEST_F(Command, CompareFormatsSaysWhatEachKeepsOfRandomInputsAndOfFiles) {
  const Result json = run("compare --formats --quick --json " + write_small_inputs());
  ASSERT_EQ(json.code, 0) << json.err;
  const Json report = Json::parse(json.out);
  std::map<std::string, std::map<std::string, Json>> tables;
  for (const Json& table : report["tables"])
    for (const Json& format : table["formats"])
      tables[table["inputs"]][format["name"]] = format["plain"];
  ASSERT_EQ(tables.size(), 4u);
  // Uniform numbers and steps: 256 to one, less what the largest of 128 lacks to half the range.
  EXPECT_NEAR(tables["uniform"]["int8"]["key_sqnr_db"].get<double>(), 20 * std::log10(256), 0.15);
  // A bit of fraction more or less is 6.02 dB.
  const auto decibels = [&](const char* format) {
    return tables["normal"][format]["value_sqnr_db"].get<double>();
  };
  EXPECT_NEAR(decibels("f16") - decibels("bf16"), 3 * 6.02, 0.1);
  EXPECT_NEAR(decibels("e4m3 unscaled") - decibels("e5m2 unscaled"), 6.02, 0.1);
  EXPECT_NEAR(decibels("bf16") - decibels("e4m3 unscaled"), 4 * 6.02, 0.1);
  EXPECT_NEAR(decibels("int8") - decibels("int4"), 20 * std::log10(127.0 / 7), 0.2);
  // 16 levels have 20.22 dB on normal numbers (J. Max, IRE Trans. Inf. Theory 6, 1960), and a scale
  // for each token some more; 15 steps from the least to the most of 64 tokens 20.9, and 0.4 less
  // where the steps are integers.
  EXPECT_NEAR(decibels("k8v4"), 20.22 + 0.6, 0.6);
  EXPECT_NEAR(decibels("flashq4"), 20.9 - 0.4, 0.3);

  const NpyArray q = read_npy(path("q.npy")), k = read_npy(path("k.npy"));
  const NpyArray v = read_npy(path("v.npy"));
  const std::size_t elements = 2 * 40 * 32;
  double signal = 0, noise = 0;
  for (std::size_t row = 0; row < elements; row += 32) {
    double largest = 0;
    for (std::size_t i = row; i < row + 32; ++i)
      largest = std::max(largest, std::fabs(static_cast<double>(floats(k)[i])));
    for (std::size_t i = row; i < row + 32; ++i) {
      const double x = static_cast<double>(floats(k)[i]);
      const double error = x - std::nearbyint(x * 127 / largest) * largest / 127;
      signal += x * x;
      noise += error * error;
    }
  }
  EXPECT_NEAR(tables["files"]["int8"]["key_sqnr_db"].get<double>(), 10 * std::log10(signal / noise),
              1e-6);
  std::vector<float> key(floats(k), floats(k) + elements), value(floats(v), floats(v) + elements);
  const Definition definition{
      1, 4, 2, 40, 40, 32, [](auto...) { return 0.0; }, [](std::int64_t) { return -INFINITY; }};
  const std::vector<double> exact = definition.attend(floats(q), key.data(), value.data());
  for (std::vector<float>* numbers : {&key, &value})
    std::transform(numbers->begin(), numbers->end(), numbers->begin(), in_bf16);
  const std::vector<double> rounded = definition.attend(floats(q), key.data(), value.data());
  double error = 0, sum = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    error += std::fabs(rounded[i] - exact[i]);
    sum += std::fabs(exact[i]);
  }
  EXPECT_NEAR(tables["files"]["bf16"]["rel_l1_key_value"].get<double>() / (error / sum), 1, 1e-6);
  expect_failure("compare --formats --query x.npy", 2, "--key");
  expect_failure("compare --quick " + write_small_inputs(), 2, "--quick");
}

TEST_F(Command, InfoMeasuresEverySupportedPort) {
  const Result result = run("info --json");
  ASSERT_EQ(result.code, 0) << result.err;
  const Json report = Json::parse(result.out);
  for (const char* key : {"cpu", "cores", "threads", "l1_bytes", "l2_bytes", "ports", "devices",
                          "chosen", "chosen_reason", "read_dram", "version", "compiler"}) {
    EXPECT_TRUE(report.contains(key)) << key;
  }
  for (const Json& port : report["ports"]) {
    EXPECT_EQ(port["supported"].get<bool>(), port.contains("peak_gops_1_thread")) << port;
    EXPECT_EQ(port["supported"].get<bool>(), port["reason"] == "") << port;
  }
  ASSERT_GE(report["devices"].size(), 2U);
  EXPECT_EQ(report["devices"][0]["name"], "cpu");
  for (const Json& device : report["devices"])
    EXPECT_EQ(device["available"].get<bool>(), device["reason"] == "") << device;
  EXPECT_EQ(code_of("'" INTFLASH_COMMAND "' info --json >/dev/full 2>/dev/null"), 1);
  const Result text = run("info");
  EXPECT_EQ(text.code, 0);
  EXPECT_NE(text.out.find("GOP/s"), std::string::npos);
  EXPECT_NE(text.out.find("\ncuda"), std::string::npos);
}

TEST_F(Command, BenchReportsEveryRowWithItsShare) {
  const std::string file = path("bench.json");
  const Result result =
      run("bench --quick --isa scalar --filter '(prefill/full/d64|^pack|overhead/q1k1)' --json '" +
          file + "'");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.out.find("share"), std::string::npos);
  const Json report = Json::parse(read_text(file));
  EXPECT_EQ(keys_of(report), (std::set<std::string>{"machine", "rows"}));
  ASSERT_GE(report["rows"].size(), 3u);
  for (const Json& row : report["rows"]) {
    for (const char* key :
         {"name", "port", "mode", "threads", "seconds", "gops", "gbps", "limit", "share"}) {
      EXPECT_TRUE(row.contains(key)) << key << " in " << row;
    }
    EXPECT_EQ(row["port"], "scalar");
    EXPECT_GT(row["seconds"], 0);
    EXPECT_GT(row["share"], 0);
  }
}

TEST_F(Command, BenchOfDecodingTellsTheShareOfHugePages) {
  const Result result =
      run("bench decode --quick --isa scalar --threads 1 --json - "
          "--filter h8-8/n4096/hot");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.err.find("huge pages"), std::string::npos);
  std::ifstream smaps("/proc/self/smaps");
  const std::string told((std::istreambuf_iterator<char>(smaps)), {});
  if (told.find("AnonHugePages:") == std::string::npos) GTEST_SKIP() << "the system does not say";
  const Json row = Json::parse(result.out)["rows"][0];
  ASSERT_TRUE(row.contains("huge_page_share"));
  const double share = row["huge_page_share"];
  EXPECT_GE(share, 0);
  EXPECT_LE(share, 1);
}

TEST_F(Command, BenchTimesCapturedTensorsBesideRandomOnesOfTheirShapes) {
  const std::string inputs = write_inputs({4, 70, 32}, {2, 90, 32}, {2, 90, 32});
  const Result result = run("bench --quick --isa scalar --causal --json - " + inputs);
  ASSERT_EQ(result.code, 0) << result.err;
  const Json report = Json::parse(result.out);
  std::map<std::string, Json> rows;
  for (const Json& row : report["rows"]) rows[row["name"]] = row;
  ASSERT_EQ(rows.size(), 4u);
  for (const std::string part : {"prefill", "end-to-end"}) {
    const Json& captured = rows[part + "/captured"];
    const Json& random = rows[part + "/random"];
    // As many operations, over other numbers.
    const auto operations = [](const Json& row) {
      return row["gops"].get<double>() * row["seconds"].get<double>();
    };
    EXPECT_NEAR(operations(captured) / operations(random), 1, 1e-9);
    EXPECT_NE(captured["rel_l1"], random["rel_l1"]);
  }
  EXPECT_NE(result.err.find("captured / random"), std::string::npos);
  expect_failure("bench decode " + inputs, 2, "decode");
  const std::string wide = write_inputs({4, 70, 32}, {2, 90, 32}, {2, 90, 40});
  expect_failure("bench " + wide, 1, "40 dims where keys have 32");
  const std::string batches = write_inputs({2, 4, 70, 32}, {2, 2, 90, 32}, {2, 2, 90, 32});
  expect_failure("bench " + batches, 1, "2 batches");
}

TEST_F(Command, BenchFindsOutFirstThatItsReportCannotBeWritten) {
  expect_failure("bench --isa scalar --json '" + path("none/b.json") + "'", 1,
                 "none/b.json: cannot");
}

}  // namespace
}  // namespace intflash::internal::command
