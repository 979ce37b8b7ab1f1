// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What modes int8 and int8_qk compute is attention: the scalar port against mode exact and against
// an oracle written with Eigen, within the bound that the arithmetic's own steps give.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "attention_case.h"
#include "eigen_oracle.h"
#include "error_bound.h"
#include "seed.h"
#include "test_ports.h"

namespace intflash::internal {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// The largest |a - b| / bound, and where it is.
struct Worst {
  double ratio = 0;
  std::size_t index = 0;
};
Worst worst_of(const std::vector<double>& a, const std::vector<double>& b,
               const std::vector<double>& bound) {
  Worst worst;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i]) continue;  // also -infinity, of rows that see no key
    const double ratio = std::fabs(a[i] - b[i]) / bound[i];
    if (ratio <= worst.ratio) continue;  // false for NaN
    worst = {std::isnan(ratio) ? kInfinity : ratio, i};
  }
  return worst;
}

std::string at(const std::vector<double>& a, const std::vector<double>& b,
               const std::vector<double>& bound, Worst worst) {
  return "element " + std::to_string(worst.index) + ": " + std::to_string(a[worst.index]) +
         " against " + std::to_string(b[worst.index]) + ", bound " +
         std::to_string(bound[worst.index]);
}

void expect_within(const Numbers& found, const Numbers& exact, const Numbers& bound) {
  ASSERT_EQ(found.out.size(), exact.out.size());
  ASSERT_EQ(found.lse.size(), exact.lse.size());
  const Worst out = worst_of(found.out, exact.out, bound.out);
  EXPECT_LE(out.ratio, 1) << "out " << at(found.out, exact.out, bound.out, out);
  const Worst lse = worst_of(found.lse, exact.lse, bound.lse);
  EXPECT_LE(lse.ratio, 1) << "lse " << at(found.lse, exact.lse, bound.lse, lse);
}

// Half a unit of f32 of the result, and what double leaves.
Numbers bound_of_exact(const Numbers& exact) {
  Numbers bound = exact;
  for (double& x : bound.out) x = std::fabs(x) * 0x1p-24 + 1e-12;
  for (double& x : bound.lse) x = std::fabs(x) * 0x1p-24 + 1e-12;
  return bound;
}

struct Trial {
  AttentionCase attention;
  Memory memory;
  CaseTensors tensors;
  Numbers oracle_numbers;

  explicit Trial(AttentionCase c) : attention(c) {
    attention.seed = seed_from_test_name();
    tensors = make_tensors(attention, memory);
    oracle_numbers = oracle(attention, tensors);
  }
  Numbers result(const PortEntry& port, intflash_mode mode) {
    tensors.desc.mode = mode;
    const CaseResult result = run_tensors(tensors, port, {}, memory);
    EXPECT_EQ(result.status, INTFLASH_OK) << result.error;
    return numbers_of(attention, result);
  }
};

void check_against_oracles(const AttentionCase& attention) {
  SCOPED_TRACE(describe(attention));
  Trial trial(attention);
  Numbers exact;
  if (attention.out.dtype == INTFLASH_F32) {
    exact = trial.result(scalar_port(), INTFLASH_MODE_EXACT);
    expect_within(exact, trial.oracle_numbers, bound_of_exact(trial.oracle_numbers));
  }
  for (const intflash_mode mode : {INTFLASH_MODE_INT8, INTFLASH_MODE_INT8_QK}) {
    SCOPED_TRACE(mode);
    trial.attention.mode = mode;
    const Numbers bound = error_bound(trial.attention, trial.tensors);
    const Numbers found = trial.result(scalar_port(), mode);
    expect_within(found, trial.oracle_numbers, bound);
    if (attention.out.dtype == INTFLASH_F32) expect_within(found, exact, bound);
  }
}

AttentionCase small_case() {
  AttentionCase c;
  c.query_len = quick_length(33, 11);
  c.kv_len = quick_length(300, 200);
  c.head_dim = 64;
  c.head_dim_v = 40;
  return c;
}

AttentionCase int8_case() {
  AttentionCase c = small_case();
  c.query.dtype = c.key.dtype = c.value.dtype = INTFLASH_INT8;
  return c;
}

TEST(Attention, OfFloatsIsWithinTheBound) {
  for (const intflash_dtype dtype : {INTFLASH_F32, INTFLASH_F16, INTFLASH_BF16}) {
    AttentionCase c = small_case();
    c.query.dtype = c.key.dtype = c.value.dtype = dtype;
    check_against_oracles(c);
  }
}

