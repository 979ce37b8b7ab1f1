// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Attention keeps its algebra: what a softmax says must hold for any inputs, without an oracle.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "attention_case.h"
#include "error_bound.h"
#include "random.h"
#include "seed.h"
#include "test_ports.h"

namespace intflash::internal {
namespace {

// A case of one head in contiguous f32, whose tensors a test may change before it runs.
struct Head {
  explicit Head(AttentionCase c) : attention(c) {
    attention.seed = seed_from_test_name();
    tensors = make_tensors(attention, memory);
  }
  float* query() const { return static_cast<float*>(tensors.args.query.data); }
  float* key() const { return static_cast<float*>(tensors.args.key.data); }
  float* value() const { return static_cast<float*>(tensors.args.value.data); }
  std::int64_t key_elements() const { return attention.kv_len * attention.head_dim; }
  std::int64_t value_elements() const { return attention.kv_len * attention.head_dim_v; }

  Numbers run() {
    const CaseResult result = run_tensors(tensors, scalar_port(), {}, memory);
    EXPECT_EQ(result.status, INTFLASH_OK) << result.error;
    return numbers_of(attention, result);
  }
  Numbers bound() const { return error_bound(attention, tensors); }

  AttentionCase attention;
  Memory memory;
  CaseTensors tensors;
};

AttentionCase small_case() {
  AttentionCase c;
  c.query_len = 20;
  c.kv_len = 200;
  c.head_dim = 64;
  c.head_dim_v = 32;
  return c;
}

void expect_near(const std::vector<double>& found, const std::vector<double>& expected,
                 const std::function<double(std::size_t)>& bound) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i)
    ASSERT_NEAR(found[i], expected[i], bound(i)) << "element " << i;
}

TEST(Algebra, EqualKeysGiveTheMeanOfTheValues) {
  for (const intflash_center center : {INTFLASH_CENTER_NONE, INTFLASH_CENTER_KEY_VALUE}) {
    for (const intflash_mask mask : {INTFLASH_MASK_NONE, INTFLASH_MASK_CAUSAL}) {
      AttentionCase c = small_case();
      c.center = center;
      c.mask = mask;
      Head head(c);
      for (std::int64_t j = 1; j < c.kv_len; ++j)
        std::copy_n(head.key(), c.head_dim, head.key() + j * c.head_dim);
      const Numbers found = head.run();
      const Numbers bound = head.bound();
      for (std::int64_t i = 0; i < c.query_len; ++i) {
        const std::int64_t visible =
            mask == INTFLASH_MASK_NONE ? c.kv_len : c.kv_len - c.query_len + i + 1;
        for (std::int64_t channel = 0; channel < c.head_dim_v; ++channel) {
          double sum = 0;
          for (std::int64_t j = 0; j < visible; ++j)
            sum += static_cast<double>(head.value()[j * c.head_dim_v + channel]);
          const auto at = static_cast<std::size_t>(i * c.head_dim_v + channel);
          ASSERT_NEAR(found.out[at], sum / static_cast<double>(visible), bound.out[at]);
          ASSERT_LT(bound.out[at], 0.3);  // values are of magnitude 1
        }
      }
    }
  }
}

TEST(Algebra, OneVisibleKeyGivesItsValueAndItsScore) {
  for (const float cap : {0.0f, 20.0f}) {
    AttentionCase c = small_case();
    c.query_len = c.kv_len = 150;
    c.mask = INTFLASH_MASK_WINDOW;  // of 0 and 0: each query sees the key at its own place
    c.score_cap = cap;
    Head head(c);
    const Numbers found = head.run();
    const Numbers bound = head.bound();
    const Eigen::VectorXd lse = oracle_head(head.attention, head.tensors, 0, 0).lse;
    for (std::int64_t i = 0; i < c.query_len; ++i) {
      const float* value = head.value() + i * c.head_dim_v;
      const float largest =
          std::fabs(*std::max_element(value, value + c.head_dim_v, [](float a, float b) {
            return std::fabs(a) < std::fabs(b);
          }));
      // Half a step of the value's grid, and what the fold of its scale leaves.
      const double step = static_cast<double>(largest) * (1.01 / 254 + 0.003);
      for (std::int64_t channel = 0; channel < c.head_dim_v; ++channel) {
        const auto at = static_cast<std::size_t>(i * c.head_dim_v + channel);
        ASSERT_NEAR(found.out[at], static_cast<double>(value[channel]), step);
      }
      ASSERT_NEAR(found.lse[static_cast<std::size_t>(i)], lse(i),
                  bound.lse[static_cast<std::size_t>(i)]);
    }
  }
}

