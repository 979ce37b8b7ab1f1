// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The C entry points that plans and runs of both kinds share.
#include "api/plans.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/checks.h"
#include "machine/float_state.h"
#include "machine/machine.h"
#include "threads/node_lists.h"
#include "threads/team.h"

namespace intflash::internal {
namespace {

bool is_aligned(const void* workspace) {
  return workspace != nullptr &&
         reinterpret_cast<std::uintptr_t>(workspace) % kWorkspaceAlignment == 0;
}

// The run of this plan that the workspace holds, or nullptr and the last error.
Run* begun_run(const intflash_plan* plan, void* workspace) {
  if (plan == nullptr || !is_aligned(workspace)) {
    fail(INTFLASH_INVALID_ARGUMENT,
         "plan = %p, workspace = %p: must be those of a run, and not NULL",
         static_cast<const void*>(plan), workspace);
    return nullptr;
  }
  Run* const run = static_cast<Run*>(workspace);
  if (run->mark == run_mark(*plan)) return run;
  fail(INTFLASH_INVALID_ARGUMENT, "workspace = %p: holds no run that was begun of this plan",
       workspace);
  return nullptr;
}

std::int64_t count_tasks(const intflash_plan& plan, PhaseRange phases) {
  std::int64_t tasks = 0;
  for (std::int32_t phase = phases.begin; phase < phases.end; ++phase)
    tasks += plan.calls->num_tasks(plan, phase);
  return tasks;
}

intflash_status end_run(const intflash_plan& plan, Run& run) {
  run.mark = 0;
  const FloatState float_state;  // as the tasks had it
  const intflash_status status = plan.calls->end(run);
  if (status == INTFLASH_OK) run.ended = run_mark(plan);
  return status;
}

// A phase whose tasks are best done on certain nodes.
struct NodePhase {
  Run& run;
  std::int32_t phase;
  NodeLists lists;
};

// Does tasks until there are none, those of the calling thread's node first.
void work_by_node(void* shared, std::int32_t worker) {
  NodePhase& of = *static_cast<NodePhase*>(shared);
  const FloatState float_state;
  const std::int32_t node = of.run.plan->context->nodes.of_cpu(current_cpu());
  std::int32_t num_empty = 0;
  for (std::int64_t task = of.lists.take(node, num_empty); task >= 0;
       task = of.lists.take(node, num_empty))
    of.run.plan->calls->run_task(of.run, of.phase, task, worker);
}

// False: no task of the phase has a node, and nothing was done.
bool run_by_node(Run& run, std::int32_t phase, std::int64_t num_tasks) {
  const intflash_plan& plan = *run.plan;
  const NumaNodes& nodes = plan.context->nodes;
  if (plan.node_lists_offset == 0 || plan.calls->node_of_task == nullptr) return false;
  const auto node_of = [&](std::int64_t task) {
    return nodes.find(plan.calls->node_of_task(run, phase, task));
  };
  std::int64_t num_without = 0;
  while (num_without < num_tasks && node_of(num_without) < 0) ++num_without;
  if (num_without == num_tasks) return false;
  NodePhase shared{
      run, phase, {num_tasks, nodes.count, run.workspace + plan.node_lists_offset, node_of}};
  run_parallel(plan.context->parallel,
               static_cast<std::int32_t>(std::min<std::int64_t>(plan.num_workers(), num_tasks)),
               work_by_node, &shared);
  return true;
}

}  // namespace

const Backend& backend_of(const intflash_context& context, intflash_mode mode) {
  return *context.device->backends[mode];
}

intflash_status check_plan(const intflash_plan* plan, bool is_batch) {
  if (plan == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "plan = NULL: create one first");
  if (plan->is_batch == is_batch) return INTFLASH_OK;
  return fail(INTFLASH_INVALID_ARGUMENT, "plan = %p: is of a %s: must be of a %s",
              static_cast<const void*>(plan), is_batch ? "dense call" : "batch",
              is_batch ? "batch" : "dense call");
}

void forget_run(void* workspace, std::size_t bytes) {
  if (!is_aligned(workspace) || bytes < sizeof(Run)) return;
  static_cast<Run*>(workspace)->mark = 0;
  static_cast<Run*>(workspace)->ended = 0;
}

intflash_status check_workspace(const intflash_plan& plan, const void* workspace,
                                std::size_t bytes) {
  if (plan.workspace_bytes == 0) return INTFLASH_OK;
  if (is_aligned(workspace) && bytes >= plan.workspace_bytes) return INTFLASH_OK;
  return fail(INTFLASH_WORKSPACE_TOO_SMALL,
              "workspace = %p of %zu bytes: must be %zu bytes at a multiple of %zu", workspace,
              bytes, plan.workspace_bytes, kWorkspaceAlignment);
}

intflash_status finish_run(const intflash_plan& plan, RunPart part, void* workspace) {
  Run& run = *static_cast<Run*>(workspace);
  const PhaseRange phases = plan.phases(part);
  for (std::int32_t phase = phases.begin; phase < phases.end; ++phase) {
    const std::int64_t num_tasks = plan.calls->num_tasks(plan, phase);
    if (run_by_node(run, phase, num_tasks)) continue;
    for_each_task(plan.context->parallel, plan.num_workers(), num_tasks, run.next_task,
                  [&](std::int32_t worker, std::int64_t task) {
                    plan.calls->run_task(run, phase, task, worker);
                  });
  }
  return end_run(plan, run);
}

void fill_info(const intflash_plan& plan, intflash_plan_info* target) {
  intflash_plan_info info{};
  info.mode = mode_name(plan.problem.mode);
  info.port = plan.port;
  std::memcpy(info.kernel, plan.kernel, sizeof info.kernel);
  info.num_threads = plan.num_workers();
  info.workspace_bytes = plan.workspace_bytes;
  info.codec = plan.is_batch ? plan.cache.codec->name : "";
  info.rotates_keys = plan.problem.rotation.keys ? 1 : 0;
  info.rotates_values = plan.problem.rotation.values ? 1 : 0;
  info.score_digits = !plan.problem.has_digits()                    ? 1
                      : plan.problem.digits_above == kDigitExponent ? 0
                                                                    : 2;
  write_struct(info, target);
}

}  // namespace intflash::internal