// Codes are exact, so only the fixed point, the exponential and the levels of the weights are left:
// the bound is tight here.
TEST(Attention, OfCodesIsWithinTheBound) {
  for (const std::int64_t scale_block : {0, 1, 7, 64, 1000}) {
    AttentionCase c = int8_case();
    c.query.scale_block = c.key.scale_block = c.value.scale_block = scale_block;
    check_against_oracles(c);
    c.num_kv_heads = 2;
    c.kv_len = 90;
    c.key.one_scale = c.value.one_scale = true;
    check_against_oracles(c);
  }
}

TEST(Attention, IsWithinTheBoundForEveryMask) {
  for (const AttentionCase& start : {small_case(), int8_case()}) {
    AttentionCase c = start;
    c.mask = INTFLASH_MASK_CAUSAL;
    check_against_oracles(c);
    c.query_len = 140;
    c.kv_len = 100;
    check_against_oracles(c);
    c.mask = INTFLASH_MASK_CAUSAL_TOP_LEFT;
    check_against_oracles(c);
    std::swap(c.query_len, c.kv_len);
    check_against_oracles(c);
    std::swap(c.query_len, c.kv_len);
    c.mask = INTFLASH_MASK_WINDOW;
    c.window_left = 20;
    c.window_right = 3;
    check_against_oracles(c);
    c.window_right = -1;
    check_against_oracles(c);
    c.mask = INTFLASH_MASK_PREFIX;
    for (const std::int64_t prefix_len : {0, 1, 70, 100}) {
      c.prefix_len = prefix_len;
      check_against_oracles(c);
    }
  }
}

TEST(Attention, OfGgmlBlocksIsWithinTheBound) {
  for (const Layout layout : {Layout::kHeadsFirst, Layout::kTokensFirst, Layout::kPaddedRows}) {
    AttentionCase c = small_case();
    c.num_kv_heads = 2;
    c.head_dim_v = 32;
    c.key.layout = c.value.layout = layout;
    c.key.dtype = INTFLASH_Q8_0;
    c.value.dtype = INTFLASH_Q4_0;
    check_against_oracles(c);
    std::swap(c.key.dtype, c.value.dtype);
    check_against_oracles(c);
  }
}

TEST(Attention, IsWithinTheBoundBesideSinks) {
  for (const intflash_center center : {INTFLASH_CENTER_NONE, INTFLASH_CENTER_KEY_VALUE}) {
    for (const float cap : {0.0f, 5.0f}) {
      AttentionCase c = small_case();
      c.group_size = 3;
      c.sinks = true;
      c.center = center;
      c.data = CaseData::kChannelBias;
      c.score_cap = cap;
      c.softmax_scale = 0.02f;
      check_against_oracles(c);
      c.mask = INTFLASH_MASK_CAUSAL;
      c.query_len = 140;
      c.kv_len = 100;  // some rows have their sink alone
      check_against_oracles(c);
    }
  }
}

TEST(Attention, IsWithinTheBoundForEveryLength) {
  for (const AttentionCase& start : {small_case(), int8_case()}) {
    for (const std::int64_t query_len : {1, 17}) {
      for (const std::int64_t kv_len : {1, 2, 63, 64, 65, 127, 128, 129, 1025, 2100}) {
        AttentionCase c = start;
        c.query_len = query_len;
        c.kv_len = quick_length(kv_len, 1100);
        c.head_dim = c.head_dim_v = 32;
        check_against_oracles(c);
      }
    }
  }
}

TEST(Attention, IsWithinTheBoundForEveryHeadDim) {
  for (const AttentionCase& start : {small_case(), int8_case()}) {
    for (const std::int64_t dim : {8, 40, 72, 80, 96, 112, 128, 192, 256, 576, 1024}) {
      AttentionCase c = start;
      c.query_len = 5;
      c.kv_len = 70;
      c.head_dim = dim;
      c.head_dim_v = 24;
      check_against_oracles(c);
      std::swap(c.head_dim, c.head_dim_v);
      check_against_oracles(c);
    }
  }
}

TEST(Attention, IsWithinTheBoundForGroupsAndBatches) {
  AttentionCase c = int8_case();
  c.kv_len = 70;
  for (const std::int64_t group : {1, 3, 8}) {
    c.batch = 2;
    c.num_kv_heads = 2;
    c.group_size = group;
    c.query_len = 9;
    check_against_oracles(c);
  }
}

