// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// How tasks are handed out to workers.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "machine/float_state.h"
#include "threads/parallel.h"

namespace intflash::internal {

// Calls task(worker, index) for each index below count, from so many workers at most, in the order
// of the counter `next`.
template <class TaskFn>
void for_each_task(const Parallel& parallel, std::int64_t num_workers, std::int64_t count,
                   std::atomic<std::int64_t>& next, TaskFn task) {
  if (count == 0) return;
  struct Context {
    std::int64_t count;
    std::atomic<std::int64_t>& next;
    TaskFn& task;
  } context{count, next, task};
  next.store(0, std::memory_order_relaxed);
  const auto run_worker = [](void* opaque, std::int32_t worker) {
    const Context& shared = *static_cast<Context*>(opaque);
    const FloatState float_state;
    for (std::int64_t i = shared.next.fetch_add(1, std::memory_order_relaxed); i < shared.count;
         i = shared.next.fetch_add(1, std::memory_order_relaxed)) {
      shared.task(worker, i);
    }
  };
  const std::int64_t workers = std::min(num_workers, count);
  run_parallel(parallel, static_cast<std::int32_t>(workers), run_worker, &context);
}

}  // namespace intflash::internal
