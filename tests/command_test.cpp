// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The intflash command as a user meets it: exit codes, messages, files, JSON.
#include <sys/wait.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "npy.h"

namespace intflash::internal {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Shape = std::vector<std::int64_t>;

struct Result {
  int code;  // -1 where the command was killed
  std::string out, err;
};

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::set<std::string> keys_of(const Json& object) {
  std::set<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.insert(key);
  return keys;
}

// Attention from the definition: of query i of a head, whose scores bias adds to.
struct Definition {
  std::int64_t batch, heads, kv_heads, query_len, kv_len, dim;
  std::function<double(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j)> bias;
  std::function<double(std::int64_t h)> sink;

  std::vector<double> attend(const float* query, const float* key, const float* value) const {
    std::vector<double> out;
    for (std::int64_t b = 0; b < batch; ++b) {
      for (std::int64_t h = 0; h < heads; ++h) {
        const std::int64_t keys = (b * kv_heads + h / (heads / kv_heads)) * kv_len * dim;
        for (std::int64_t i = 0; i < query_len; ++i, query += dim) {
          double sum = std::exp(sink(h));
          std::vector<double> row(static_cast<std::size_t>(dim));
          for (std::int64_t j = 0; j < kv_len; ++j) {
            double dot = 0;
            for (std::int64_t c = 0; c < dim; ++c) {
              dot += static_cast<double>(query[c]) * static_cast<double>(key[keys + j * dim + c]);
            }
            const double weight =
                std::exp(dot / std::sqrt(static_cast<double>(dim)) + bias(b, h, i, j));
            sum += weight;
            for (std::int64_t c = 0; c < dim; ++c) {
              row[static_cast<std::size_t>(c)] +=
                  weight * static_cast<double>(value[keys + j * dim + c]);
            }
          }
          for (const double element : row) out.push_back(element / sum);
        }
      }
    }
    return out;
  }
};

class Command : public testing::Test {
 protected:
  Command() {
    std::string pattern = (fs::temp_directory_path() / "intflash_command_XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
  }
  ~Command() override { fs::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  // Arguments as a shell reads them; environment such as "INTFLASH_ISA=scalar ".
  Result run(const std::string& arguments, const std::string& environment = "") const {
    const int code = code_of(environment + "'" INTFLASH_COMMAND "' " + arguments + " >'" +
                             path("stdout") + "' 2>'" + path("stderr") + "' </dev/null");
    return {code, read_text(path("stdout")), read_text(path("stderr"))};
  }

  // Of a whole line for the shell; -1 where it was killed.
  static int code_of(const std::string& line) {
    const int status = std::system(line.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  // The arguments of failed commands end in code with part in the message, and print nothing else.
  void expect_failure(const std::string& arguments, int code, const std::string& part) const {
    SCOPED_TRACE(arguments);
    const Result result = run(arguments);
    EXPECT_EQ(result.code, code);
    EXPECT_EQ(result.out, "");
    EXPECT_NE(result.err.find(part), std::string::npos) << result.err << "lacks: " << part;
  }

  std::string write_normal(const std::string& name, const Shape& shape, unsigned seed) const {
    std::int64_t size = 1;
    for (const std::int64_t length : shape) size *= length;
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> elements(static_cast<std::size_t>(size));
    for (float& element : elements) element = normal(random);
    write_npy_files(std::vector<NpyOutput>{{path(name), shape, elements.data()}});
    return path(name);
  }

  // "--query ... --key ... --value ..." of three new files.
  std::string write_inputs(const Shape& query, const Shape& key, const Shape& value) const {
    return "--query '" + write_normal("q.npy", query, 1) + "' --key '" +
           write_normal("k.npy", key, 2) + "' --value '" + write_normal("v.npy", value, 3) + "'";
  }
  std::string write_small_inputs() const {
    return write_inputs({4, 40, 32}, {2, 40, 32}, {2, 40, 32});
  }

  // The shape of calls that are compared with the definition.
  static constexpr std::int64_t kQueries = 5, kKeys = 9, kHeads = 4, kBatch = 2, kDim = 16;

  std::string write_mask(const std::string& name, const Shape& shape) const {
    return " --additive-mask '" + write_normal(name, shape, 7) + "'";
  }

  // What these options make of the inputs is what the definition says, in both modes.
  void expect_definition(
      const std::string& options,
      const std::function<double(std::int64_t, std::int64_t, std::int64_t, std::int64_t)>& bias,
      const std::function<double(std::int64_t)>& sink = [](std::int64_t) { return -INFINITY; }) {
    SCOPED_TRACE(options);
    const std::string command = "attend " +
                                write_inputs({kBatch, kHeads, kQueries, kDim},
                                             {kBatch, 2, kKeys, kDim}, {kBatch, 2, kKeys, kDim}) +
                                options + " --json --check --out '" + path("o.npy") + "'";
    const Result exact = run(command + " --mode exact");
    ASSERT_EQ(exact.code, 0) << exact.err;
    const NpyArray q = read_npy(path("q.npy")), k = read_npy(path("k.npy"));
    const NpyArray v = read_npy(path("v.npy")), out = read_npy(path("o.npy"));
    const Definition definition{kBatch, kHeads, 2, kQueries, kKeys, kDim, bias, sink};
    const std::vector<double> expected = definition.attend(floats(q), floats(k), floats(v));
    for (std::size_t i = 0; i < expected.size(); ++i) {
      ASSERT_NEAR(floats(out)[i], expected[i], 1e-6) << i;
    }
    const Result int8 = run(command);
    ASSERT_EQ(int8.code, 0) << int8.err;
    EXPECT_LT(Json::parse(int8.out)["error"]["rel_l1"], 0.03);
  }

  static const float* floats(const NpyArray& array) {
    return reinterpret_cast<const float*>(array.data.data());
  }

  std::vector<std::string> supported_ports() const {
    std::vector<std::string> names;
    for (std::int32_t i = 0; i < intflash_num_ports(); ++i) {
      intflash_port_info info = {};
      info.struct_size = sizeof info;
      if (intflash_get_port(i, &info) == INTFLASH_OK && info.supported) names.push_back(info.name);
    }
    return names;
  }

 private:
  fs::path folder_;
};

// ---- Usage ----

TEST_F(Command, HelpAndVersionSucceed) {
  for (const char* arguments : {"--help", "attend --help", "compare --help", "info --help",
                                "bench --help", "serve-sim --help", "calibrate --help"}) {
    const Result result = run(arguments);
    EXPECT_EQ(result.code, 0) << arguments;
    EXPECT_NE(result.out.find("Example"), std::string::npos) << arguments;
    EXPECT_EQ(result.err, "") << arguments;
  }
  EXPECT_EQ(run("--version").out, std::string("intflash ") + intflash_version() + "\n");
}

TEST_F(Command, WrongUsageEndsInTwo) {
  const std::string inputs = write_small_inputs();
  expect_failure("", 2, "subcommand is required");
  expect_failure("dance", 2, "dance");
  expect_failure("attend", 2, "--query is required");
  expect_failure("attend " + inputs + " --nonsense", 2, "--nonsense");
  expect_failure("attend " + inputs + " --mode int4", 2, "int4");
  expect_failure("attend " + inputs + " --window -1", 2, "-1");
  expect_failure("attend " + inputs + " --window many", 2, "many");
  expect_failure("attend " + inputs + " --softmax-scale 0", 2, "> 0");
  expect_failure("attend " + inputs + " --softmax-scale nan", 2, "> 0");
  expect_failure("attend " + inputs + " --score-cap -3", 2, "> 0");
  expect_failure("attend " + inputs + " --center q", 2, "q");
  expect_failure("attend " + inputs + " --rotate maybe", 2, "maybe");
  expect_failure("attend " + inputs + " --threads 0", 2, "0");
  expect_failure("attend " + inputs + " --isa avx1024", 2, "avx1024");
  expect_failure("attend " + inputs + " --out same.npy --lse same.npy", 2, "same.npy");
  expect_failure("attend " + inputs + " --out ''", 2, "no file is named");
  expect_failure("calibrate --key k.npy", 2, "--value is required");
  expect_failure("compare", 2, "--query");
  expect_failure("compare --synthetic " + inputs, 2, "--synthetic");
  expect_failure("bench --filter '('", 2, "--filter (");
  expect_failure("bench --filter no_such_case", 2, "no_such_case");
  expect_failure("bench --isa avx1024", 2, "avx1024");
}

// ---- Streams that are closed, full, or left by their readers ----

TEST_F(Command, ErrorsHaveTheirExitCodeWhereStderrTakesNothing) {
  const std::string command = "'" INTFLASH_COMMAND "' ";
  for (const char* redirection : {" 2>&-", " 2>/dev/full", " 0<&- 1>&- 2>&-"}) {
    SCOPED_TRACE(redirection);
    EXPECT_EQ(code_of(command + "attend --query no.npy --key no.npy --value no.npy" + redirection),
              1);
    EXPECT_EQ(code_of(command + "bench --filter '('" + redirection), 2);
  }
  // The reader has left before anything is said.
  EXPECT_EQ(code_of("bash -c 'exec 2> >(exit); sleep 0.2; " + command +
                    "attend --query no.npy --key no.npy --value no.npy'"),
            1);
}

TEST_F(Command, WhatCannotBePrintedEndsInOneAndSaysSo) {
  const std::string inputs = write_small_inputs();
  const std::string serving = "serve-sim --requests 2 --prompt-mean 4 --output-mean 4 --head-dim 8";
  for (const std::string& line :
       {std::string("--help >/dev/full"), std::string("--version >/dev/full"),
        std::string("--version >&-"), std::string("attend --help >/dev/full"),
        "attend " + inputs + " >/dev/full", "attend " + inputs + " >&-",
        "attend --json " + inputs + " >/dev/full", "compare " + inputs + " >/dev/full",
        "compare --json " + inputs + " >&-", serving + " >/dev/full",
        serving + " --json >/dev/full",
        std::string("bench --quick --isa scalar --filter overhead/q1k16 >/dev/full")}) {
    SCOPED_TRACE(line);
    EXPECT_EQ(code_of("'" INTFLASH_COMMAND "' " + line + " 2>'" + path("stderr") + "'"), 1);
    const std::string said = read_text(path("stderr"));
    EXPECT_TRUE(said.starts_with("intflash: cannot write to standard output")) << said;
  }
}

TEST_F(Command, WhatPrintsNothingNeedsNoStdout) {
  const std::string inputs = write_small_inputs();
  EXPECT_EQ(code_of("'" INTFLASH_COMMAND "' calibrate --key '" + path("k.npy") + "' --value '" +
                    path("v.npy") + "' --key-center '" + path("kc.npy") + "' --value-center '" +
                    path("vc.npy") + "' 0<&- 1>&- 2>&-"),
            0);
  EXPECT_EQ(read_npy(path("kc.npy")).shape, (Shape{2, 32}));
}

// ---- attend ----

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

TEST_F(Command, AttendWritesOutAndLseInTheShapeOfTheQuery) {
  const std::string outputs = " --out '" + path("o.npy") + "' --lse '" + path("l.npy") + "'";
  ASSERT_EQ(run("attend " + write_inputs({4, 5, 16}, {2, 9, 16}, {2, 9, 24}) + outputs).code, 0);
  EXPECT_EQ(read_npy(path("o.npy")).shape, (Shape{4, 5, 24}));
  EXPECT_EQ(read_npy(path("l.npy")).shape, (Shape{4, 5}));
  ASSERT_EQ(
      run("attend " + write_inputs({2, 4, 5, 16}, {2, 1, 9, 16}, {2, 1, 9, 16}) + outputs).code, 0);
  EXPECT_EQ(read_npy(path("o.npy")).shape, (Shape{2, 4, 5, 16}));
  EXPECT_EQ(read_npy(path("l.npy")).shape, (Shape{2, 4, 5}));
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

TEST_F(Command, BadFilesEndInOneAndAreNamed) {
  const std::string inputs = write_small_inputs();
  const std::string bad = path("bad.npy");
  const auto with_bad_query = [&] {
    return "attend --query '" + bad + "' --key '" + path("k.npy") + "' --value '" + path("v.npy") +
           "'";
  };
  expect_failure(with_bad_query(), 1, bad + ": cannot open");
  std::ofstream(bad) << "hello";
  expect_failure(with_bad_query(), 1, bad + ": not a .npy file");
  const std::string good = read_text(path("q.npy"));
  std::ofstream(bad, std::ios::binary) << good.substr(0, good.size() - 1);
  expect_failure(with_bad_query(), 1, bad + ": truncated");
  std::string integers = good;
  integers.replace(integers.find("<f4"), 3, "<i4");
  std::ofstream(bad, std::ios::binary) << integers;
  expect_failure(with_bad_query(), 1, bad + ": dtype '<i4' is not supported");
}

TEST_F(Command, InputsComeFromPipesToo) {
  const std::string inputs = write_small_inputs(), out = " --out '" + path("o.npy") + "'";
  ASSERT_EQ(run("attend " + inputs + out).code, 0);
  const std::string expected = read_text(path("o.npy"));
  for (const char* query : {"-", "/dev/stdin", "<(cat '%')"}) {
    std::string name = query;
    if (const std::size_t i = name.find('%'); i != std::string::npos)
      name.replace(i, 1, path("q.npy"));
    const std::string line = "cat '" + path("q.npy") + "' | '" INTFLASH_COMMAND "' attend --key '" +
                             path("k.npy") + "' --value '" + path("v.npy") + "' --out '" +
                             path("piped.npy") + "' --query " + name;
    std::ofstream(path("script")) << line;
    EXPECT_EQ(code_of("bash '" + path("script") + "' >/dev/null"), 0) << line;
    EXPECT_TRUE(read_text(path("piped.npy")) == expected) << line;
    fs::remove(path("piped.npy"));
  }
  expect_failure("attend --query - --key '" + path("k.npy") + "' --value '" + path("v.npy") + "'",
                 1, "standard input: not a .npy file: it is empty");
}

TEST_F(Command, ShapesThatDisagreeEndInOne) {
  const auto expect = [&](const Shape& query, const Shape& key, const Shape& value,
                          const std::string& part) {
    expect_failure("attend " + write_inputs(query, key, value), 1, part);
  };
  expect({40, 32}, {2, 40, 32}, {2, 40, 32}, "q.npy: shape (40, 32) is neither");
  expect({4, 40, 32}, {2, 40, 16}, {2, 40, 16}, "k.npy: head_dim 16");
  expect({4, 40, 32}, {2, 40, 32}, {1, 40, 32}, "v.npy: number of heads 1");
  expect({4, 40, 32}, {2, 40, 32}, {2, 41, 32}, "v.npy: number of tokens 41");
  expect({2, 4, 8, 16}, {3, 4, 8, 16}, {3, 4, 8, 16}, "k.npy: batch 3");
  expect({3, 8, 16}, {2, 8, 16}, {2, 8, 16}, "heads");
  expect({2, 8, 12}, {2, 8, 12}, {2, 8, 12}, "head_dim");
}

TEST_F(Command, NanInAnInputEndsInOneAndLeavesTheOutputFileAlone) {
  const std::string inputs = write_small_inputs();
  std::vector<float> values(2 * 40 * 32, 1.0f);
  values[77] = NAN;
  write_npy_files(std::vector<NpyOutput>{{path("v.npy"), {2, 40, 32}, values.data()}});
  std::ofstream(path("o.npy")) << "old";
  expect_failure("attend " + inputs + " --out '" + path("o.npy") + "'", 1, "value");
  EXPECT_EQ(read_text(path("o.npy")), "old");
}

TEST_F(Command, AnOutputThatCannotBeWrittenEndsInOne) {
  const std::string inputs = write_small_inputs();
  expect_failure("attend " + inputs + " --out '" + path("none/o.npy") + "'", 1,
                 "none/o.npy: cannot");
  EXPECT_EQ(run("attend " + inputs + " --json --out /dev/full").code, 1);
  fs::create_directory(path("folder"));
  expect_failure("attend " + inputs + " --out '" + path("folder") + "'", 1,
                 "folder: cannot open for writing: Is a directory");
}

TEST_F(Command, OneFileByTwoNamesIsRefusedAndLeftAsItWas) {
  const std::string inputs = write_small_inputs();
  std::ofstream(path("old.npy")) << "old";
  fs::create_directory(path("folder"));
  fs::create_symlink("old.npy", path("link.npy"));
  fs::create_symlink("../new.npy", path("folder/dangling.npy"));
  fs::create_symlink(".", path("here"));
  fs::create_hard_link(path("old.npy"), path("hard.npy"));
  const std::pair<const char*, const char*> pairs[] = {
      {"new.npy", "./new.npy"},    {"new.npy", "folder/../new.npy"},
      {"new.npy", "here/new.npy"}, {"new.npy", "folder/dangling.npy"},
      {"old.npy", "link.npy"},     {"old.npy", "hard.npy"},
      {"old.npy", "here/old.npy"}, {"-", "-"}};
  for (const auto& [first, second] : pairs) {
    const auto file = [&](const std::string& name) { return name == "-" ? name : path(name); };
    expect_failure("attend " + inputs + " --out '" + file(first) + "' --lse '" + file(second) + "'",
                   2, "--out and --lse are the same file");
    expect_failure("calibrate --key '" + path("k.npy") + "' --value '" + path("v.npy") +
                       "' --key-center '" + file(first) + "' --value-center '" + file(second) + "'",
                   2, "--key-center and --value-center are the same file");
  }
  EXPECT_EQ(read_text(path("old.npy")), "old");
  EXPECT_FALSE(fs::exists(path("new.npy")));
  // Devices keep nothing that could be lost.
  EXPECT_EQ(run("attend " + inputs + " --out /dev/null --lse /dev/null").code, 0);
}

TEST_F(Command, AnOutputInStdoutLeavesTheReportToStderr) {
  const std::string inputs = write_small_inputs();
  ASSERT_EQ(run("attend " + inputs + " --out '" + path("o.npy") + "'").code, 0);
  const std::string expected = read_text(path("o.npy"));
  const std::string command = "'" INTFLASH_COMMAND "' attend " + inputs;
  const std::string last = path("last.npy"), report = path("report");
  for (const char* name : {"-", "/dev/stdout"}) {
    for (const std::string& redirection : {" | cat >'" + last + "'", " >'" + last + "'"}) {
      SCOPED_TRACE(name + redirection);
      EXPECT_EQ(code_of("bash -o pipefail -c \"" + command + " --json --out " + name + " 2>'" +
                        report + "'" + redirection + "\""),
                0);
      EXPECT_TRUE(read_text(last) == expected);
      EXPECT_TRUE(Json::accept(read_text(report)));
    }
  }
  // What the shell writes into the same file goes around it.
  ASSERT_EQ(
      code_of("(printf before; " + command + " --out - 2>/dev/null; printf after) >'" + last + "'"),
      0);
  EXPECT_TRUE(read_text(last) == "before" + expected + "after");
  EXPECT_EQ(code_of(command + " --out - >/dev/full 2>/dev/null"), 1);
  EXPECT_EQ(code_of(command + " --out - >&- 2>/dev/null"), 1);
  EXPECT_TRUE(Json::accept(run("bench --quick --isa scalar --filter overhead/q1k16 --json -").out));
}

TEST_F(Command, AReaderThatLeavesEndsInOneWithoutATemporaryFile) {
  const std::string inputs = write_inputs({4, 400, 64}, {2, 400, 64}, {2, 400, 64});
  fs::create_directory(path("folder"));
  EXPECT_EQ(code_of("bash -o pipefail -c \"'" INTFLASH_COMMAND "' attend " + inputs + " --lse '" +
                    path("folder/l.npy") + "' --out - 2>/dev/null | true\""),
            1);
  EXPECT_TRUE(fs::is_empty(path("folder")));
}

TEST_F(Command, AFileMountedOnItsOwnIsWrittenInPlace) {
  const std::string inputs = write_small_inputs();
  std::ofstream(path("host.npy")) << std::string(100000, 'x');
  std::ofstream(path("mounted.npy"));
  const std::string mount = "mount --bind '" + path("host.npy") + "' '" + path("mounted.npy") + "'";
  if (code_of("unshare -rm sh -c \"" + mount + "\" 2>/dev/null") != 0) {
    GTEST_SKIP() << "no right to mount";
  }
  EXPECT_EQ(code_of("unshare -rm sh -c \"" + mount + " && '" INTFLASH_COMMAND "' attend " + inputs +
                    " --out '" + path("mounted.npy") + "'\" >'" + path("stdout") + "'"),
            0);
  EXPECT_EQ(read_npy(path("host.npy")).shape, (Shape{4, 40, 32}));
}

TEST_F(Command, AnUnknownPortInTheEnvironmentEndsInOneAndListsThePorts) {
  const Result result = run("attend " + write_small_inputs(), "INTFLASH_ISA=avx1024 ");
  EXPECT_EQ(result.code, 1);
  EXPECT_NE(result.err.find("scalar"), std::string::npos) << result.err;
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

// ---- The inputs shipped with the project ----

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

// ---- compare, info, bench ----

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

TEST_F(Command, InfoMeasuresEverySupportedPort) {
  const Result result = run("info --json");
  ASSERT_EQ(result.code, 0) << result.err;
  const Json report = Json::parse(result.out);
  for (const char* key : {"cpu", "cores", "threads", "l1_bytes", "l2_bytes", "ports", "chosen",
                          "chosen_reason", "read_dram", "version", "compiler"}) {
    EXPECT_TRUE(report.contains(key)) << key;
  }
  for (const Json& port : report["ports"]) {
    EXPECT_EQ(port["supported"].get<bool>(), port.contains("peak_gops_1_thread")) << port;
    EXPECT_EQ(port["supported"].get<bool>(), port["reason"] == "") << port;
  }
  EXPECT_EQ(code_of("'" INTFLASH_COMMAND "' info --json >/dev/full 2>/dev/null"), 1);
  const Result text = run("info");
  EXPECT_EQ(text.code, 0);
  EXPECT_NE(text.out.find("GOP/s"), std::string::npos);
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

TEST_F(Command, BenchFindsOutFirstThatItsReportCannotBeWritten) {
  expect_failure("bench --isa scalar --json '" + path("none/b.json") + "'", 1,
                 "none/b.json: cannot");
}

}  // namespace
}  // namespace intflash::internal
