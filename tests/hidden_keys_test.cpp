// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What is hidden from all queries is nowhere: not in a computed centre, not in ranges, not in the
// search for NaN, not in any bit. And a computed centre does no harm.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "attention_case.h"
#include "inputs/tensor.h"
#include "relative_l1.h"
#include "test_ports.h"

namespace intflash::internal {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::int64_t kKeys = 300;

// A way to hide keys from all queries, and which ones it hides.
struct Hiding {
  std::string name;
  std::int64_t query_len;
  std::function<void(AttentionCase&)> rule;
  bool additive, bits;  // masks that are data hide them
  std::function<bool(std::int64_t)> hides;
};
std::vector<Hiding> hidings() {
  const auto window = [](AttentionCase& c) {
    c.mask = INTFLASH_MASK_WINDOW;
    c.window_left = 20;
  };
  const auto none = [](AttentionCase&) {};
  const auto early = [](std::int64_t key) { return key < kKeys - 8 - 20; };
  return {
      {"window", 8, window, false, false, early},
      {"window of one query", 1, window, false, false,
       [](std::int64_t key) { return key < kKeys - 1 - 20; }},
      {"causal from the top left", 40,
       [](AttentionCase& c) { c.mask = INTFLASH_MASK_CAUSAL_TOP_LEFT; }, false, false,
       [](std::int64_t key) { return key >= 40; }},
      {"padding by an additive mask", 8, none, true, false,
       [](std::int64_t key) { return key >= kKeys - 10; }},
      {"holes by an additive mask", 1, none, true, false,
       [](std::int64_t key) { return key % 7 == 3; }},
      {"holes by bits", 8, none, false, true, [](std::int64_t key) { return key % 5 == 1; }},
      {"a window, bits and an additive mask", 8, window, true, true,
       [](std::int64_t key) { return key < kKeys - 8 - 20 || key % 9 == 4; }},
  };
}

// What a hidden row may hold.
struct Filling {
  const char* name;
  float value;
};
constexpr Filling kFillings[] = {{"zeros", 0},
                                 {"large", 60000},
                                 {"huge", 1e38f},
                                 {"infinity", -kInfinity},
                                 {"NaN", std::numeric_limits<float>::quiet_NaN()}};

struct Call {
  AttentionCase attention;
  Memory memory;
  CaseTensors tensors;

