// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The seam between the C interface and what computes: the CPU's ports, and the double-precision
// reference. Shapes, pointers and strides have been checked in front of it; what they point to is
// checked behind it, where the data lies.
#pragma once

#include <atomic>
#include <cstdint>

#include "backend/plan.h"
#include "core/checks.h"
#include "intflash/cache.h"

namespace intflash::internal {

// What the workspace of a run begins with.
struct Run {
  std::uint64_t mark;    // run_mark() from begin to end
  std::uint64_t ended;   // the same from an end without an error on
  std::uint64_t packed;  // the backend's mark where packed keys outlive the run; 0: there are none
  const intflash_plan* plan;
  char* workspace;
  RunPart part;
  std::int32_t (*should_cancel)(void* user);  // nullptr: never
  void* cancel_user;
  std::atomic<std::int64_t> next_task;
  std::atomic<std::int64_t> tasks_run;  // by the caller
  std::atomic<std::int32_t> cancelled;
  std::atomic<std::int32_t> soundness;  // 0: not known yet; 1: of what is to be attended; -1: not
};

// What the workspace of a run of plan that was begun, and has not ended, begins with.
inline std::uint64_t run_mark(const intflash_plan& plan) {
  constexpr std::uint64_t kRun = 0x6e75726873616c66;  // "flashrun"
  return kRun ^ plan.serial;
}

inline void begin_run(const intflash_plan& plan, RunPart part, void* workspace, Run& run) {
  run.plan = &plan;
  run.workspace = static_cast<char*>(workspace);
  run.part = part;
  run.next_task.store(0, std::memory_order_relaxed);
  run.tasks_run.store(0, std::memory_order_relaxed);
  run.cancelled.store(0, std::memory_order_relaxed);
  run.soundness.store(0, std::memory_order_relaxed);
  run.mark = run_mark(plan);
  run.ended = 0;
}

inline bool was_cancelled(Run& run) {
  if (run.cancelled.load(std::memory_order_relaxed) != 0) return true;
  if (run.should_cancel == nullptr || run.should_cancel(run.cancel_user) == 0) return false;
  run.cancelled.store(1, std::memory_order_relaxed);
  return true;
}
// The same for functions that are handed a Run as a pointer.
inline bool is_run_cancelled(void* run) { return was_cancelled(*static_cast<Run*>(run)); }

// What is_sound says once the phases before have looked at all inputs; it is asked as good as once.
template <class IsSound>
bool may_attend(Run& run, IsSound is_sound) {
  std::int32_t known = run.soundness.load(std::memory_order_relaxed);
  if (known == 0) {
    known = is_sound() ? 1 : -1;
    run.soundness.store(known, std::memory_order_relaxed);
  }
  return known > 0;
}
// INTFLASH_OK, or the error that a run ends with that was cancelled.
inline intflash_status check_cancelled(const Run& run) {
  if (run.cancelled.load(std::memory_order_relaxed) == 0) return INTFLASH_OK;
  return fail(INTFLASH_CANCELLED, "should_cancel asked for the end of the run");
}

// A plan's own functions. Phases are those of PhaseRange; a device that only enqueues has none.
struct RunCalls {
  // Begins a run in a workspace of the plan's size, whose arguments' shapes have been checked. Of
  // the two the one that is of the plan's kind is there.
  intflash_status (*begin)(const intflash_plan& plan, const intflash_attend_args& args,
                           RunPart part, void* workspace) = nullptr;
  intflash_status (*begin_batch)(const intflash_plan& plan, const intflash_cache& cache,
                                 const intflash_batch_args& args, void* workspace) = nullptr;
  std::int64_t (*num_tasks)(const intflash_plan& plan, std::int32_t phase);
  // Tasks of a phase are independent; each may run on any worker.
  void (*run_task)(Run& run, std::int32_t phase, std::int64_t task, std::int32_t worker) = nullptr;
  // INTFLASH_OK, or what was found wrong while the tasks ran.
  intflash_status (*end)(Run& run);
  // The system's number of the NUMA node that a task's keys lie on; -1: none. nullptr: of all
  // tasks.
  std::int32_t (*node_of_task)(const Run& run, std::int32_t phase, std::int64_t task) = nullptr;
  // Of a run that has ended: waits for what it enqueued, and says what came of it. nullptr: end
  // has said it.
  intflash_status (*status_of)(Run& run) = nullptr;
};

struct Backend {
  const char* name;
  // A plan of what has been checked, from the context's allocator; or why there is none.
  intflash_status (*create_plan)(const intflash_context& context, const Problem& problem,
                                 intflash_plan*& plan);
  intflash_status (*create_batch_plan)(const intflash_context& context, const intflash_cache& cache,
                                       const intflash_batch_desc& desc, intflash_plan*& plan);
};

extern const Backend kCpuBackend;        // modes int8 and int8_qk
extern const Backend kReferenceBackend;  // modes exact and intfa, over the same caches
extern const Device kCpuDevice;          // both

}  // namespace intflash::internal
