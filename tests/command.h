// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The intflash command, run as a user runs it, in a folder of its own.
#pragma once

#include <sys/wait.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
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

#include "intflash/intflash.h"
#include "npy.h"

namespace intflash::internal::command {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Shape = std::vector<std::int64_t>;

struct Result {
  int code;  // -1 where the command was killed
  std::string out, err;
};

inline std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::set<std::string> keys_of(const Json& object) {
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

}  // namespace intflash::internal::command
