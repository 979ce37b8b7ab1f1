// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Files of `intflash calibrate --budget`, read by the C interface.
#include "intflash/calibration.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "counting_allocator.h"
#include "intflash/intflash.hpp"

namespace intflash::internal {
namespace {

// A file that gives so many bytes at a time.
struct Text {
  std::string bytes;
  std::size_t at_once = 4096, at = 0;
};
std::size_t read_text(void* user, void* bytes, std::size_t num_bytes) {
  Text& text = *static_cast<Text*>(user);
  const std::size_t count = std::min({num_bytes, text.at_once, text.bytes.size() - text.at});
  std::memcpy(bytes, text.bytes.data() + text.at, count);
  text.at += count;
  return count;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t place = text.find(from);
  EXPECT_NE(place, std::string::npos) << from;
  return text.replace(place, from.size(), to);
}

const std::string kCenter = "[[1,2,3,4,5,6,7,8],[-1,0,0.1,4,5,6,7,1e30]]";
// Layers 7 and 2: two groups with centres of keys, and one without any.
const std::string kFile = R"({"intflash_calibration": 3, "budget": 90, "layers": [
  {"layer": 7, "kv_heads": 2, "head_dim": 8, "head_dim_v": 16,
   "key_center": )" + kCenter +
                          R"(, "value_center": null, "groups": [
     {"first_kv_head": 0, "kv_heads": 1, "codec": "k4v4", "window_blocks": 4, "sink_blocks": 1,
      "score_digits": 1, "bytes_per_token": 144},
     {"first_kv_head": 1, "kv_heads": 1, "codec": "k8v16", "window_blocks": 0, "sink_blocks": 0,
      "score_digits": 0}]},
  {"layer": 2, "kv_heads": 3, "head_dim": 64, "head_dim_v": 64,
   "key_center": null, "value_center": null, "groups": [
     {"first_kv_head": 0, "kv_heads": 3, "codec": "int8", "window_blocks": 0, "sink_blocks": 0,
      "score_digits": 2}]}]})";

TEST(Calibration, GroupsAreThoseOfTheFile) {
  for (const std::size_t at_once : {1, 100, 4096}) {
    SCOPED_TRACE(at_once);
    Text text{kFile, at_once};
    const Calibration calibration(read_text, &text);
    EXPECT_EQ(text.at, kFile.size());
    ASSERT_EQ(calibration.num_groups(), 3);
    const intflash_head_group first = calibration.group(0), second = calibration.group(1),
                              third = calibration.group(2);
    EXPECT_EQ(first.layer, 7);
    EXPECT_EQ(first.first_kv_head, 0);
    EXPECT_EQ(first.num_kv_heads, 1);
    EXPECT_EQ(first.head_dim, 8);
    EXPECT_EQ(first.head_dim_v, 16);
    EXPECT_EQ(first.codec, INTFLASH_CODEC_K4V4);
    EXPECT_EQ(first.window_blocks, 4);
    EXPECT_EQ(first.sink_blocks, 1);
    EXPECT_EQ(first.score_digits, 1);
    EXPECT_EQ(first.key_center[7], 8.0f);
    EXPECT_EQ(first.value_center, nullptr);
    EXPECT_EQ(second.layer, 7);
    EXPECT_EQ(second.first_kv_head, 1);
    EXPECT_EQ(second.codec, INTFLASH_CODEC_K8V16);
    EXPECT_EQ(second.key_center, first.key_center + 8);
    EXPECT_EQ(second.key_center[2], 0.1f);
    EXPECT_EQ(second.key_center[7], 1e30f);
    EXPECT_EQ(third.layer, 2);
    EXPECT_EQ(third.num_kv_heads, 3);
    EXPECT_EQ(third.codec, INTFLASH_CODEC_INT8);
    EXPECT_EQ(third.score_digits, 2);
    EXPECT_EQ(third.key_center, nullptr);
  }
}

TEST(Calibration, CachesAreMadeOfItsGroups) {
  Text text{kFile};
  const Calibration calibration(read_text, &text);
  const Context context;
  for (std::int64_t i = 0; i < calibration.num_groups(); ++i) {
    const intflash_head_group group = calibration.group(i);
    intflash_cache_options options = cache_options();
    options.num_kv_heads = group.num_kv_heads;
    options.head_dim = group.head_dim;
    options.head_dim_v = group.head_dim_v;
    options.codec = group.codec;
    options.window_blocks = group.window_blocks;
    options.sink_blocks = group.sink_blocks;
    options.key_center = group.key_center;
    options.value_center = group.value_center;
    options.num_pages = 2;
    EXPECT_EQ(Cache(context, options).info().codec, group.codec);
  }
}