TEST(Attention, IsWithinTheBoundForEveryLayout) {
  for (const Layout layout : {Layout::kTokensFirst, Layout::kPaddedRows}) {
    AttentionCase c = int8_case();
    c.num_kv_heads = c.batch = 2;
    c.kv_len = 70;
    c.query.layout = c.key.layout = c.value.layout = c.out.layout = layout;
    check_against_oracles(c);
  }
}

TEST(Attention, IsWithinTheBoundForEveryOutDtype) {
  for (const intflash_dtype dtype : {INTFLASH_F32, INTFLASH_F16, INTFLASH_BF16}) {
    AttentionCase c = int8_case();
    c.out.dtype = dtype;
    check_against_oracles(c);
  }
}

TEST(Attention, IsWithinTheBoundForEveryCenter) {
  for (const intflash_center center :
       {INTFLASH_CENTER_NONE, INTFLASH_CENTER_KEY, INTFLASH_CENTER_KEY_VALUE}) {
    for (const bool given : {false, true}) {
      for (const CaseData data : {CaseData::kNormal, CaseData::kChannelBias}) {
        AttentionCase c = small_case();
        c.center = center;
        c.given_centers = given;
        c.data = data;
        c.num_kv_heads = 2;
        c.mask = INTFLASH_MASK_CAUSAL;
        check_against_oracles(c);
      }
    }
  }
}

// Keys that FP8 holds at 448, and a centre that is where they were: any key may be above the sink.
TEST(Attention, IsWithinTheBoundFarFromGivenCenters) {
  AttentionCase c = small_case();
  c.center = INTFLASH_CENTER_KEY_VALUE;
  c.given_centers = c.rotate = c.sinks = true;
  c.key.dtype = INTFLASH_F8_E4M3;
  c.key.magnitude = 4e18f;
  c.batch = 40;
  c.group_size = 2;
  c.mask = INTFLASH_MASK_CAUSAL;
  c.query_len = c.kv_len = 6;
  check_against_oracles(c);
}

TEST(Attention, IsWithinTheBoundRotated) {
  for (const std::int64_t dim : {8, 40, 64, 72, 96, 112, 128}) {
    for (const CaseData data : {CaseData::kNormal, CaseData::kOutliers}) {
      AttentionCase c = small_case();
      c.rotate = true;
      c.head_dim = dim;
      c.data = data;
      c.softmax_scale = 0.01f;
      check_against_oracles(c);
    }
  }
}

TEST(Attention, IsWithinTheBoundUnderACap) {
  for (const AttentionCase& start : {small_case(), int8_case()}) {
    for (const float cap : {0.5f, 5.0f, 50.0f}) {
      AttentionCase c = start;
      c.score_cap = cap;
      check_against_oracles(c);
      c.softmax_scale = 3;
      c.mask = INTFLASH_MASK_CAUSAL;
      check_against_oracles(c);
    }
  }
}

TEST(Attention, IsWithinTheBoundUnderMasksThatAreData) {
  for (int bias = 1; bias <= static_cast<int>(CaseBias::kAll); ++bias) {
    for (const intflash_center center : {INTFLASH_CENTER_NONE, INTFLASH_CENTER_KEY_VALUE}) {
      for (const float cap : {0.0f, 5.0f}) {
        AttentionCase c = small_case();
        c.group_size = 2;
        c.batch = 2;
        c.mask = INTFLASH_MASK_CAUSAL;
        c.bias = static_cast<CaseBias>(bias);
        c.center = center;
        c.score_cap = cap;
        check_against_oracles(c);
      }
    }
  }
}

TEST(Attention, IsWithinTheBoundForEverySoftmaxScale) {
  for (const AttentionCase& start : {small_case(), int8_case()}) {
    for (const float scale : {1e-30f, 1e-3f, 0.05f, 0.3f, 1.0f, 10.0f, 1e3f}) {
      AttentionCase c = start;
      c.softmax_scale = scale;
      check_against_oracles(c);
    }
  }
}

TEST(Attention, IsWithinTheBoundForEveryDistribution) {
  for (const CaseData data : {CaseData::kOutliers, CaseData::kChannelBias, CaseData::kAllEqual,
                              CaseData::kZeroRows, CaseData::kOneHot, CaseData::kSinks}) {
    for (const AttentionCase& start : {small_case(), int8_case()}) {
      AttentionCase c = start;
      c.data = data;
      check_against_oracles(c);
    }
  }
}

