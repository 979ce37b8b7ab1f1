// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "balance.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <vector>

namespace intflash {

Balance balance_of(const internal::Schedule& schedule) {
  const auto workers = static_cast<std::size_t>(schedule.shape.num_workers);
  double sum = 0;
  double busiest = 0;
  for (std::int32_t i = 0; i < schedule.num_stages; ++i) {
    const internal::Stage& stage = schedule.stages[i];
    std::priority_queue<double, std::vector<double>, std::greater<>> busy_until(
        {}, std::vector<double>(workers, 0.0));
    double last = 0;
    for (std::int64_t item = 0; item < stage.num_items; ++item) {
      const double cost = static_cast<double>(schedule.items[stage.first_item + item].cost);
      const double end = busy_until.top() + cost;
      busy_until.pop();
      busy_until.push(end);
      last = std::max(last, end);
      sum += cost;
    }
    busiest += last;
  }
  double merges = 0;
  for (std::int64_t i = 0; i < schedule.num_merges; ++i)
    merges += static_cast<double>(schedule.merges[i].cost);
  if (sum == 0) return {1, 0};
  return {busiest * static_cast<double>(workers) / sum, merges / (sum + merges)};
}

}  // namespace intflash