TEST(Calibration, OtherFilesAreRefusedWithThePathToWhatIsWrong) {
  const auto refused = [](const std::string& file, const std::string& part) {
    Text text{file};
    int other = 0;
    auto* calibration = reinterpret_cast<intflash_calibration*>(&other);
    EXPECT_EQ(intflash_calibration_load(read_text, &text, &calibration), INTFLASH_BAD_FILE) << part;
    EXPECT_EQ(calibration, nullptr);
    EXPECT_NE(std::string(intflash_last_error()).find(part), std::string::npos)
        << part << "\n"
        << intflash_last_error();
  };
  const auto changed = [&](const std::string& from, const std::string& to,
                           const std::string& part) {
    SCOPED_TRACE(from + " -> " + to);
    refused(replaced(kFile, from, to), part);
  };
  for (const std::size_t size : {0, 1, 30, 400}) refused(kFile.substr(0, size), "not JSON");
  refused(kFile + "x", "not JSON");
  refused("[]", "no intflash_calibration");
  refused("{\"intflash_calibration\": 3, \"layers\": []}", "layers: must not be empty");
  changed("}]},", "}, {\"first_kv_head\": 2}]},",
          "layers[0].groups[2]: behind the last of 2 kv heads");
  refused("5", "no intflash_calibration");
  changed("\"intflash_calibration\": 3", "\"intflash_calibration\": 2",
          "version 2 where 3 is read");
  changed("\"layers\"", "\"lays\"", "no layers");
  changed("\"layer\": 7", "\"layer\": 2", "layers[1].layer: stands there twice");
  changed("\"layer\": 7", "\"layer\": -1", "layers[0].layer: must be an integer, 0");
  changed("\"layer\": 7", "\"layer\": 7.0", "layers[0].layer: must be an integer");
  changed("\"layer\": 7", "\"layer\": 18446744073709551615", "layers[0].layer: must be");
  changed("\"head_dim\": 8", "\"head_dim\": 12", "layers[0].head_dim = 12");
  changed("\"head_dim_v\": 64", "\"head_dim_v\": true", "layers[1].head_dim_v: must be");
  changed("\"groups\": [", "\"groups\": 5, \"g\": [", "layers[0].groups: must be an array");
  changed("\"first_kv_head\": 1", "\"first_kv_head\": 0", "layers[0].groups[1].first_kv_head: ");
  changed("\"kv_heads\": 1, \"codec\": \"k8v16\"", "\"kv_heads\": 2, \"codec\": \"k8v16\"",
          "layers[0].groups[1].kv_heads: must be an integer, 1");
  changed("\"kv_heads\": 3, \"codec\"", "\"kv_heads\": 2, \"codec\"", "must have all 3 kv heads");
  changed("\"kv_heads\": 3, \"head", "\"kv_heads\": 4, \"head", "must have all 4 kv heads");
  changed("\"k4v4\"", "\"k3v3\"", "layers[0].groups[0].codec: must name a codec");
  changed("\"k4v4\"", "4", "layers[0].groups[0].codec: must name a codec");
  changed("\"window_blocks\": 4", "\"window_blocks\": null", "layers[0].groups[0].window_blocks");
  changed("\"score_digits\": 2", "\"score_digits\": 3", "layers[1].groups[0].score_digits");
  changed(kCenter, "[[1,2,3,4,5,6,7,8]]", "layers[0].key_center: must have 2 heads");
  changed(kCenter, "[[1,2,3,4,5,6,7,8,9],[1,2,3,4,5,6,7]]", "key_center[0]: must have 8 numbers");
  changed(kCenter, "[[],[1,2,3,4,5,6,7,8]]", "key_center[0]: must have 8 numbers");
  changed(kCenter, "[5,6]", "layers[0].key_center[0]: must be an array");
  changed("1e30]]", "1e39]]", "layers[0].key_center[1][7]: must be a finite number");
  changed("1e30]]", "1e999]]", "byte 176: not JSON");
  refused(std::string(40, '['), "nested too deeply");
  changed("1e30]]", "\"1\"]]", "layers[0].key_center[1][7]: must be a finite number");
  changed("\"key_center\": null", "\"key_center\": \"kc.npy\"", "layers[1].key_center: must be");
}

TEST(Calibration, ArgumentsAreChecked) {
  Text text{kFile};
  intflash_calibration* calibration = nullptr;
  EXPECT_EQ(intflash_calibration_load(nullptr, &text, &calibration), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(intflash_calibration_load(read_text, &text, nullptr), INTFLASH_INVALID_ARGUMENT);
  const Calibration loaded(read_text, &text);
  intflash_head_group group{};
  group.struct_size = sizeof group;
  EXPECT_EQ(intflash_calibration_get_group(nullptr, 0, &group), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(intflash_calibration_get_group(loaded.get(), -1, &group), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(intflash_calibration_get_group(loaded.get(), 3, &group), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(intflash_calibration_get_group(loaded.get(), 0, nullptr), INTFLASH_INVALID_ARGUMENT);
  group.struct_size = sizeof group + 8;
  EXPECT_EQ(intflash_calibration_get_group(loaded.get(), 0, &group), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(intflash_calibration_num_groups(nullptr), 0);
  intflash_calibration_destroy(nullptr);
}

TEST(Calibration, MemoryThatCannotBeHadIsAStatus) {
  Text text{kFile};
  intflash_calibration* calibration = nullptr;
  intflash_status status = INTFLASH_OUT_OF_MEMORY;
  long calls = 0;
  for (; status == INTFLASH_OUT_OF_MEMORY; ++calls) {
    text.at = 0;
    fail_new_after(calls);
    status = intflash_calibration_load(read_text, &text, &calibration);
    fail_new_after(-1);
    EXPECT_EQ(calibration == nullptr, status != INTFLASH_OK);
  }
  EXPECT_EQ(status, INTFLASH_OK);
  EXPECT_GT(calls, 20);
  intflash_calibration_destroy(calibration);
}

// Of a reader that says that it gave more than it was asked for, nothing is believed.
TEST(Calibration, AReaderThatGivesTooMuchEndsTheFile) {
  const auto read = [](void*, void*, std::size_t num_bytes) { return num_bytes + 1; };
  intflash_calibration* calibration = nullptr;
  EXPECT_EQ(intflash_calibration_load(read, nullptr, &calibration), INTFLASH_BAD_FILE);
}

}  // namespace
}  // namespace intflash::internal
