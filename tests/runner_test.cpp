// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The runner of examples/ as a user meets it: its tokens, its texts, its perplexity, and what it
// says of model files that are damaged.
#include <sys/wait.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "intflash/calibration.h"
#include "test_ports.h"

namespace intflash::internal {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

const fs::path kModel = INTFLASH_RUNNER_MODEL;
constexpr int kHeadDim = 64;  // of the model

struct Result {
  int code;  // -1 where the runner was killed
  std::string out, err;
};

std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<int> numbers_of(const std::string& text) {
  std::istringstream stream(text);
  return {std::istream_iterator<int>(stream), {}};
}

class Runner : public testing::Test {
 protected:
  Runner() {
    std::string pattern = (fs::temp_directory_path() / "intflash_runner_XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
  }
  ~Runner() override { fs::remove_all(folder_); }

  // Arguments as a shell reads them.
  Result run(const std::string& arguments, const fs::path& model = kModel) const {
    const std::string line = "'" INTFLASH_RUNNER "' --model '" + model.string() + "' " + arguments +
                             " >'" + path("out") + "' 2>'" + path("err") + "' </dev/null";
    const int status = std::system(line.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_text(path("out")),
            read_text(path("err"))};
  }
  std::string run_well(const std::string& arguments) const {
    const Result result = run(arguments);
    EXPECT_EQ(result.code, 0) << arguments << "\n" << result.err;
    return result.out;
  }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream(path(name), std::ios::binary) << bytes;
    return std::string("'").append(path(name)).append("'");
  }

  // The model with one file replaced is refused, with part in the message.
  void expect_refused(const std::string& name, const std::string& bytes, const std::string& part) {
    SCOPED_TRACE(part);
    for (const char* file : {"config.json", "model.safetensors", "tokenizer.json"}) {
      fs::remove(folder_ / file);
      fs::create_symlink(kModel / file, folder_ / file);
    }
    fs::remove(folder_ / name);
    write(name, bytes);
    const Result result = run("--prompt The --tokens 2", folder_);
    EXPECT_EQ(result.code, 1) << result.err;
    EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
  }

 private:
  fs::path folder_;
};

// ---- Tokens ----

TEST_F(Runner, TokensEqualThoseOfTheReference) {
  const std::string heldout = "--tokenize '" + (kModel / "heldout.txt").string() + "'";
  EXPECT_EQ(numbers_of(run_well(heldout)), numbers_of(read_text(INTFLASH_RUNNER_TOKENS)));
  const std::string mixed = write(
      "mixed", "It's we'll  I'VE\n\n12 begat\t3,000;  and -- lo!...  \u00e9\u00df \u65e5 \x01\n ");
  const std::vector<int> tokens = {41,  84,  508,  459, 7,   276, 221, 297, 7,   54,  37,  199,
                                   199, 605, 1388, 198, 19,  12,  16,  16,  16,  27,  221, 268,
                                   221, 13,  13,   561, 1,   14,  14,  14,  221, 221, 128, 103,
                                   128, 254, 221,  163, 246, 99,  221, 190, 199, 221};
  EXPECT_EQ(numbers_of(run_well("--tokenize " + mixed)), tokens);
}

TEST_F(Runner, PromptReadsBackAsItWas) {
  for (const std::string text :
       {"And God said,", " \t two  spaces\n\nand `marks` <s> \u00c4 \u65e5",
        "\xff\xfe not UTF-8 \x80"}) {
    const std::string prompt = "--prompt \"$(cat " + write("prompt", text) + ")\"";
    EXPECT_EQ(run_well(prompt + " --tokens 0 --attention exact"), text + "\n");
  }
}

// ---- Text ----

TEST_F(Runner, GreedyTextsGoOnSideBySide) {
  const std::string prompt = "And it came to pass";
  const std::string out = run_well("--prompt '" + prompt + "' --tokens 24");
  EXPECT_EQ(out.find("-- exact\n" + prompt + ","), 0) << out;
  EXPECT_NE(out.find("\n-- int8\n" + prompt + ","), std::string::npos) << out;
  int same = 0;
  ASSERT_EQ(std::sscanf(out.c_str() + out.rfind("-- the same"), "-- the same for %d of 24", &same),
            1)
      << out;
  EXPECT_GE(same, 12) << out;
}

TEST_F(Runner, SeedDecidesWhatIsDrawn) {
  const auto text_of = [&](const std::string& seed) {
    return run_well(
        "--prompt 'In those days' --tokens 12 --attention int8 --temperature 1 --top-p 0.95 "
        "--seed " +
        seed);
  };
  EXPECT_EQ(text_of("1"), text_of("1"));
  EXPECT_NE(text_of("1"), text_of("2"));
}

TEST_F(Runner, TextBeyondTheContextIsRefused) {
  const std::string prompt =
      "--prompt \"$(head -c 6000 '" + (kModel / "heldout.txt").string() + "')\"";
  const Result result = run(prompt + " --attention int8 --tokens 1");
  EXPECT_EQ(result.code, 1);
  EXPECT_NE(result.err.find("context"), std::string::npos) << result.err;
}

// ---- Perplexity ----

TEST_F(Runner, PerplexityInInt8IsThatOfDoublePrecision) {
  const bool quick = quick_tests();
  const std::string text = read_text(kModel / "heldout.txt");
  const std::string out =
      run_well("--perplexity " + write("text", quick ? text.substr(0, 1800) : text));
  double exact = 0, int8 = 0;
  ASSERT_EQ(std::sscanf(out.c_str(), "exact perplexity %lf, %*d tokens/s int8 perplexity %lf",
                        &exact, &int8),
            2)
      << out;
  EXPECT_NEAR(int8 / exact, 1, 0.002) << out;
  if (quick) return;
  EXPECT_NEAR(exact, 30.3833, 0.001);  // on any machine, but for the order of its float sums
}

// ---- Codecs ----

// What calibrate writes: groups of kv heads, by layer.
struct HeadCodec {
  int kv_heads;
  const char* codec;
  int window_blocks, sink_blocks, score_digits;
};
Json codecs_of(const std::vector<std::vector<HeadCodec>>& layers) {
  Json file = {{"intflash_calibration", INTFLASH_CALIBRATION_VERSION}};
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    Json groups = Json::array();
    int first = 0;
    for (const HeadCodec& group : layers[layer]) {
      groups.push_back({{"first_kv_head", first},
                        {"kv_heads", group.kv_heads},
                        {"codec", group.codec},
                        {"window_blocks", group.window_blocks},
                        {"sink_blocks", group.sink_blocks},
                        {"score_digits", group.score_digits}});
      first += group.kv_heads;
    }
    file["layers"].push_back({{"layer", layer},
                              {"kv_heads", first},
                              {"head_dim", kHeadDim},
                              {"head_dim_v", kHeadDim},
                              {"key_center", nullptr},
                              {"value_center", nullptr},
                              {"groups", groups}});
  }
  return file;
}

