// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Scores and values at the ends of their ranges: large ones that many keys have in common, and
// values far below their neighbours.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "attention_case.h"
#include "eigen_oracle.h"
#include "test_ports.h"
#include "tile/limits.h"

namespace intflash::internal {
namespace {

AttentionCase range_case() {
  AttentionCase c;
  c.query_len = 9;
  c.kv_len = 300;
  c.center = INTFLASH_CENTER_NONE;
  c.seed = 17;
  return c;
}

float* row_of(const intflash_tensor& tensor, std::int64_t token) {
  return static_cast<float*>(tensor.data) + token * tensor.stride_token;
}
void scale_row_of(const intflash_tensor& tensor, std::int64_t token, std::int64_t dim,
                  float factor) {
  for (std::int64_t i = 0; i < dim; ++i) row_of(tensor, token)[i] *= factor;
}

// That every port gives the exact result, out to within a share of its largest element, and
// log-sum-exp to within a share of itself.
void expect_near_exact(const AttentionCase& c, CaseTensors& tensors, Memory& memory, double share,
                       double lse_share) {
  const Numbers exact = oracle(c, tensors);
  double largest = 0;
  for (const double x : exact.out) largest = std::max(largest, std::fabs(x));
  for (const PortEntry& port : all_test_ports()) {
    const CaseResult result = run_tensors(tensors, port, {}, memory);
    ASSERT_EQ(result.status, INTFLASH_OK) << result.error;
    const Numbers found = numbers_of(c, result);
    double worst = 0, worst_lse = 0;
    for (std::size_t i = 0; i < exact.out.size(); ++i)
      worst = std::max(worst, std::fabs(found.out[i] - exact.out[i]) / largest);
    for (std::size_t i = 0; i < exact.lse.size(); ++i)
      worst_lse = std::max(worst_lse, std::fabs(found.lse[i] / exact.lse[i] - 1));
    EXPECT_LE(worst, share) << port.name;
    EXPECT_LE(worst_lse, lse_share) << port.name;
  }
}

// One value of a thousand times the others', as behind a massive activation.
void make_one_large_value(const AttentionCase& c, const CaseTensors& tensors) {
  scale_row_of(tensors.args.value, 0, c.head_dim_v, 1000);
}

TEST(Ranges, ABiasThatAllKeysShareLeavesValuesOfAnySizeTheirShares) {
  const AttentionCase c = range_case();
  for (const float bias : {-1.0f, -1e3f, -65504.0f, -1e9f, -1e30f, -3.3895e38f, 1e6f, 3.3895e38f}) {
    SCOPED_TRACE(bias);
    Memory memory;
    CaseTensors tensors = make_tensors(c, memory);
    make_one_large_value(c, tensors);
    for (std::int64_t i = 0; i < c.query_len; ++i)
      scale_row_of(tensors.args.query, i, c.head_dim, 0);
    const std::vector<float> elements(static_cast<std::size_t>(c.kv_len), bias);
    tensors.args.additive_mask = {elements.data(), INTFLASH_F32, 0, 0, 0, nullptr};
    expect_near_exact(c, tensors, memory, 0.02, std::fabs(bias) < 2e3f ? 1e-3 : 1e-6);
  }
}

TEST(Ranges, LargeScoresThatAllKeysShareLeaveValuesOfAnySizeTheirShares) {
  AttentionCase c = range_case();
  for (const float scale : {0.125f, 1.0f, 30.0f, 1e3f, 1e6f, 1e20f}) {
    SCOPED_TRACE(scale);
    c.softmax_scale = scale;
    Memory memory;
    CaseTensors tensors = make_tensors(c, memory);
    make_one_large_value(c, tensors);
    for (std::int64_t j = 1; j < c.kv_len; ++j)
      std::copy_n(row_of(tensors.args.key, 0), c.head_dim, row_of(tensors.args.key, j));
    expect_near_exact(c, tensors, memory, 0.02, 0.5);
  }
}

TEST(Ranges, TheLargestValuesHaveFiniteSumsWhateverScoresComeLater) {
  const AttentionCase c = range_case();
  // Octaves that the scores of each block of 128 keys are above those of the block before.
  for (const float octaves : {4.0f, 7.9f, 12.0f, 31.0f, 60.0f}) {
    SCOPED_TRACE(octaves);
    Memory memory;
    CaseTensors tensors = make_tensors(c, memory);
    for (std::int64_t i = 0; i < c.query_len; ++i)
      scale_row_of(tensors.args.query, i, c.head_dim, 0);
    std::vector<float> elements;
    for (std::int64_t j = 0; j < c.kv_len; ++j) {
      elements.push_back(static_cast<float>(j / kScoreBlock) * octaves /
                         static_cast<float>(kLog2E));
      std::fill_n(row_of(tensors.args.value, j), c.head_dim_v, 0x1p84f);
    }
    tensors.args.additive_mask = {elements.data(), INTFLASH_F32, 0, 0, 0, nullptr};
    expect_near_exact(c, tensors, memory, 0.02, 1e-3);
  }
}

TEST(Ranges, TinyQueriesSeeHugeKeys) {
  AttentionCase c = range_case();
  c.query.magnitude = 1e-20f;
  c.key.magnitude = 1e28f;
  c.softmax_scale = 1e-9f;
  Memory memory;
  CaseTensors tensors = make_tensors(c, memory);
  expect_near_exact(c, tensors, memory, 0.05, 0.02);
}

TEST(Ranges, AllTheWeightOnATinyValueGivesThatValue) {
  const AttentionCase c = range_case();
  for (const float factor : {1e-2f, 1e-4f, 1e-7f, 1e-8f, 1e-10f, 1e-20f, 1e-28f}) {
    for (const bool masked : {false, true}) {
      SCOPED_TRACE(testing::Message() << factor << ' ' << masked);
      AttentionCase case_of = c;
      if (masked) case_of.mask = INTFLASH_MASK_CAUSAL;
      Memory memory;
      CaseTensors tensors = make_tensors(case_of, memory);
      for (std::int64_t i = 0; i < c.query_len; ++i)
        std::fill_n(row_of(tensors.args.query, i), c.head_dim, 40.0f);
      for (std::int64_t j = 0; j < c.kv_len; ++j)
        std::fill_n(row_of(tensors.args.key, j), c.head_dim, j == 133 ? 4.0f : 0.0f);
      scale_row_of(tensors.args.value, 133, c.head_dim_v, factor);
      expect_near_exact(case_of, tensors, memory, 0.02, 1e-6);
    }
  }
}

TEST(Ranges, HalvesOfFiniteValuesAreFinite) {
  AttentionCase c = range_case();
  c.query_len = 200;
  c.out.dtype = INTFLASH_F16;
  Memory memory;
  CaseTensors tensors = make_tensors(c, memory);
  for (std::int64_t j = 0; j < c.kv_len; ++j) {
    for (std::int64_t i = 0; i < c.head_dim_v; ++i)
      row_of(tensors.args.value, j)[i] = i % 2 == 0 ? 65504.0f : -65504.0f;
  }
  expect_near_exact(c, tensors, memory, 0.005, 0.02);
}

// A row of zero codes, between others of an ordinary scale.
CaseResult run_with_zero_codes(const AttentionCase& c, float scale, const PortEntry& port) {
  Memory memory;
  CaseTensors tensors = make_tensors(c, memory);
  for (const intflash_tensor& tensor : {tensors.args.key, tensors.args.value}) {
    std::memset(static_cast<std::int8_t*>(tensor.data) + 7 * tensor.stride_token, 0,
                static_cast<std::size_t>(c.head_dim));
    const_cast<float*>(tensor.scale)[7] = scale;
  }
  return run_tensors(tensors, port, {}, memory);
}

AttentionCase case_of_codes() {
  AttentionCase c = range_case();
  c.query.dtype = c.key.dtype = c.value.dtype = INTFLASH_INT8;
  return c;
}

TEST(Ranges, ZeroCodesAreZeroWhateverTheirScale) {
  const AttentionCase c = case_of_codes();
  for (const PortEntry& port : all_test_ports()) {
    const CaseResult expected = run_with_zero_codes(c, 0.01f, port);
    EXPECT_EQ(expected.status, INTFLASH_OK) << expected.error;
    for (const float scale : {0.0f, 1e-40f, 1.0f, 1e10f})
      EXPECT_EQ(difference(c, run_with_zero_codes(c, scale, port), expected), "") << scale;
  }
}

TEST(Ranges, CodesTimesAPowerOfTwoGiveTheSameBitsAtThatPartOfTheScale) {
  const AttentionCase c = case_of_codes();
  const auto run = [&](bool times) {
    Memory memory;
    CaseTensors tensors = make_tensors(c, memory);
    for (const intflash_tensor& tensor : {tensors.args.key, tensors.args.value}) {
      for (std::int64_t j = 0; j < c.kv_len; ++j) {
        const int factor = times ? 1 << j % 6 : 1;
        auto* codes = static_cast<std::int8_t*>(tensor.data) + j * tensor.stride_token;
        for (std::int64_t i = 0; i < c.head_dim; ++i)
          codes[i] = static_cast<std::int8_t>(codes[i] / 32 * factor);
        const_cast<float*>(tensor.scale)[j] /= static_cast<float>(factor);
      }
    }
    return run_tensors(tensors, scalar_port(), {}, memory);
  };
  const CaseResult expected = run(false);
  EXPECT_EQ(expected.status, INTFLASH_OK) << expected.error;
  EXPECT_EQ(difference(c, run(true), expected), "");
}

}  // namespace
}  // namespace intflash::internal