  Call(const AttentionCase& c, const Hiding& hiding)
      : attention(c), tensors(make_tensors(c, memory)) {
    if (hiding.additive) {
      float* mask = reinterpret_cast<float*>(
          memory.take(static_cast<std::size_t>(c.query_len * kKeys) * sizeof(float)));
      for (std::int64_t i = 0; i < c.query_len * kKeys; ++i)
        mask[i] = hiding.hides(i % kKeys) ? -kInfinity : 0.25f * static_cast<float>(i % 3);
      tensors.args.additive_mask = {mask, INTFLASH_F32, 0, 0, kKeys, nullptr};
    }
    if (hiding.bits) {
      constexpr std::int64_t kWords = (kKeys + 63) / 64;
      auto* words = reinterpret_cast<std::uint64_t*>(
          memory.take(static_cast<std::size_t>(c.query_len * kWords) * sizeof(std::uint64_t)));
      for (std::int64_t i = 0; i < c.query_len * kWords; ++i) {
        words[i] = 0;
        for (std::int64_t bit = 0; bit < 64; ++bit) {
          if (!hiding.hides(i % kWords * 64 + bit)) words[i] |= std::uint64_t{1} << bit;
        }
      }
      tensors.args.bit_mask = {words, kKeys};
    }
  }
  void fill(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t dim, float value,
            const std::function<bool(std::int64_t)>& which) {
    for (std::int64_t head = 0; head < attention.batch * attention.num_kv_heads; ++head) {
      for (std::int64_t key = 0; key < kKeys; ++key) {
        for (std::int64_t i = 0; which(key) && i < dim; ++i)
          store_element(tensor, dtype, head / attention.num_kv_heads, head % attention.num_kv_heads,
                        key, i, value);
      }
    }
  }
  void fill(float value, const std::function<bool(std::int64_t)>& which) {
    fill(tensors.args.key, attention.key.dtype, attention.head_dim, value, which);
    fill(tensors.args.value, attention.value.dtype, attention.head_dim_v, value, which);
  }
  CaseResult run(const PortEntry& port = scalar_port(), bool packed = false) {
    RunOptions options;
    options.packed = packed;
    options.num_threads = 2;
    return run_tensors(tensors, port, options, memory);
  }
};

AttentionCase small_case(const Hiding& hiding) {
  AttentionCase c;
  c.batch = 2;
  c.num_kv_heads = 2;
  c.group_size = 2;
  c.query_len = hiding.query_len;
  c.kv_len = kKeys;
  hiding.rule(c);
  return c;
}

void expect_hidden(const AttentionCase& c, const Hiding& hiding, bool packed = false) {
  const CaseResult expected = Call(c, hiding).run(scalar_port(), packed);
  ASSERT_EQ(expected.status, INTFLASH_OK) << expected.error;
  for (const Filling& filling : kFillings) {
    Call call(c, hiding);
    call.fill(filling.value, hiding.hides);
    for (const PortEntry& port : all_test_ports())
      EXPECT_EQ(difference(c, call.run(port, packed), expected), "")
          << hiding.name << " hides " << filling.name << " on " << port.name;
  }
}

TEST(HiddenKeys, ChangeNoBitWhateverTheyHold) {
  for (const Hiding& hiding : hidings()) {
    for (const intflash_center center :
         {INTFLASH_CENTER_NONE, INTFLASH_CENTER_KEY, INTFLASH_CENTER_KEY_VALUE}) {
      AttentionCase c = small_case(hiding);
      c.center = center;
      c.data = CaseData::kChannelBias;
      expect_hidden(c, hiding);
    }
  }
}

TEST(HiddenKeys, ChangeNoBitOfWhatIsPackedFirst) {
  for (const Hiding& hiding : hidings()) {
    AttentionCase c = small_case(hiding);
    c.center = INTFLASH_CENTER_KEY_VALUE;
    c.key.dtype = c.value.dtype = INTFLASH_BF16;
    expect_hidden(c, hiding, true);
  }
}

TEST(HiddenKeys, ChangeNoBitOfTheReference) {
  for (const Hiding& hiding : hidings()) {
    AttentionCase c = small_case(hiding);
    c.mode = INTFLASH_MODE_EXACT;
    expect_hidden(c, hiding);
    if (hiding.additive || hiding.bits) continue;
    c.mode = INTFLASH_MODE_INTFA;
    expect_hidden(c, hiding);
  }
}

TEST(HiddenKeys, OfCodesMayBeMinus128OfAScaleThatIsNoNumber) {
  for (const Hiding& hiding : hidings()) {
    AttentionCase c = small_case(hiding);
    c.center = INTFLASH_CENTER_NONE;
    c.key.dtype = c.value.dtype = INTFLASH_INT8;
    const CaseResult expected = Call(c, hiding).run();
    ASSERT_EQ(expected.status, INTFLASH_OK) << expected.error;
    for (const float scale : {-1.0f, 1e38f, kInfinity, std::nanf("")}) {
      Call call(c, hiding);
      for (const intflash_tensor* tensor : {&call.tensors.args.key, &call.tensors.args.value}) {
        for (std::int64_t head = 0; head < c.batch * c.num_kv_heads; ++head) {
          for (std::int64_t key = 0; key < kKeys; ++key) {
            if (!hiding.hides(key)) continue;
            const_cast<float*>(
                tensor->scale)[head / c.num_kv_heads * tensor->scale_stride_batch +
                               head % c.num_kv_heads * tensor->scale_stride_head + key] = scale;
            std::int8_t* codes = static_cast<std::int8_t*>(tensor->data) +
                                 head / c.num_kv_heads * tensor->stride_batch +
                                 head % c.num_kv_heads * tensor->stride_head +
                                 key * tensor->stride_token;
            std::fill_n(codes, 64, std::int8_t{-128});
          }
        }
      }
      EXPECT_EQ(difference(c, call.run(), expected), "") << hiding.name << ", scale " << scale;
    }
  }
}

TEST(HiddenKeys, DoNotTakeTheBlameForNanThatIsSeen) {
  for (const Hiding& hiding : hidings()) {
    const AttentionCase c = small_case(hiding);
    std::int64_t seen = 0;
    while (hiding.hides(seen)) ++seen;
    Call call(c, hiding);
    call.fill(std::nanf(""), [&](std::int64_t key) { return hiding.hides(key) || key == seen; });
    const CaseResult result = call.run();
    EXPECT_EQ(result.status, INTFLASH_NONFINITE_INPUT) << hiding.name;
    const std::string name = "key[batch 0][head 0][token " + std::to_string(seen) + "][0]";
    EXPECT_NE(result.error.find(name), std::string::npos) << result.error;
  }
}

// ---- Computed centres ----

// Mean relative L1 distance of the port's out from the definition's.
double error_of(AttentionCase c, intflash_center center, std::int64_t massive, float magnitude) {
  const Hiding none = {"", 1, [](AttentionCase&) {}, false, false, nullptr};
  const auto some = [&](std::int64_t key) { return key % (kKeys / massive) == 1; };
  const auto run = [&](intflash_mode mode) {
    c.mode = mode;
    c.center = mode == INTFLASH_MODE_EXACT ? INTFLASH_CENTER_NONE : center;
    Call call(c, none);
    call.fill(call.tensors.args.key, c.key.dtype, c.head_dim, magnitude, some);
    return numbers_of(c, call.run()).out;
  };
  const std::vector<double> exact = run(INTFLASH_MODE_EXACT);
  const std::vector<double> out = run(INTFLASH_MODE_INT8);
  return relative_l1(out, exact);
}

TEST(ComputedCenters, MakeNoErrorATenthLarger) {
  int count = 0;
  for (const CaseData data : {CaseData::kNormal, CaseData::kOutliers, CaseData::kChannelBias}) {
    for (const bool rotate : {false, true}) {
      for (const std::int64_t massive : {1, 3, 30, 150}) {
        for (const float magnitude : {10.0f, 100.0f, 1000.0f}) {
          if (quick_tests() && count++ % 5 != 0) continue;
          AttentionCase c;
          c.num_kv_heads = 4;
          c.query_len = 64;
          c.kv_len = kKeys;
          c.data = data;
          c.rotate = rotate;
          const double without = error_of(c, INTFLASH_CENTER_NONE, massive, magnitude);
          const double with = error_of(c, INTFLASH_CENTER_KEY, massive, magnitude);
          EXPECT_LE(with, 1.1 * without)
              << massive << " keys of " << magnitude << (rotate ? ", rotated" : "");
        }
      }
    }
  }
}

TEST(ComputedCenters, HelpWhereChannelsHaveAMean) {
  AttentionCase c;
  c.query_len = 64;
  c.kv_len = kKeys;
  c.data = CaseData::kChannelBias;
  EXPECT_LT(error_of(c, INTFLASH_CENTER_KEY_VALUE, 1, 1),
            0.5 * error_of(c, INTFLASH_CENTER_NONE, 1, 1));
}

}  // namespace
}  // namespace intflash::internal