TEST_F(Runner, CodecsAreThoseOfTheFile) {
  const std::string text = read_text(kModel / "heldout.txt").substr(0, 4000);
  const std::string command = "--perplexity " + write("text", text) + " --chunk 300";
  const auto measured_by = [&](const Json& file) {
    const std::string out = run_well(command + " --codecs " + write("codecs.json", file.dump()));
    double exact = 0, integer = 0;
    EXPECT_EQ(std::sscanf(out.c_str(), "exact perplexity %lf, %*d tokens/s int8 perplexity %lf",
                          &exact, &integer),
              2)
        << out;
    return std::pair(exact, integer);
  };
  const auto measured = [&](const std::vector<std::vector<HeadCodec>>& layers) {
    return measured_by(codecs_of(layers));
  };
  const std::vector<std::vector<HeadCodec>> plain(6, {{2, "int8", 0, 0, 0}});
  const auto [exact, int8] = measured(plain);
  double alone = 0;
  const std::string out = run_well(command + " --attention int8");
  ASSERT_EQ(std::sscanf(out.c_str(), "int8 perplexity %lf", &alone), 1) << out;
  EXPECT_EQ(int8, alone);

  std::vector<std::vector<HeadCodec>> mixed = plain;
  mixed[0] = {{1, "k8v16", 0, 0, 1}, {1, "k4v4", 4, 1, 1}};
  mixed[2] = {{2, "k8v4", 0, 0, 1}};
  mixed[3] = {{1, "int8_wide", 0, 0, 0}, {1, "k2v2", 1, 0, 1}};
  mixed[5] = mixed[0];
  const auto [again, integer] = measured(mixed);
  EXPECT_EQ(again, exact);
  EXPECT_NE(integer, int8);
  EXPECT_NEAR(integer / exact, 1, 0.02);

  // Zeros are centres that change nothing, and others must be those of the right layer and head.
  Json file = codecs_of(mixed);
  const auto center = [](float first) {
    std::vector<std::vector<float>> heads(2, std::vector<float>(kHeadDim));
    heads[1].assign(kHeadDim, first);
    return heads;
  };
  for (Json& layer : file["layers"]) layer["value_center"] = center(0);
  EXPECT_EQ(measured_by(file).second, integer);
  file["layers"][5]["value_center"] = center(0.01f);
  const double near = measured_by(file).second;
  EXPECT_NE(near, integer);
  EXPECT_NEAR(near / integer, 1, 0.01);
}

