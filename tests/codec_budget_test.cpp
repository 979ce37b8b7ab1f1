// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The choice of candidates under a budget, and the front, against all choices that there are.
#include "codec_budget.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "seed.h"

namespace intflash::internal {
namespace {

// Few numbers, so that bytes and damages are often equal.
Candidates random_layers(std::mt19937& random) {
  Candidates layers(1 + random() % 5);
  for (std::vector<Candidate>& layer : layers) {
    layer.resize(1 + random() % 4);
    for (Candidate& candidate : layer) {
      candidate.bytes = static_cast<std::int64_t>(random() % 20);
      candidate.damage = static_cast<double>(random() % 20);
    }
  }
  return layers;
}

std::vector<Candidate> all_choices(const Candidates& layers) {
  std::vector<Candidate> totals = {{0, 0}};
  for (const std::vector<Candidate>& layer : layers) {
    std::vector<Candidate> next;
    for (const Candidate& total : totals) {
      for (const Candidate& candidate : layer)
        next.push_back({total.bytes + candidate.bytes, total.damage + candidate.damage});
    }
    totals = next;
  }
  return totals;
}

TEST(CodecBudget, TheChoiceIsTheBestOfAllThatFit) {
  std::mt19937 random(static_cast<unsigned>(seed_from_test_name()));
  for (int i = 0; i < 500; ++i) {
    const Candidates layers = random_layers(random);
    const std::int64_t bytes = least_bytes(layers) + static_cast<std::int64_t>(random() % 40);
    Candidate best = {0, INFINITY}, chosen = {0, 0};
    for (const Candidate& total : all_choices(layers)) {
      EXPECT_GE(total.bytes, least_bytes(layers));
      const bool is_better =
          total.damage < best.damage || (total.damage == best.damage && total.bytes < best.bytes);
      if (total.bytes <= bytes && is_better) best = total;
    }
    const std::vector<std::size_t> choice = choose_candidates(layers, bytes);
    ASSERT_EQ(choice.size(), layers.size());
    for (std::size_t l = 0; l < layers.size(); ++l) {
      chosen.bytes += layers[l][choice[l]].bytes;
      chosen.damage += layers[l][choice[l]].damage;
    }
    ASSERT_EQ(chosen.damage, best.damage) << i;
    ASSERT_EQ(chosen.bytes, best.bytes) << i;
  }
}

TEST(CodecBudget, TheFrontsCornersAreChoicesAndNoChoiceLiesBelowIt) {
  std::mt19937 random(static_cast<unsigned>(seed_from_test_name()));
  for (int i = 0; i < 500; ++i) {
    const Candidates layers = random_layers(random);
    const std::vector<Candidate> front = convex_front(layers), totals = all_choices(layers);
    for (std::size_t f = 0; f < front.size(); ++f) {
      bool is_choice = false;
      for (const Candidate& total : totals) {
        is_choice |= total.bytes == front[f].bytes && total.damage == front[f].damage;
        EXPECT_GE(total.damage, front.back().damage);
        EXPECT_GE(total.bytes, front.front().bytes);
        if (f == 0 || total.bytes < front[f - 1].bytes || total.bytes > front[f].bytes) continue;
        const double share = static_cast<double>(total.bytes - front[f - 1].bytes) /
                             static_cast<double>(front[f].bytes - front[f - 1].bytes);
        const double line = front[f - 1].damage + share * (front[f].damage - front[f - 1].damage);
        ASSERT_GE(total.damage, line - 1e-9) << i;
      }
      ASSERT_TRUE(is_choice) << i << ", corner " << f;
    }
  }
}

}  // namespace
}  // namespace intflash::internal
