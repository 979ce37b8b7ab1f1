// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Runs a function once per worker: on OpenMP's threads by default, or on the caller's.
#pragma once

#include <cstdint>

namespace intflash::internal {

// The caller's synchronous parallel loop, as in intflash_context_options; run == nullptr: OpenMP.
struct Parallel {
  void (*run)(void* user, std::int32_t count, void (*body)(void* context, std::int32_t index),
              void* context) = nullptr;
  void* user = nullptr;
};

using WorkerFn = void (*)(void* context, std::int32_t worker);

// Calls fn(context, worker) once for each worker in [0, num_workers) and returns when all are done.
// Workers may run one after another, in any order: none may wait for another. One worker runs on
// the calling thread. Allocates nothing once the team is warm.
void run_parallel(const Parallel& parallel, std::int32_t num_workers, WorkerFn fn,
                  void* context) noexcept;

// Starts OpenMP's threads, so that the first run_parallel of this many workers need not.
void warm_team(std::int32_t num_workers) noexcept;

}  // namespace intflash::internal
