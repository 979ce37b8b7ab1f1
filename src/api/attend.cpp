// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The C entry points of dense calls: arguments -> Problem -> plan -> run.
#include <algorithm>
#include <cstdio>

#include "api/plans.h"
#include "core/checks.h"

namespace {

using namespace intflash::internal;

intflash_status make_plan(const intflash_context* context, const intflash_attend_desc* desc,
                          intflash_plan*& plan) {
  if (context == nullptr)
    return fail(INTFLASH_INVALID_ARGUMENT, "context = NULL: create one first");
  Problem problem{};
  intflash_status status = make_problem(desc, problem);
  if (status == INTFLASH_OK)
    status = backend_of(*context, problem.mode).create_plan(*context, problem, plan);
  if (status == INTFLASH_OK && problem.is_empty()) {
    plan->workspace_bytes = 0;
    plan->num_pack_phases = plan->num_phases = 0;
    std::snprintf(plan->kernel, sizeof plan->kernel, "attend/%s/nothing", mode_name(problem.mode));
  }
  return status;
}

intflash_status begin(const intflash_plan* plan, const intflash_attend_args* given, RunPart part,
                      void* workspace, std::size_t bytes) {
  intflash_status status = check_plan(plan, false);
  if (status != INTFLASH_OK) return status;
  forget_run(workspace, bytes);
  intflash_attend_args args;
  status = read_args(plan->problem, given, part, args);
  if (status == INTFLASH_OK) status = check_workspace(*plan, workspace, bytes);
  if (status != INTFLASH_OK || plan->is_empty()) return status;
  return plan->calls->begin(*plan, args, part, workspace);
}

intflash_status run(const intflash_plan* plan, const intflash_attend_args* args, RunPart part,
                    void* workspace, std::size_t bytes) {
  const intflash_status status = begin(plan, args, part, workspace, bytes);
  if (status != INTFLASH_OK || plan->is_empty()) return status;
  return finish_run(*plan, part, workspace);
}

}  // namespace

extern "C" {

intflash_status intflash_query_support(const intflash_context* context,
                                       const intflash_attend_desc* desc, intflash_plan_info* info) {
  return query_plan(info, [&](intflash_plan*& plan) { return make_plan(context, desc, plan); });
}

intflash_status intflash_plan_attend(intflash_context* context, const intflash_attend_desc* desc,
                                     intflash_plan** plan) {
  if (plan == nullptr)
    return fail(INTFLASH_INVALID_ARGUMENT, "plan = NULL: must point to where the handle goes");
  return make_plan(context, desc, *plan);
}

intflash_status intflash_begin(const intflash_plan* plan, const intflash_attend_args* args,
                               void* workspace, size_t bytes) {
  return begin(plan, args, RunPart::kAll, workspace, bytes);
}

intflash_status intflash_pack(const intflash_plan* plan, const intflash_attend_args* args,
                              void* workspace, size_t bytes) {
  return run(plan, args, RunPart::kPack, workspace, bytes);
}

intflash_status intflash_run_packed(const intflash_plan* plan, const intflash_attend_args* args,
                                    void* workspace, size_t bytes) {
  return run(plan, args, RunPart::kAttendPacked, workspace, bytes);
}

intflash_status intflash_run(const intflash_plan* plan, const intflash_attend_args* args,
                             void* workspace, size_t bytes) {
  return run(plan, args, RunPart::kAll, workspace, bytes);
}

intflash_status intflash_attend(intflash_context* context, const intflash_attend_desc* desc,
                                const intflash_attend_args* args) {
  intflash_plan* plan = nullptr;
  intflash_status status = make_plan(context, desc, plan);
  if (status != INTFLASH_OK) return status;
  const std::size_t bytes = std::max(plan->workspace_bytes, kWorkspaceAlignment);
  void* const workspace = context->allocate(context->allocator_user, bytes, kWorkspaceAlignment);
  if (workspace == nullptr) {
    status = fail(INTFLASH_OUT_OF_MEMORY, "no memory for a workspace of %zu bytes", bytes);
  } else {
    status = intflash_run(plan, args, workspace, bytes);
    if (status == INTFLASH_OK) status = intflash_status_of_run(plan, workspace);
    context->deallocate(context->allocator_user, workspace);
  }
  intflash_plan_destroy(plan);
  return status;
}

}  // extern "C"