using namespace intflash::internal;

extern "C" {

void intflash_plan_destroy(intflash_plan* plan) {
  if (plan != nullptr) destroy_plan(*plan);
}

intflash_status intflash_plan_get_info(const intflash_plan* plan, intflash_plan_info* info) {
  if (plan == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "plan = NULL: create one first");
  const intflash_status status = check_struct("info", "intflash_plan_info", info);
  if (status == INTFLASH_OK) fill_info(*plan, info);
  return status;
}

size_t intflash_plan_workspace_bytes(const intflash_plan* plan) {
  return plan == nullptr ? 0 : plan->workspace_bytes;
}

int32_t intflash_plan_num_phases(const intflash_plan* plan) {
  if (plan == nullptr) return 0;
  const PhaseRange phases = plan->phases(RunPart::kAll);
  return phases.end - phases.begin;
}

int64_t intflash_plan_num_tasks(const intflash_plan* plan, int32_t phase) {
  if (phase < 0 || phase >= intflash_plan_num_phases(plan)) return 0;
  return plan->calls->num_tasks(*plan, plan->phases(RunPart::kAll).begin + phase);
}

intflash_status intflash_run_task(const intflash_plan* plan, void* workspace, int32_t phase,
                                  int64_t task, int32_t worker) {
  Run* const run = begun_run(plan, workspace);
  if (run == nullptr) return INTFLASH_INVALID_ARGUMENT;
  const std::int64_t tasks = intflash_plan_num_tasks(plan, phase);
  if (task < 0 || task >= tasks || worker < 0 || worker >= plan->num_workers()) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "phase = %d, task = %lld, worker = %d: must be a phase of the plan, below %lld and "
                "below %d",
                phase, static_cast<i64>(task), worker, static_cast<i64>(tasks),
                plan->num_workers());
  }
  const FloatState float_state;
  plan->calls->run_task(*run, plan->phases(run->part).begin + phase, task, worker);
  run->tasks_run.fetch_add(1, std::memory_order_relaxed);
  return INTFLASH_OK;
}

int32_t intflash_get_task_node(const intflash_plan* plan, const void* workspace, int32_t phase,
                               int64_t task) {
  const Run* const run = begun_run(plan, const_cast<void*>(workspace));
  if (run == nullptr || task < 0 || task >= intflash_plan_num_tasks(plan, phase) ||
      plan->calls->node_of_task == nullptr)
    return -1;
  return plan->calls->node_of_task(*run, plan->phases(run->part).begin + phase, task);
}

intflash_status intflash_end(const intflash_plan* plan, void* workspace) {
  if (plan != nullptr && plan->is_empty()) return INTFLASH_OK;
  Run* const run = begun_run(plan, workspace);
  if (run == nullptr) return INTFLASH_INVALID_ARGUMENT;
  const std::int64_t tasks_run = run->tasks_run.load(std::memory_order_relaxed);
  const std::int64_t tasks = count_tasks(*plan, plan->phases(run->part));
  if (tasks_run != tasks) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "%lld tasks of this run have run: must be the plan's %lld, each once",
                static_cast<i64>(tasks_run), static_cast<i64>(tasks));
  }
  return end_run(*plan, *run);
}

intflash_status intflash_status_of_run(const intflash_plan* plan, void* workspace) {
  if (plan != nullptr && plan->is_empty()) return INTFLASH_OK;
  if (plan == nullptr || !is_aligned(workspace) ||
      static_cast<Run*>(workspace)->ended != run_mark(*plan)) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "plan = %p, workspace = %p: must be those of a run that ended without an error",
                static_cast<const void*>(plan), workspace);
  }
  if (plan->calls->status_of == nullptr) return INTFLASH_OK;
  return plan->calls->status_of(*static_cast<Run*>(workspace));
}

}  // extern "C"
