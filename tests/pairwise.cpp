// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "pairwise.h"

#include <algorithm>
#include <cstddef>
#include <numeric>

#include "random.h"

namespace intflash::internal {
namespace {

constexpr int kFree = -1;
constexpr int kTriesPerRow = 12;  // rows tried for each row taken: more make a cover little shorter

class Cover {
 public:
  Cover(const std::vector<int>& num_levels, const PairRule& allowed)
      : num_levels_(num_levels), first_(num_levels.size() + 1) {
    std::partial_sum(num_levels.begin(), num_levels.end(), first_.begin() + 1);
    const std::size_t total = static_cast<std::size_t>(first_.back());
    state_.assign(total * total, State::kForbidden);
    for (int f = 0; f < factors(); ++f) {
      for (int g = f + 1; g < factors(); ++g) {
        for (int a = 0; a < levels(f); ++a) {
          for (int b = 0; b < levels(g); ++b) {
            if (allowed(f, a, g, b)) set(f, a, g, b, State::kMissing);
          }
        }
      }
    }
  }

  std::vector<std::vector<int>> rows() {
    std::vector<std::vector<int>> rows;
    for (int f = 0; f < factors(); ++f) {
      for (int g = f + 1; g < factors(); ++g) {
        for (int a = 0; a < levels(f); ++a) {
          for (int b = 0; b < levels(g); ++b) {
            while (at(f, a, g, b) == State::kMissing) {
              std::vector<int> row = best_row(f, a, g, b);
              if (row.empty()) break;
              mark(row);
              rows.push_back(std::move(row));
            }
          }
        }
      }
    }
    return rows;
  }

 private:
  enum class State : char { kForbidden, kMissing, kCovered };

  int factors() const { return static_cast<int>(num_levels_.size()); }
  int levels(int f) const { return num_levels_[static_cast<std::size_t>(f)]; }
  std::size_t cell(int f, int a, int g, int b) const {
    const auto left = static_cast<std::size_t>(first_[static_cast<std::size_t>(f)] + a);
    const auto right = static_cast<std::size_t>(first_[static_cast<std::size_t>(g)] + b);
    return left * static_cast<std::size_t>(first_.back()) + right;
  }
  State at(int f, int a, int g, int b) const { return state_[cell(f, a, g, b)]; }
  void set(int f, int a, int g, int b, State state) {
    state_[cell(f, a, g, b)] = state_[cell(g, b, f, a)] = state;
  }

  // Missing pairs that level a of factor f makes with the levels chosen; -1 where one is forbidden.
  int gain(const std::vector<int>& row, int f, int a) const {
    int missing = 0;
    for (int g = 0; g < factors(); ++g) {
      const int b = row[static_cast<std::size_t>(g)];
      if (g == f || b == kFree) continue;
      const State state = at(f, a, g, b);
      if (state == State::kForbidden) return -1;
      missing += state == State::kMissing ? 1 : 0;
    }
    return missing;
  }

  // The level of factor f that gains most, from a random start; kFree where none is allowed.
  int best_level(const std::vector<int>& row, int f) {
    int best = kFree;
    int best_gain = -1;
    const int start = static_cast<int>(random_.below(levels(f)));
    for (int i = 0; i < levels(f); ++i) {
      const int a = (start + i) % levels(f);
      const int gained = gain(row, f, a);
      if (gained > best_gain) {
        best_gain = gained;
        best = a;
      }
    }
    return best;
  }

  // A row with the given pair; the other factors are chosen in a random order. Empty where every
  // try met a factor without an allowed level.
  std::vector<int> best_row(int f, int a, int g, int b) {
    std::vector<int> best;
    int best_gain = -1;
    std::vector<int> order(num_levels_.size());
    for (int i = 0; i < kTriesPerRow; ++i) {
      std::vector<int> row(num_levels_.size(), kFree);
      row[static_cast<std::size_t>(f)] = a;
      row[static_cast<std::size_t>(g)] = b;
      std::iota(order.begin(), order.end(), 0);
      for (std::size_t k = order.size(); k > 1; --k)
        std::swap(order[k - 1],
                  order[static_cast<std::size_t>(random_.below(static_cast<std::int64_t>(k)))]);
      int total = 0;
      bool complete = true;
      for (const int h : order) {
        if (h == f || h == g) continue;
        const int level = best_level(row, h);
        complete &= level != kFree;
        if (!complete) break;
        total += gain(row, h, level);
        row[static_cast<std::size_t>(h)] = level;
      }
      if (complete && total > best_gain) {
        best_gain = total;
        best = row;
      }
    }
    return best;
  }

  void mark(const std::vector<int>& row) {
    for (int f = 0; f < factors(); ++f) {
      for (int g = f + 1; g < factors(); ++g)
        set(f, row[static_cast<std::size_t>(f)], g, row[static_cast<std::size_t>(g)],
            State::kCovered);
    }
  }

  std::vector<int> num_levels_;
  std::vector<int> first_;  // of each factor's levels among all
  std::vector<State> state_;
  Random random_{1};
};

}  // namespace

std::vector<std::vector<int>> pairwise_cover(const std::vector<int>& num_levels,
                                             const PairRule& allowed) {
  return Cover(num_levels, allowed).rows();
}

}  // namespace intflash::internal
