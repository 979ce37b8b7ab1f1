// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Pairwise covers hold what they promise: the tests of the ports rest on them.
#include "pairwise.h"

#include <set>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

namespace intflash::internal {
namespace {

using Rows = std::vector<std::vector<int>>;
using Pair = std::tuple<int, int, int, int>;

const PairRule kAll = [](int, int, int, int) { return true; };

std::set<Pair> pairs_of(const Rows& rows) {
  std::set<Pair> pairs;
  for (const std::vector<int>& row : rows) {
    const int factors = static_cast<int>(row.size());
    for (int f = 0; f < factors; ++f) {
      for (int g = f + 1; g < factors; ++g) {
        pairs.insert({f, row[static_cast<std::size_t>(f)], g, row[static_cast<std::size_t>(g)]});
      }
    }
  }
  return pairs;
}

std::set<Pair> allowed_pairs(const std::vector<int>& num_levels, const PairRule& allowed) {
  std::set<Pair> pairs;
  const int factors = static_cast<int>(num_levels.size());
  for (int f = 0; f < factors; ++f) {
    for (int g = f + 1; g < factors; ++g) {
      for (int a = 0; a < num_levels[static_cast<std::size_t>(f)]; ++a) {
        for (int b = 0; b < num_levels[static_cast<std::size_t>(g)]; ++b) {
          if (allowed(f, a, g, b)) pairs.insert({f, a, g, b});
        }
      }
    }
  }
  return pairs;
}

TEST(PairwiseCover, HoldsEveryPair) {
  for (const std::vector<int>& levels :
       {std::vector<int>{2, 2}, {3, 1, 4}, {2, 2, 2, 2, 2, 2, 2}, {12, 12, 13, 6, 5, 8, 3, 3, 6}}) {
    EXPECT_EQ(pairs_of(pairwise_cover(levels, kAll)), allowed_pairs(levels, kAll));
  }
}

TEST(PairwiseCover, HoldsEveryAllowedPairAndNoOther) {
  // Level 1 of factor 0 excludes level 0 of factor 2, and level 2 of factor 1 excludes level 1 of
  // factor 3.
  const PairRule rule = [](int f, int a, int g, int b) {
    return !(f == 0 && a == 1 && g == 2 && b == 0) && !(f == 1 && a == 2 && g == 3 && b == 1);
  };
  const std::vector<int> levels = {3, 4, 3, 2, 5};
  EXPECT_EQ(pairs_of(pairwise_cover(levels, rule)), allowed_pairs(levels, rule));
}

TEST(PairwiseCover, IsNotMuchLongerThanItsTwoLargestFactorsDemand) {
  const std::vector<int> levels = {12, 13, 6, 6, 6, 5, 5, 4, 3, 3, 3, 2, 2, 2};
  EXPECT_LE(pairwise_cover(levels, kAll).size(), 12u * 13u * 13u / 10u);
}

TEST(PairwiseCover, IsTheSameEachTime) {
  const std::vector<int> levels = {7, 5, 4, 3};
  EXPECT_EQ(pairwise_cover(levels, kAll), pairwise_cover(levels, kAll));
}

TEST(PairwiseCover, LeavesOutAPairThatNoRowCanHold) {
  // Level 0 of factor 0 meets no level of factor 2.
  const PairRule rule = [](int f, int a, int g, int) { return !(f == 0 && a == 0 && g == 2); };
  for (const std::vector<int>& row : pairwise_cover({2, 2, 2}, rule)) EXPECT_EQ(row[0], 1);
}

}  // namespace
}  // namespace intflash::internal
