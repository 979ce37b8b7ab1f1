// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Runs a function once per worker: on whatever threads a context has.
#pragma once

#include <cstdint>

#include "machine/machine.h"

namespace intflash::internal {

// A synchronous parallel loop: the context's pool, OpenMP's, or the caller's, as in
// intflash_context_options. run == nullptr: the calling thread alone.
struct Parallel {
  void (*run)(void* user, std::int32_t count, void (*body)(void* context, std::int32_t index),
              void* context) = nullptr;
  void* user = nullptr;
};

using WorkerFn = void (*)(void* context, std::int32_t worker);

// Calls fn(context, worker) once for each worker in [0, num_workers) and returns when all are done.
// Workers may run one after another, in any order: none may wait for another. One worker runs on
// the calling thread.
void run_parallel(const Parallel& parallel, std::int32_t num_workers, WorkerFn fn,
                  void* context) noexcept;

// ---- OpenMP, where it is built in. ----

bool has_openmp() noexcept;

// The size of a team by default: OMP_NUM_THREADS, unless the host has said otherwise since. 1
// without OpenMP.
std::int32_t openmp_num_threads() noexcept;

// Runs on a team of the calling thread's; alone in a forked child, where libgomp would wait for
// threads of its parent's.
Parallel openmp_parallel() noexcept;

// Where OpenMP has bound the calling thread to one of its places, adds the CPUs of all of them.
void add_openmp_places(CpuSet& cpus) noexcept;

}  // namespace intflash::internal
