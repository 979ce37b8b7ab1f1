// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the entry points of dense calls and of batches have in common.
#pragma once

#include <cstddef>

#include "backend/backend.h"
#include "core/structs.h"

namespace intflash::internal {

constexpr std::size_t kWorkspaceAlignment = 64;

// What serves a mode, of a context's device.
const Backend& backend_of(const intflash_context& context, intflash_mode mode);

// Whether the plan is there, and of the kind that the call is for.
intflash_status check_plan(const intflash_plan* plan, bool is_batch);
// What was begun in a workspace before is over, whether a run then begins or not.
void forget_run(void* workspace, std::size_t bytes);
intflash_status check_workspace(const intflash_plan& plan, const void* workspace,
                                std::size_t bytes);
// A run that was begun, to its end.
intflash_status finish_run(const intflash_plan& plan, RunPart part, void* workspace);

void fill_info(const intflash_plan& plan, intflash_plan_info* target);

// What make(plan) makes is asked, and destroyed; info may be nullptr.
template <class Make>
intflash_status query_plan(intflash_plan_info* info, Make make) {
  if (info != nullptr) {
    const intflash_status status = check_struct("info", "intflash_plan_info", info);
    if (status != INTFLASH_OK) return status;
  }
  intflash_plan* plan = nullptr;
  const intflash_status status = make(plan);
  if (status == INTFLASH_OK && info != nullptr) fill_info(*plan, info);
  intflash_plan_destroy(plan);
  return status;
}

}  // namespace intflash::internal