TEST(Algebra, AVectorAddedToAllKeysMovesTheLogSumExpAlone) {
  for (const intflash_center center : {INTFLASH_CENTER_NONE, INTFLASH_CENTER_KEY}) {
    AttentionCase c = small_case();
    c.center = center;
    Head head(c);
    const Numbers before = head.run();
    const Numbers bound_before = head.bound();
    Random random(1);
    std::vector<float> vector(static_cast<std::size_t>(c.head_dim));
    for (float& x : vector) x = 2 * random.normal();
    for (std::int64_t i = 0; i < head.key_elements(); ++i)
      head.key()[i] += vector[static_cast<std::size_t>(i % c.head_dim)];
    const Numbers after = head.run();
    const Numbers bound_after = head.bound();
    expect_near(after.out, before.out,
                [&](std::size_t i) { return bound_before.out[i] + bound_after.out[i]; });
    std::vector<double> moved = before.lse;
    for (std::size_t i = 0; i < moved.size(); ++i) {
      const float* query = head.query() + static_cast<std::int64_t>(i) * c.head_dim;
      moved[i] += std::inner_product(vector.begin(), vector.end(), query, 0.0) / 8;
    }
    expect_near(after.lse, moved,
                [&](std::size_t i) { return bound_before.lse[i] + bound_after.lse[i]; });
  }
}

TEST(Algebra, PermutedKeysGiveTheSameWithinTheBound) {
  const AttentionCase c = small_case();
  Head head(c);
  const Numbers before = head.run();
  const Numbers bound_before = head.bound();
  Random random(2);
  for (std::int64_t j = c.kv_len - 1; j > 0; --j) {
    const std::int64_t other = random.below(j + 1);
    if (other == j) continue;
    std::swap_ranges(head.key() + j * c.head_dim, head.key() + (j + 1) * c.head_dim,
                     head.key() + other * c.head_dim);
    std::swap_ranges(head.value() + j * c.head_dim_v, head.value() + (j + 1) * c.head_dim_v,
                     head.value() + other * c.head_dim_v);
  }
  const Numbers after = head.run();
  const Numbers bound_after = head.bound();
  expect_near(after.out, before.out,
              [&](std::size_t i) { return bound_before.out[i] + bound_after.out[i]; });
  expect_near(after.lse, before.lse,
              [&](std::size_t i) { return bound_before.lse[i] + bound_after.lse[i]; });
}

TEST(Algebra, AKeyTwiceCountsTwice) {
  AttentionCase c = small_case();
  c.kv_len = 2;
  Head once(c);
  c.kv_len = 6;
  Head thrice(c);
  std::copy_n(once.query(), c.query_len * c.head_dim, thrice.query());
  for (std::int64_t j = 0; j < 6; ++j) {
    std::copy_n(once.key() + j % 2 * c.head_dim, c.head_dim, thrice.key() + j * c.head_dim);
    std::copy_n(once.value() + j % 2 * c.head_dim_v, c.head_dim_v,
                thrice.value() + j * c.head_dim_v);
  }
  const Numbers one = once.run();
  const Numbers three = thrice.run();
  const Numbers bound_once = once.bound();
  const Numbers bound_thrice = thrice.bound();
  expect_near(three.out, one.out,
              [&](std::size_t i) { return bound_once.out[i] + bound_thrice.out[i]; });
  std::vector<double> moved = one.lse;
  for (double& lse : moved) lse += std::log(3.0);
  expect_near(three.lse, moved,
              [&](std::size_t i) { return bound_once.lse[i] + bound_thrice.lse[i]; });
}