TEST(Attention, IsWithinTheBoundForEveryMagnitude) {
  for (const float magnitude : {1e-18f, 1e-9f, 1e-3f, 1e3f, 1e9f, 1e15f}) {
    for (const bool same_scores : {true, false}) {
      AttentionCase c = small_case();
      c.query.magnitude = magnitude;
      c.key.magnitude = same_scores ? 1 / magnitude : magnitude;
      c.value.magnitude = magnitude;
      check_against_oracles(c);
    }
  }
}

// Keys whose values are 0, 1e-4 or 1e-30 of the others', with from nothing to all of the weight.
// The denominator keeps their share, though their values are too small for the grid.
TEST(Attention, KeepsTheShareOfSinksInTheDenominator) {
  for (const float sink : {0.0f, 1e-4f, 1e-30f}) {
    for (const double share : {0.01, 0.1, 0.5, 0.9, 0.99}) {
      for (const float cap : {0.0f, 30.0f}) {
        AttentionCase c = small_case();
        c.query_len = 1;
        c.score_cap = cap;
        c.center = INTFLASH_CENTER_NONE;
        Trial trial(c);
        // Key 5 alone has a score other than 0: ln(share / (1 - share) * the others).
        auto* query = static_cast<float*>(trial.tensors.args.query.data);
        auto* key = static_cast<float*>(trial.tensors.args.key.data);
        auto* value = static_cast<float*>(trial.tensors.args.value.data);
        std::fill_n(query, c.head_dim, 1.0f);
        std::fill_n(key, c.kv_len * c.head_dim, 0.0f);
        const double score = std::log(share / (1 - share) * static_cast<double>(c.kv_len - 1));
        std::fill_n(key + 5 * c.head_dim, c.head_dim, static_cast<float>(score / 8));
        for (std::int64_t channel = 0; channel < c.head_dim_v; ++channel)
          value[5 * c.head_dim_v + channel] *= sink;
        trial.oracle_numbers = oracle(trial.attention, trial.tensors);
        for (const intflash_mode mode : {INTFLASH_MODE_INT8, INTFLASH_MODE_INT8_QK}) {
          trial.attention.mode = mode;
          const Numbers found = trial.result(scalar_port(), mode);
          expect_within(found, trial.oracle_numbers, error_bound(trial.attention, trial.tensors));
          if (cap > 0) continue;
          EXPECT_NEAR(found.lse[0], std::log(static_cast<double>(c.kv_len - 1) / (1 - share)), 0.01)
              << "sink " << sink << " share " << share;
        }
      }
    }
  }
}

// Scores of +-1e5: one key takes all of the weight, and the row is its value.
TEST(Attention, OfOneKeyFarAboveTheOthersIsItsValue) {
  AttentionCase c = small_case();
  c.data = CaseData::kOneHot;
  Trial trial(c);
  const Numbers found = trial.result(scalar_port(), INTFLASH_MODE_INT8);
  const OracleHead head = oracle_head(trial.attention, trial.tensors, 0, 0);
  for (std::int64_t i = 0; i < c.query_len; ++i) {
    Eigen::Index top = 0;
    const double largest = head.score.row(i).maxCoeff(&top);
    Eigen::VectorXd others = head.score.row(i).transpose();
    others(top) = -kInfinity;
    // The distance is beyond what quantization to 8 bits can hide.
    if (largest - others.maxCoeff() < 0.05 * largest) continue;
    // Half a step of the value's code, and what the fold of its scale leaves.
    const double step = head.value.row(top).cwiseAbs().maxCoeff() * (1.01 / 254 + 0.003);
    for (std::int64_t channel = 0; channel < c.head_dim_v; ++channel) {
      EXPECT_NEAR(found.out[static_cast<std::size_t>(i * c.head_dim_v + channel)],
                  head.value(top, channel), step);
    }
  }
}

// A bound that never bound anything would let every test above pass.
TEST(ErrorBound, OfOrdinaryCodesIsSmallBesideTheValues) {
  Trial trial(int8_case());
  const Numbers bound = error_bound(trial.attention, trial.tensors);
  for (const double out : bound.out) EXPECT_LT(out, 0.2);  // values are of magnitude 1
  for (const double lse : bound.lse) EXPECT_LT(lse, 0.1);
}

}  // namespace
}  // namespace intflash::internal
