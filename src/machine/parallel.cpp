// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "machine/parallel.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace intflash::internal {
namespace {

void run_on_team(std::int32_t num_workers, WorkerFn fn, void* context) {
#if defined(_OPENMP)
#pragma omp parallel num_threads(num_workers)
  {
    // The team may be smaller than asked: inside another parallel region it is one thread.
    const std::int32_t stride = omp_get_num_threads();
    for (std::int32_t worker = omp_get_thread_num(); worker < num_workers; worker += stride) {
      fn(context, worker);
    }
  }
#else
  for (std::int32_t worker = 0; worker < num_workers; ++worker) fn(context, worker);
#endif
}

}  // namespace

void run_parallel(const Parallel& parallel, std::int32_t num_workers, WorkerFn fn,
                  void* context) noexcept {
  if (num_workers == 1) {
    fn(context, 0);
  } else if (parallel.run != nullptr) {
    parallel.run(parallel.user, num_workers, fn, context);
  } else {
    run_on_team(num_workers, fn, context);
  }
}

void warm_team(std::int32_t num_workers) noexcept {
  run_parallel(
      {}, num_workers, [](void*, std::int32_t) {}, nullptr);
}

}  // namespace intflash::internal
