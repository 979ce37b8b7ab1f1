// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "balance.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <random>
#include <utility>
#include <vector>

#include "threads/node_lists.h"

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

double local_share(const internal::Schedule& schedule, const internal::NumaNodes& nodes) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> pace(0.9, 1.1);
  double local = 0;
  double all = 0;
  // How many spans of an item lie on each node.
  const auto spans_of = [&](const internal::Item& item) {
    std::vector<int> spans(static_cast<std::size_t>(nodes.count));
    const std::int64_t sequence = schedule.sections[item.section].first_request;
    for (std::int64_t span = item.first_span; span < item.first_span + item.num_spans; ++span)
      ++spans[static_cast<std::size_t>(nodes.deal(sequence + span))];
    return spans;
  };
  for (std::int32_t i = 0; i < schedule.num_stages; ++i) {
    const internal::Stage& stage = schedule.stages[i];
    const internal::Item* const items = schedule.items + stage.first_item;
    std::vector<char> memory(static_cast<std::size_t>(internal::NodeLists::bytes(stage.num_items)));
    internal::NodeLists lists(stage.num_items, nodes.count, memory.data(), [&](std::int64_t item) {
      const std::vector<int> spans = spans_of(items[item]);
      const auto most = std::max_element(spans.begin(), spans.end());
      return *most > 0 ? static_cast<std::int32_t>(most - spans.begin()) : -1;
    });
    using FreeAt = std::pair<double, std::int32_t>;  // a worker
    std::priority_queue<FreeAt, std::vector<FreeAt>, std::greater<>> workers;
    for (std::int32_t worker = 0; worker < schedule.shape.num_workers; ++worker)
      workers.emplace(0.0, worker);
    std::vector<std::int32_t> num_empty(workers.size());
    while (!workers.empty()) {
      const auto [time, worker] = workers.top();
      workers.pop();
      const std::int32_t node = nodes.deal(worker);
      const std::int64_t task = lists.take(node, num_empty[static_cast<std::size_t>(worker)]);
      if (task < 0) continue;
      const internal::Item& item = items[task];
      workers.emplace(time + static_cast<double>(item.cost) * pace(random), worker);
      local += spans_of(item)[static_cast<std::size_t>(node)] * item.num_heads;
      all += item.num_spans * item.num_heads;
    }
  }
  return all == 0 ? 1 : local / all;
}

}  // namespace intflash
