// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// intflash_merge_states: the merge of any split is the whole.
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "serving.h"

namespace intflash::internal::serving {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<std::int32_t> pages_of(std::int64_t first, std::int64_t count) {
  return page_range(static_cast<std::int32_t>(first), count);
}

TEST(MergeStates, TheMergeOfAnySplitOfTheKeysIsTheWhole) {
  Shape shape;
  Server server(shape);
  const Tokens tokens = random_tokens(shape, 448, 31);
  server.append(tokens, 0, 448, pages_of(0, 7));
  Request whole;
  whole.query_len = 5;
  whole.kv_len = 448;
  whole.pages = pages_of(0, 7);
  whole.mask = INTFLASH_MASK_NONE;
  whole.query = tokens.query.data();
  const Result expected = server.attend({whole})[0];
  for (const std::vector<std::int64_t>& cuts :
       {std::vector<std::int64_t>{0, 7}, {0, 1, 7}, {0, 3, 4, 7}, {0, 1, 2, 3, 4, 5, 6, 7}}) {
    std::vector<Result> parts;
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      Request part = whole;
      part.pages = pages_of(cuts[i], cuts[i + 1] - cuts[i]);
      part.first_key_position = 0;
      part.kv_len = (cuts[i + 1] - cuts[i]) * 64;
      parts.push_back(server.attend({part})[0]);
    }
    const std::int64_t heads = shape.num_query_heads();
    std::vector<intflash_tensor> outs;
    std::vector<const float*> lses;
    for (const Result& part : parts) {
      outs.push_back(tensor_of(part.out.data(), heads, shape.head_dim_v));
      lses.push_back(part.lse.data());
    }
    // In place: over the first part.
    ASSERT_EQ(intflash_merge_states(static_cast<std::int64_t>(parts.size()), outs.data(),
                                    lses.data(), heads, whole.query_len, shape.head_dim_v, &outs[0],
                                    parts[0].lse.data()),
              INTFLASH_OK)
        << intflash_last_error();
    double difference = 0, size = 0;
    for (std::size_t i = 0; i < expected.out.size(); ++i) {
      difference += std::fabs(expected.out[i] - parts[0].out[i]);
      size += std::fabs(expected.out[i]);
    }
    // Other blocks of keys, other units of P: as far apart as two quantizations.
    EXPECT_LT(difference, 0.02 * size) << cuts.size() - 1 << " parts";
    for (std::size_t i = 0; i < expected.lse.size(); ++i)
      EXPECT_NEAR(expected.lse[i], parts[0].lse[i], 2e-3);
  }
}

// Rows of one head, one behind the other.
intflash_tensor rows_of(const std::vector<float>& data, std::int64_t dim) {
  return tensor_of(data.data(), 1, dim);
}

TEST(MergeStates, OneStateIsLeftAsItIsAndEmptyOnesAddNothing) {
  const std::vector<float> out = {1.5f, -2, 3, 4}, lse = {0.5f, -7};
  const std::vector<float> nothing = {NAN, NAN, NAN, NAN}, empty = {-kInfinity, -kInfinity};
  const intflash_tensor outs[] = {rows_of(nothing, 2), rows_of(out, 2), rows_of(nothing, 2)};
  const float* lses[] = {empty.data(), lse.data(), empty.data()};
  std::vector<float> merged(4), merged_lse(2);
  const intflash_tensor target = rows_of(merged, 2);
  ASSERT_EQ(intflash_merge_states(3, outs, lses, 1, 2, 2, &target, merged_lse.data()), INTFLASH_OK);
  EXPECT_EQ(merged, out);
  EXPECT_EQ(merged_lse, lse);
  ASSERT_EQ(intflash_merge_states(1, outs, lses, 1, 2, 2, &target, merged_lse.data()), INTFLASH_OK);
  EXPECT_EQ(merged, std::vector<float>(4, 0.0f));
  EXPECT_EQ(merged_lse, empty);
}

TEST(MergeStates, WeightsAreThoseOfTheDefinition) {
  const std::vector<float> a = {1}, b = {5}, lse_a = {std::log(3.0f)}, lse_b = {0};
  const intflash_tensor outs[] = {rows_of(a, 1), rows_of(b, 1)};
  const float* lses[] = {lse_a.data(), lse_b.data()};
  std::vector<float> out(1);
  float lse = 0;
  const intflash_tensor target = rows_of(out, 1);
  ASSERT_EQ(intflash_merge_states(2, outs, lses, 1, 1, 1, &target, &lse), INTFLASH_OK);
  EXPECT_NEAR(out[0], 2.0, 1e-6);
  EXPECT_NEAR(lse, std::log(4.0), 1e-6);
}

TEST(MergeStates, HeadsAndRowsMayLieInAnyOrder) {
  // Two heads of two rows of one channel: heads first in one state, rows first in the other.
  const std::vector<float> a = {1, 2, 3, 4}, b = {10, 30, 20, 40};
  const std::vector<float> lse_a(4, 0.0f), lse_b(4, 0.0f);
  intflash_tensor outs[] = {tensor_of(a.data(), 1, 1), tensor_of(b.data(), 2, 1)};
  outs[0].stride_head = 2;
  const float* lses[] = {lse_a.data(), lse_b.data()};
  std::vector<float> merged(4), lse(4);
  intflash_tensor target = tensor_of(merged.data(), 1, 1);
  target.stride_head = 2;
  ASSERT_EQ(intflash_merge_states(2, outs, lses, 2, 2, 1, &target, lse.data()), INTFLASH_OK);
  for (std::size_t i = 0; i < 4; ++i)
    EXPECT_NEAR(merged[i], 5.5 * static_cast<double>(i + 1), 1e-5) << i;
}

TEST(MergeStates, OfNoStatesAreThoseOfRowsThatSawNoKey) {
  std::vector<float> out = {7, 7};
  float lse = 7;
  const intflash_tensor target = rows_of(out, 2);
  ASSERT_EQ(intflash_merge_states(0, nullptr, nullptr, 1, 1, 2, &target, &lse), INTFLASH_OK);
  EXPECT_EQ(out, std::vector<float>({0, 0}));
  EXPECT_EQ(lse, -kInfinity);
  EXPECT_EQ(intflash_merge_states(0, nullptr, nullptr, 1, 0, 2, nullptr, nullptr), INTFLASH_OK);
}

TEST(MergeStates, BadStatesAreRefusedAndNothingIsWritten) {
  const std::vector<float> out = {1, 2};
  float lse[] = {0, NAN};
  const intflash_tensor outs[] = {rows_of(out, 1)};
  const float* lses[] = {lse};
  std::vector<float> merged = {7, 7}, merged_lse = {7, 7};
  const intflash_tensor target = rows_of(merged, 1);
  const auto merge = [&](std::int64_t num_states, const intflash_tensor* given) {
    return intflash_merge_states(num_states, given, lses, 1, 2, 1, &target, merged_lse.data());
  };
  EXPECT_EQ(merge(1, outs), INTFLASH_NONFINITE_INPUT);
  EXPECT_NE(std::string(intflash_last_error()).find("lses[0][head 0][1]"), std::string::npos);
  lse[1] = kInfinity;
  EXPECT_EQ(merge(1, outs), INTFLASH_NONFINITE_INPUT);
  EXPECT_EQ(merge(-1, outs), INTFLASH_BAD_SHAPE);
  EXPECT_EQ(merge(1, nullptr), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(merged[0], 7);
  EXPECT_EQ(merged_lse[1], 7);
}

}  // namespace
}  // namespace intflash::internal::serving