// Powers of two are exact all the way: no bit may change but the exponents.
TEST(Algebra, ValuesTimesAPowerOfTwoGiveThatManyTimesTheOutput) {
  for (const float factor : {0x1p-40f, 0.5f, 64.0f, 0x1p40f}) {
    Head head(small_case());
    Numbers expected = head.run();
    for (double& x : expected.out) x *= static_cast<double>(factor);
    for (std::int64_t i = 0; i < head.value_elements(); ++i) head.value()[i] *= factor;
    const Numbers found = head.run();
    EXPECT_EQ(found.out, expected.out) << factor;
    EXPECT_EQ(found.lse, expected.lse) << factor;
  }
}

TEST(Algebra, APowerOfTwoMayMoveFromQueriesToKeys) {
  for (const float factor : {0x1p-40f, 2.0f, 0x1p40f}) {
    Head head(small_case());
    const Numbers expected = head.run();
    for (std::int64_t i = 0; i < head.attention.query_len * head.attention.head_dim; ++i)
      head.query()[i] *= factor;
    for (std::int64_t i = 0; i < head.key_elements(); ++i) head.key()[i] /= factor;
    const Numbers found = head.run();
    EXPECT_EQ(found.out, expected.out) << factor;
    EXPECT_EQ(found.lse, expected.lse) << factor;
  }
}

TEST(Algebra, QueriesAndKeysNegatedGiveTheSameBits) {
  Head head(small_case());
  const Numbers expected = head.run();
  for (std::int64_t i = 0; i < head.attention.query_len * head.attention.head_dim; ++i)
    head.query()[i] = -head.query()[i];
  for (std::int64_t i = 0; i < head.key_elements(); ++i) head.key()[i] = -head.key()[i];
  const Numbers found = head.run();
  EXPECT_EQ(found.out, expected.out);
  EXPECT_EQ(found.lse, expected.lse);
}

TEST(Algebra, ZeroQueriesOrKeysGiveTheMeanOfTheValues) {
  for (const bool zero_query : {true, false}) {
    for (const float other : {1.0f, 1e15f, 1e29f}) {
      AttentionCase c = small_case();
      c.query.magnitude = zero_query ? 0.0f : other;
      c.key.magnitude = zero_query ? other : 0.0f;
      Head head(c);
      const Numbers found = head.run();
      for (std::int64_t channel = 0; channel < c.head_dim_v; ++channel) {
        double mean = 0;
        for (std::int64_t j = 0; j < c.kv_len; ++j)
          mean += static_cast<double>(head.value()[j * c.head_dim_v + channel]) /
                  static_cast<double>(c.kv_len);
        for (std::int64_t i = 0; i < c.query_len; ++i)
          ASSERT_NEAR(found.out[static_cast<std::size_t>(i * c.head_dim_v + channel)], mean, 0.02)
              << "magnitude of the others " << other;
      }
      for (const double lse : found.lse)
        ASSERT_NEAR(lse, std::log(static_cast<double>(c.kv_len)), 0.02);
    }
  }
}

TEST(Algebra, ACapFarAboveTheScoresChangesLittle) {
  for (const float cap : {1e2f, 1e4f, 1e6f, 1e9f, 3e38f}) {
    AttentionCase c = small_case();
    Head head(c);
    const Numbers expected = head.run();
    head.tensors.desc.score_cap = cap;
    const Numbers found = head.run();
    expect_near(found.out, expected.out, [](std::size_t) { return 0.02; });
    expect_near(found.lse, expected.lse, [](std::size_t) { return 0.02; });
  }
}

}  // namespace
}  // namespace intflash::internal
