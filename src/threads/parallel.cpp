// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "threads/parallel.h"

#include "threads/thread_pool.h"

#if defined(_OPENMP)
#include <omp.h>

#include <algorithm>
#endif

namespace intflash::internal {

void run_parallel(const Parallel& parallel, std::int32_t num_workers, WorkerFn fn,
                  void* context) noexcept {
  if (num_workers > 1 && parallel.run != nullptr) {
    parallel.run(parallel.user, num_workers, fn, context);
  } else {
    for (std::int32_t worker = 0; worker < num_workers; ++worker) fn(context, worker);
  }
}

#if defined(_OPENMP)

bool has_openmp() noexcept { return true; }

std::int32_t openmp_num_threads() noexcept { return omp_get_max_threads(); }

Parallel openmp_parallel() noexcept {
  return {[](void*, std::int32_t count, WorkerFn body, void* context) {
            if (fork_generation() != 0) return run_parallel({}, count, body, context);
#pragma omp parallel num_threads(count)
            {
              // The team may be smaller than asked: inside another parallel region it is one
              // thread.
              const std::int32_t stride = omp_get_num_threads();
              for (std::int32_t worker = omp_get_thread_num(); worker < count; worker += stride)
                body(context, worker);
            }
          },
          nullptr};
}

void add_openmp_places(CpuSet& cpus) noexcept {
  const auto add_place = [](int place, CpuSet& to) {
    int ids[kMaxCpus];
    const int count = std::min(omp_get_place_num_procs(place), static_cast<int>(kMaxCpus));
    if (count > 0) omp_get_place_proc_ids(place, ids);
    for (int i = 0; i < count; ++i) to.set(static_cast<std::size_t>(ids[i]) % kMaxCpus);
  };
  const int here = omp_get_proc_bind() == omp_proc_bind_false ? -1 : omp_get_place_num();
  CpuSet bound_to;
  if (here >= 0) add_place(here, bound_to);
  if (bound_to != cpus) return;
  for (int place = 0; place < omp_get_num_places(); ++place) add_place(place, cpus);
}

#else

bool has_openmp() noexcept { return false; }

std::int32_t openmp_num_threads() noexcept { return 1; }

Parallel openmp_parallel() noexcept { return {}; }

void add_openmp_places(CpuSet&) noexcept {}

#endif

}  // namespace intflash::internal
