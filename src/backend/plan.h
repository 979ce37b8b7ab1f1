// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The plan of a dense call or of a batch: what was asked for, and how a backend goes about it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

#include "context/context.h"
#include "core/checks.h"
#include "core/int8_window.h"
#include "engine/schedule.h"
#include "inputs/problem.h"
#include "intflash/cache.h"
#include "pages/codec.h"
#include "pages/page.h"

namespace intflash::internal {

struct PhaseRange {
  std::int32_t begin, end;
};

// What the caches of a batch plan must be like.
struct CacheShape {
  PageLayout layout;
  std::int64_t num_kv_heads;
  std::int64_t num_pages;
  Rotation rotation;
  const Codec* codec;
  Int8Window window;
};

struct RunCalls;  // backend/backend.h

}  // namespace intflash::internal

// What every backend's plan begins with.
struct intflash_plan {
  std::uint64_t serial;
  const intflash_context* context;
  const intflash::internal::RunCalls* calls;
  bool is_batch;
  intflash::internal::Problem problem;    // of a batch: all its queries, and no keys
  intflash::internal::CacheShape cache;   // of a batch
  intflash::internal::Schedule schedule;  // of which a backend takes what it wants

  const char* port;
  char kernel[64];
  // Phases that pack keys, if any, come before those that attend them.
  std::int32_t num_pack_phases, num_phases;
  bool packs_first;  // a whole run begins with the former; else it packs as it attends
  std::size_t workspace_bytes;
  std::int64_t page_set_offset;  // of a batch: scratch for the check of page tables, of the caches'
                                 // num_pages, in the workspace
  std::int64_t node_lists_offset;  // of NodeLists of the tasks of any phase that have nodes; 0:
                                   // none have

  bool is_empty() const { return !is_batch && problem.is_empty(); }
  std::int32_t num_workers() const { return schedule.shape.num_workers; }
  intflash::internal::PhaseRange phases(intflash::internal::RunPart part) const {
    using intflash::internal::RunPart;
    if (part == RunPart::kPack) return {0, num_pack_phases};
    return {part == RunPart::kAll && packs_first ? 0 : num_pack_phases, num_phases};
  }
};

namespace intflash::internal {

// Cut the work of what has been checked, for a backend's new plan. False: no memory.
bool cut_dense(const intflash_context& context, const Problem& problem, const ScheduleShape& shape,
               intflash_plan& plan);
bool cut_batch(const intflash_context& context, const intflash_cache& cache,
               const intflash_batch_desc& desc, const ScheduleShape& shape, intflash_plan& plan);
// A plan of a backend's type, in the context's memory, as far as cut(plan) makes it.
template <class Plan, class Cut>
intflash_status create_plan(const intflash_context& context, Plan*& plan, Cut cut) {
  void* const memory = context.allocate(context.allocator_user, sizeof(Plan), 64);
  Plan* const made = memory == nullptr ? nullptr : new (memory) Plan{};
  if (made != nullptr && cut(*made)) {
    plan = made;
    return INTFLASH_OK;
  }
  if (made != nullptr) context.deallocate(context.allocator_user, made);
  return fail(INTFLASH_OUT_OF_MEMORY, "no memory for a plan of at least %zu bytes", sizeof(Plan));
}
void destroy_plan(intflash_plan& plan);

}  // namespace intflash::internal