TEST_F(Runner, CodecsOfAnotherModelAreRefused) {
  const std::vector<std::vector<HeadCodec>> plain(6, {{2, "int8", 0, 0, 0}});
  const auto refused = [&](const Json& file, const std::string& part) {
    const Result result = run("--prompt The --tokens 2 --attention int8 --codecs " +
                              write("codecs.json", file.dump()));
    EXPECT_EQ(result.code, 1) << part;
    EXPECT_NE(result.err.find("codecs.json: "), std::string::npos) << result.err;
    EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
  };
  refused(Json::object(), "intflash_calibration");
  refused(codecs_of({plain.begin(), plain.end() - 1}), "not all layers of the model");
  auto layers = plain;
  layers.push_back(plain[0]);
  refused(codecs_of(layers), "of another model");
  for (const int heads : {1, 3}) {
    layers = plain;
    layers[3][0].kv_heads = heads;
    refused(codecs_of(layers), heads == 1 ? "not all layers of the model" : "of another model");
  }
  Json file = codecs_of(plain);
  file["layers"][1]["head_dim"] = 128;
  refused(file, "of another model");
  file = codecs_of(plain);
  file["layers"][1]["groups"][0]["codec"] = "k3v3";
  refused(file, "layers[1].groups[0].codec: must name a codec");
}

// ---- Damaged models ----

TEST_F(Runner, DamagedWeightsAreRefused) {
  const std::string good = read_text(kModel / "model.safetensors");
  std::uint64_t length = 0;
  ASSERT_GT(good.size(), sizeof length);
  std::memcpy(&length, good.data(), sizeof length);
  const auto with_header = [&](const std::function<void(Json&)>& change) {
    Json header = Json::parse(good.substr(sizeof length, length));
    change(header);
    const std::string text = header.dump();
    const std::uint64_t size = text.size();
    std::string bytes(sizeof size, '\0');
    std::memcpy(bytes.data(), &size, sizeof size);
    return bytes + text + good.substr(sizeof length + length);
  };
  const auto refused = [&](const std::string& bytes, const std::string& part) {
    expect_refused("model.safetensors", bytes, part);
  };
  const std::string name = "blk.3.attn_q.weight";
  refused("", "model.safetensors: truncated");
  refused(good.substr(0, 100), "truncated in its header");
  refused(std::string(8, '\xff') + good.substr(8), "truncated in its header");
  refused(good.substr(0, good.size() - 1), "token_embd.weight: truncated");
  refused(good.substr(0, 8) + "]" + good.substr(9), "model.safetensors: [json");
  refused(with_header([&](Json& header) { header.erase(name); }), name);
  refused(with_header([&](Json& header) { header[name]["dtype"] = "I64"; }),
          name + ": dtype \"I64\": must be F16 or F32");
  refused(with_header([&](Json& header) { header[name]["dtype"] = "F32"; }),
          name + ": data_offsets do not fit its shape");
  refused(with_header([&](Json& header) {
            header[name]["shape"] = {384, 383};
          }),
          name + ": shape [384,383]: must be [384,384]");
  refused(with_header([&](Json& header) { header[name]["data_offsets"] = {-8, 294904}; }), name);
  refused(with_header([&](Json& header) { header[name] = 7; }), "model.safetensors: [json");
  std::string with_nan = good;
  std::fill_n(with_nan.end() - 4096 * 384 * 2, 4096 * 384 * 2, '\xff');
  refused(with_nan, "NaN");
}

TEST_F(Runner, DamagedConfigurationsAreRefused) {
  const auto refused = [&](const char* key, const Json& value, const std::string& part) {
    Json config = Json::parse(read_text(kModel / "config.json"));
    config[key] = value;
    expect_refused("config.json", config.dump(), part);
  };
  refused("vocab", 0, "config.json: vocab: must be 1 ... 2^20");
  refused("ctx", 1e300, "config.json: ctx: must be 1 ... 2^20");
  refused("n_layer", "six", "config.json: n_layer");
  refused("n_layer", 7, "blk.6.attn_norm.weight");
  refused("n_kv", 4, "n_head");
  refused("bos", -1, "bos");
  refused("rope_interleaved", false, "rope_interleaved: must be true");
  expect_refused("config.json", "{}", "config.json: ");
}

TEST_F(Runner, DamagedTokenizersAreRefused) {
  const Json good = Json::parse(read_text(kModel / "tokenizer.json"));
  Json other = good;
  other["model"]["vocab"]["extra"] = 4096;
  expect_refused("tokenizer.json", other.dump(), "token 4096: not of the model");
  other = good;
  other["model"]["vocab"].erase("A");
  expect_refused("tokenizer.json", other.dump(), "no token for byte 65");
  expect_refused("tokenizer.json", "[1, 2", "tokenizer.json: [json");
}

TEST_F(Runner, MissingFilesAndWrongUsageAreErrors) {
  EXPECT_EQ(run("--prompt a", "/no/such/folder").code, 1);
  EXPECT_EQ(run("--perplexity /no/such/file").code, 1);
  EXPECT_EQ(run("--perplexity /dev/null").code, 1);
  EXPECT_EQ(run("--attention int4").code, 2);
  EXPECT_EQ(run("--chunk 0").code, 2);
  EXPECT_EQ(run("--help").code, 0);
}

}  // namespace
}  // namespace intflash::internal
