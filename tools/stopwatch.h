// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Wall time of a piece of work.
#pragma once

#include <algorithm>
#include <chrono>
#include <limits>
#include <vector>

namespace intflash {

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

template <class Work>
double seconds_of(const Work& work) {
  const Stopwatch watch;
  work();
  return watch.seconds();
}

// How long a run takes that nothing else interrupts; what decides how many runs make a sample.
template <class Work>
double shortest_of_three(const Work& work) {
  return std::min({seconds_of(work), seconds_of(work), seconds_of(work)});
}

// The shortest of a few runs: at least three, and more until so many seconds have passed; fewer
// where each takes long.
template <class Work>
double best_seconds(const Work& work, double enough) {
  constexpr double kTooMuch = 10;
  const Stopwatch watch;
  double best = std::numeric_limits<double>::infinity();
  for (int runs = 0; runs < 3 || watch.seconds() < enough; ++runs) {
    best = std::min(best, seconds_of(work));
    if (watch.seconds() > kTooMuch) break;
  }
  return best;
}

inline double median(std::vector<double> samples) {
  const auto middle = samples.begin() + static_cast<std::ptrdiff_t>(samples.size() / 2);
  std::nth_element(samples.begin(), middle, samples.end());
  return *middle;
}

}  // namespace intflash
