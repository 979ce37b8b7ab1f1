// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Tasks in lists by the NUMA node that each is best done on.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "machine/numa.h"

namespace intflash::internal {

class NodeLists {
 public:
  // Of memory that it is made in.
  static std::int64_t bytes(std::int64_t num_tasks) { return num_tasks * 2 * 4; }

  // Of tasks 0 ... count - 1, in this order within each list: node_of(task) is the index of a node,
  // or -1: of none, which has a list too. memory: bytes(count) of them, as long as it lives.
  template <class NodeOf>
  NodeLists(std::int64_t count, std::int32_t num_nodes, void* memory, NodeOf node_of)
      : num_lists_(num_nodes + 1), tasks_(static_cast<std::int32_t*>(memory)) {
    std::int32_t* const list_of = tasks_ + count;
    std::int64_t begin[kMaxNumaNodes + 1] = {};
    for (std::int64_t task = 0; task < count; ++task) {
      const std::int32_t node = node_of(task);
      list_of[task] = node < 0 ? num_nodes : node;
      ++end_[list_of[task]];
    }
    for (std::int32_t list = 1; list < num_lists_; ++list) {
      begin[list] = end_[list - 1];
      end_[list] += end_[list - 1];
    }
    for (std::int32_t list = 0; list < num_lists_; ++list)
      next_[list].task.store(begin[list], std::memory_order_relaxed);
    for (std::int64_t task = 0; task < count; ++task)
      tasks_[begin[list_of[task]]++] = static_cast<std::int32_t>(task);
  }
  NodeLists(const NodeLists&) = delete;
  NodeLists& operator=(const NodeLists&) = delete;

  // A task that nobody has taken, or -1: of the node's own list, then of those after it. num_empty:
  // how many of them the taker has found empty, 0 at first.
  std::int64_t take(std::int32_t node, std::int32_t& num_empty) {
    for (; num_empty < num_lists_; ++num_empty) {
      const std::int32_t list = (std::max(node, 0) + num_empty) % num_lists_;
      const std::int64_t i = next_[list].task.fetch_add(1, std::memory_order_relaxed);
      if (i < end_[list]) return tasks_[i];
    }
    return -1;
  }

 private:
  struct alignas(64) Next {
    std::atomic<std::int64_t> task;
  };

  const std::int32_t num_lists_;
  std::int32_t* const tasks_;  // list after list
  std::int64_t end_[kMaxNumaNodes + 1] = {};
  Next next_[kMaxNumaNodes + 1];
};

}  // namespace intflash::internal
