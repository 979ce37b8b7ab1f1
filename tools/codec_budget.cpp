// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "codec_budget.h"

#include <algorithm>
#include <limits>

namespace intflash {
namespace {

bool has_fewer_bytes(const Candidate& a, const Candidate& b) {
  return a.bytes < b.bytes || (a.bytes == b.bytes && a.damage < b.damage);
}

// A choice for the layers so far.
struct State {
  Candidate total;
  std::size_t before, candidate;  // the state that it goes on from, and with which candidate
};

// Those that no other one beats in both, fewest bytes first.
void keep_best(std::vector<State>& states) {
  std::stable_sort(states.begin(), states.end(), [](const State& a, const State& b) {
    return has_fewer_bytes(a.total, b.total);
  });
  double least = std::numeric_limits<double>::infinity();
  const auto is_beaten = [&](const State& state) {
    if (state.total.damage >= least) return true;
    least = state.total.damage;
    return false;
  };
  states.erase(std::remove_if(states.begin(), states.end(), is_beaten), states.end());
}

// The corners of a layer's own hull.
std::vector<Candidate> hull_of(std::vector<Candidate> layer) {
  std::sort(layer.begin(), layer.end(), has_fewer_bytes);
  std::vector<Candidate> hull;
  for (const Candidate& candidate : layer) {
    if (!hull.empty() && candidate.damage >= hull.back().damage) continue;
    while (hull.size() >= 2) {
      const Candidate &a = hull[hull.size() - 2], &b = hull.back();
      // b lies on or above the line from a to the candidate.
      if ((b.damage - a.damage) * static_cast<double>(candidate.bytes - a.bytes) <
          (candidate.damage - a.damage) * static_cast<double>(b.bytes - a.bytes))
        break;
      hull.pop_back();
    }
    hull.push_back(candidate);
  }
  return hull;
}

}  // namespace

std::int64_t least_bytes(const Candidates& layers) {
  std::int64_t bytes = 0;
  for (const std::vector<Candidate>& layer : layers)
    bytes += std::min_element(layer.begin(), layer.end(), has_fewer_bytes)->bytes;
  return bytes;
}

std::vector<std::size_t> choose_candidates(const Candidates& layers, std::int64_t bytes) {
  std::vector<std::vector<State>> states = {{{{0, 0}, 0, 0}}};  // [layers + 1]
  std::int64_t rest = least_bytes(layers);                      // of the layers to come
  for (const std::vector<Candidate>& layer : layers) {
    rest -= least_bytes({layer});
    std::vector<State> next;
    for (std::size_t s = 0; s < states.back().size(); ++s) {
      for (std::size_t c = 0; c < layer.size(); ++c) {
        const Candidate& total = states.back()[s].total;
        const Candidate sum = {total.bytes + layer[c].bytes, total.damage + layer[c].damage};
        if (sum.bytes + rest <= bytes) next.push_back({sum, s, c});
      }
    }
    keep_best(next);
    states.push_back(std::move(next));
  }
  std::vector<std::size_t> choice(layers.size());
  std::size_t state = states.back().size() - 1;  // the most bytes, and the least damage
  for (std::size_t i = layers.size(); i > 0; --i) {
    choice[i - 1] = states[i][state].candidate;
    state = states[i][state].before;
  }
  return choice;
}

std::vector<Candidate> convex_front(const Candidates& layers) {
  Candidate total = {0, 0};
  std::vector<Candidate> steps;  // between corners of layers: more bytes, and less damage
  for (const std::vector<Candidate>& layer : layers) {
    const std::vector<Candidate> hull = hull_of(layer);
    total = {total.bytes + hull.front().bytes, total.damage + hull.front().damage};
    for (std::size_t i = 1; i < hull.size(); ++i)
      steps.push_back({hull[i].bytes - hull[i - 1].bytes, hull[i - 1].damage - hull[i].damage});
  }
  // What saves most damage by byte first.
  std::stable_sort(steps.begin(), steps.end(), [](const Candidate& a, const Candidate& b) {
    return a.damage * static_cast<double>(b.bytes) > b.damage * static_cast<double>(a.bytes);
  });
  std::vector<Candidate> front = {total};
  for (const Candidate& step : steps) {
    total = {total.bytes + step.bytes, std::max(total.damage - step.damage, 0.0)};
    front.push_back(total);
  }
  return front;
}

}  // namespace intflash
