// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A CUDA device gives the bits of the scalar port: its kernels' own source, on the emulated device.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <ostream>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "attention_case.h"
#include "emulated_cuda.h"
#include "pairwise.h"
#include "seed.h"
#include "test_ports.h"

namespace intflash::internal {
namespace {

void expect_scalar_bits(AttentionCase c) {
  c.seed = seed_from_test_name();
  const CaseResult expected = run_case(c, scalar_port());
  ASSERT_EQ(expected.status, INTFLASH_OK) << expected.error << describe(c);
  const CaseResult found = run_on_device(c);
  EXPECT_EQ(found.status, INTFLASH_OK) << found.error << describe(c);
  EXPECT_EQ(difference(c, found, expected), "") << describe(c);
}

// ---- A pairwise cover of what the device serves ----

constexpr std::int64_t kQueryLens[] = {1, 5, 16, 17, 65, 130};
constexpr std::int64_t kKvLens[] = {1, 15, 64, 65, 127, 129, 300, 1100};
struct HeadDims {
  std::int64_t key, value;
};
// Those that fill a kernel's tiles come first.
constexpr HeadDims kHeadDims[] = {{64, 64},   {80, 80},   {96, 96},   {128, 128},
                                  {256, 256}, {8, 128},   {72, 24},   {120, 104},
                                  {192, 128}, {136, 200}, {576, 512}, {64, 264}};

struct Heads {
  std::int64_t batch, num_kv_heads, group_size;
};
constexpr Heads kHeads[] = {{1, 1, 1}, {1, 1, 3}, {1, 2, 4}, {2, 1, 1}};

struct Mask {
  intflash_mask kind;
  std::int64_t left, right, prefix;
};
constexpr Mask kMasks[] = {
    {INTFLASH_MASK_NONE, 0, 0, 0},
    {INTFLASH_MASK_CAUSAL, 0, 0, 0},
    {INTFLASH_MASK_WINDOW, 0, 0, 0},
    {INTFLASH_MASK_WINDOW, 100, 0, 0},
    {INTFLASH_MASK_WINDOW, 5, 70, 0},
    {INTFLASH_MASK_WINDOW, -1, 3, 0},
    {INTFLASH_MASK_WINDOW, 0, -1, 0},
    {INTFLASH_MASK_PREFIX, 0, 0, 70},
    {INTFLASH_MASK_CAUSAL_TOP_LEFT, 0, 0, 0},
};
constexpr intflash_dtype kDtypes[] = {INTFLASH_F32, INTFLASH_F16, INTFLASH_BF16};
constexpr float kSoftmaxScales[] = {0, 1, 0.01f};
struct Centers {
  intflash_center center;
  bool given;
};
constexpr Centers kCenterForms[] = {{INTFLASH_CENTER_NONE, false},
                                    {INTFLASH_CENTER_KEY, true},
                                    {INTFLASH_CENTER_KEY_VALUE, true},
                                    {INTFLASH_CENTER_KEY, false},
                                    {INTFLASH_CENTER_KEY_VALUE, false}};
constexpr float kScoreCaps[] = {0, 2, 1e-35f};
struct Magnitudes {
  float query, key, value;
};
constexpr Magnitudes kMagnitudes[] = {
    {1, 1, 1}, {1e-18f, 1e15f, 1e15f}, {1e15f, 1e-18f, 1}, {30, 30, 1e4f}, {0.01f, 1, 1e-4f}};

enum Factor {
  kQueryLen,
  kKvLen,
  kHeadDim,
  kHeadCounts,
  kMask,
  kQueryLayout,
  kKeyLayout,
  kValueLayout,
  kOutLayout,
  kQueryDtype,
  kKeyDtype,
  kValueDtype,
  kOutDtype,
  kRotate,
  kDigits,
  kData,
  kMagnitude,
  kSoftmaxScale,
  kLse,
  kSinkLogits,
  kBias,
  kCap,
  kCenters,
  kNumFactors
};

// Blocks of fibers take a second where a device takes no time.
bool allowed(int f, int a, int g, int b) {
  constexpr int kLongQueries = 4, kLongKeys = 7;
  if (f == kQueryLen && g == kKvLen) return a < kLongQueries || b < kLongKeys;
  if (f == kKvLen && g == kHeadCounts) return a < kLongKeys || b == 0;
  return true;
}

AttentionCase case_of(const std::vector<int>& row) {
  const auto level = [&](Factor f) { return static_cast<std::size_t>(row[f]); };
  const Heads heads = kHeads[level(kHeadCounts)];
  const Mask mask = kMasks[level(kMask)];
  const Magnitudes magnitudes = kMagnitudes[level(kMagnitude)];
  const auto tensor = [&](Factor dtype, Factor layout, float magnitude) {
    CaseTensor t;
    t.dtype = kDtypes[level(dtype)];
    t.layout = static_cast<Layout>(level(layout));
    t.magnitude = magnitude;
    return t;
  };
  AttentionCase c;
  c.batch = heads.batch;
  c.num_kv_heads = heads.num_kv_heads;
  c.group_size = heads.group_size;
  c.query_len = kQueryLens[level(kQueryLen)];
  c.kv_len = kKvLens[level(kKvLen)];
  c.head_dim = kHeadDims[level(kHeadDim)].key;
  c.head_dim_v = kHeadDims[level(kHeadDim)].value;
  c.query = tensor(kQueryDtype, kQueryLayout, magnitudes.query);
  c.key = tensor(kKeyDtype, kKeyLayout, magnitudes.key);
  c.value = tensor(kValueDtype, kValueLayout, magnitudes.value);
  c.out.dtype = kDtypes[level(kOutDtype)];
  c.out.layout = static_cast<Layout>(level(kOutLayout));
  c.mask = mask.kind;
  c.window_left = mask.left;
  c.window_right = mask.right;
  c.prefix_len = std::min(mask.prefix, c.kv_len);
  c.softmax_scale = kSoftmaxScales[level(kSoftmaxScale)];
  c.rotate = level(kRotate) == 1;
  c.score_digits = static_cast<std::int32_t>(level(kDigits));
  c.lse = level(kLse) == 1;
  c.sinks = level(kSinkLogits) == 1;
  c.bias = static_cast<CaseBias>(level(kBias));
  c.score_cap = kScoreCaps[level(kCap)];
  c.center = kCenterForms[level(kCenters)].center;
  c.given_centers = kCenterForms[level(kCenters)].given;
  c.data = static_cast<CaseData>(level(kData));
  return c;
}

std::vector<AttentionCase> pairwise_cases() {
  std::vector<int> levels(kNumFactors, 2);
  levels[kQueryLen] = std::size(kQueryLens);
  levels[kKvLen] = std::size(kKvLens);
  levels[kHeadDim] = std::size(kHeadDims);
  levels[kHeadCounts] = std::size(kHeads);
  levels[kMask] = std::size(kMasks);
  levels[kQueryDtype] = levels[kKeyDtype] = levels[kValueDtype] = levels[kOutDtype] = 3;
  levels[kQueryLayout] = levels[kKeyLayout] = levels[kValueLayout] = levels[kOutLayout] = 3;
  levels[kDigits] = 3;
  levels[kData] = static_cast<int>(CaseData::kSinks) + 1;
  levels[kMagnitude] = std::size(kMagnitudes);
  levels[kSoftmaxScale] = std::size(kSoftmaxScales);
  levels[kBias] = static_cast<int>(CaseBias::kAll) + 1;
  levels[kCap] = std::size(kScoreCaps);
  levels[kCenters] = std::size(kCenterForms);
  std::vector<AttentionCase> cases;
  for (const std::vector<int>& row : pairwise_cover(levels, allowed)) cases.push_back(case_of(row));
  return cases;
}

std::string name_of(const testing::TestParamInfo<AttentionCase>& info) {
  std::ostringstream name;
  name << info.index << "_q" << info.param.query_len << "_k" << info.param.kv_len << "_d"
       << info.param.head_dim << "_" << info.param.head_dim_v;
  return name.str();
}

class CudaAttention : public testing::TestWithParam<AttentionCase> {};

TEST_P(CudaAttention, GivesTheBitsOfTheScalarPort) { expect_scalar_bits(GetParam()); }

INSTANTIATE_TEST_SUITE_P(Pairwise, CudaAttention, testing::ValuesIn(pairwise_cases()), name_of);

// ---- What pairs do not reach ----

// The device's tensors, attended by the scalar port.
CaseResult run_on_scalar(CaseTensors& tensors) {
  Memory memory;
  const CaseResult result = run_tensors(tensors, scalar_port(), {}, memory);
  std::fill_n(tensors.out, tensors.out_bytes, std::byte{CaseTensors::kPoison});
  return result;
}

AttentionCase plain_case(std::int64_t query_len, std::int64_t kv_len) {
  AttentionCase c;
  c.query.dtype = c.key.dtype = c.value.dtype = c.out.dtype = INTFLASH_F32;
  c.query_len = query_len;
  c.kv_len = kv_len;
  return c;
}

TEST(CudaSpans, AreMergedByTheTreeWhateverSpanIsTheFirst) {
  for (const std::int64_t left : {std::int64_t{-1}, std::int64_t{3000}}) {
    AttentionCase c = plain_case(2, 6000);
    c.mask = INTFLASH_MASK_WINDOW;
    c.window_left = left;
    expect_scalar_bits(c);
  }
}

// Parts of 1, 2 and 4 spans, of which rows do not see all.
TEST(CudaSpans, MayBeCutForAsManyMultiprocessorsAsThereAre) {
  for (const int multiprocessors : {1, 2, 4, 100}) {
    cut_for_multiprocessors(multiprocessors);
    for (const std::int64_t left : {std::int64_t{-1}, std::int64_t{2000}}) {
      AttentionCase c = plain_case(3, 6500);
      c.group_size = 2;
      c.mask = INTFLASH_MASK_WINDOW;
      c.window_left = left;
      expect_scalar_bits(c);
    }
  }
  cut_for_multiprocessors(1);
}

// Rows that see whole blocks are weighed together where they can be: with scores that the fixed
// point holds and does not, with second digits and without, beside light and faint values.
TEST(CudaBlocks, ThatRowsSeeWholeAreWeighedInAnyForm) {
  for (int data = 0; data <= static_cast<int>(CaseData::kSinks); ++data) {
    for (const std::int32_t digits : {0, 1, 2}) {
      for (const float magnitude : {1.0f, 8.0f}) {
        AttentionCase c = plain_case(18, 300);
        c.data = static_cast<CaseData>(data);
        c.score_digits = digits;
        c.query.magnitude = c.key.magnitude = magnitude;
        expect_scalar_bits(c);
      }
    }
  }
}

// The same where two warps share rows.
TEST(CudaBlocks, ThatRowsOf256ChannelsSeeWholeAreWeighedInAnyForm) {
  for (int data = 0; data <= static_cast<int>(CaseData::kSinks); ++data) {
    for (const std::int32_t digits : {0, 1}) {
      AttentionCase c = plain_case(18, 300);
      c.head_dim = c.head_dim_v = 256;
      c.data = static_cast<CaseData>(data);
      c.score_digits = digits;
      expect_scalar_bits(c);
    }
  }
}

// The same beside what acts on scores: caps and masks, of which a tree begins in the second block.
TEST(CudaBlocks, ThatRowsSeeWholeAreWeighedAsMasksSay) {
  for (int bias = 0; bias <= static_cast<int>(CaseBias::kAll); ++bias) {
    for (const float cap : {0.0f, 2.0f}) {
      AttentionCase c = plain_case(18, 300);
      c.bias = static_cast<CaseBias>(bias);
      c.score_cap = cap;
      expect_scalar_bits(c);
    }
  }
}

// Of the first block's rows the first 16 see all, and the last one lacks a key.
TEST(CudaBlocks, ThatAMaskOfZerosLeavesAreWhole) {
  AttentionCase c = plain_case(18, 300);
  c.head_dim_v = c.head_dim;
  c.bias = CaseBias::kAdditive;
  c.seed = seed_from_test_name();
  DeviceMemory memory;
  CaseTensors tensors = make_tensors(c, memory);
  const intflash_additive_mask& mask = tensors.args.additive_mask;
  auto* const elements = static_cast<float*>(const_cast<void*>(mask.data));
  for (std::int64_t query = 0; query < c.query_len; ++query)
    std::fill_n(elements + query * mask.stride_query, 128, 0.0f);
  elements[17 * mask.stride_query + 100] = -INFINITY;
  const CaseResult expected = run_on_scalar(tensors);
  ASSERT_EQ(expected.status, INTFLASH_OK) << expected.error;
  EXPECT_EQ(difference(c, run_on_device(tensors), expected), "");
}

// A scale that is a power of 2^(1/64) already, or next to one.
TEST(CudaValues, ThatLieOnTheGridOfScalesStayThere) {
  AttentionCase c = plain_case(4, 9);
  c.head_dim_v = c.head_dim;
  c.seed = seed_from_test_name();
  DeviceMemory memory;
  CaseTensors tensors = make_tensors(c, memory);
  const float largest[] = {127.0f, 254.0f, std::nextafter(127.0f, 0.0f),
                           std::nextafter(127.0f, 200.0f), 127.0f / 1024};
  const intflash_tensor& value = tensors.args.value;
  for (std::int64_t token = 0; token < 5; ++token)
    static_cast<float*>(value.data)[token * value.stride_token + 7] = largest[token];
  const CaseResult expected = run_on_scalar(tensors);
  ASSERT_EQ(expected.status, INTFLASH_OK) << expected.error;
  EXPECT_EQ(difference(c, run_on_device(tensors), expected), "");
}

TEST(CudaKeys, ThatThereAreNoneOfGiveZero) { expect_scalar_bits(plain_case(3, 0)); }

}  // namespace
}  // namespace intflash::internal
