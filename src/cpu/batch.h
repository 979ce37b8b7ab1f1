// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A ragged batch over a cache on the CPU's ports: its plan, and one run of it over a workspace, in
// phases: query scanned; then for each stage items attended, and states of cut key ranges merged.
// A phase's tasks are independent.
#pragma once

#include <atomic>
#include <cstdint>

#include "cache/kv_cache.h"
#include "core/scan.h"
#include "engine/attention.h"
#include "engine/schedule.h"
#include "engine/team.h"
#include "intflash/cache.h"

namespace intflash::internal {

// Where in the workspace the parts of a run lie.
struct BatchLayout {
  TileShape tile;
  WorkerLayout worker;
  std::int64_t page_set_offset;  // scratch of the page tables' check
  std::int64_t slots_offset;
  std::int64_t handed_offset;
  std::int64_t workers_offset;
  std::int64_t total_bytes;
};

}  // namespace intflash::internal

struct intflash_batch_plan {
  std::uint64_t serial;
  const intflash_context* context;
  // What the cache must be like.
  intflash::internal::PageLayout page;
  std::int64_t num_kv_heads;
  std::int64_t num_pages;
  bool rotate;

  std::int64_t num_query_heads;
  intflash_dtype query_dtype;
  intflash_dtype out_dtype;
  float score_cap;
  float largest_softmax_scale;
  std::int64_t spans_at_once;

  intflash::internal::Schedule schedule;
  intflash::internal::BatchLayout layout;

  std::int32_t num_workers() const { return schedule.shape.num_workers; }
};

namespace intflash::internal {

// Cuts the batch of desc, which has been checked, for caches of this shape. nullptr: no memory.
intflash_batch_plan* make_batch_plan(const intflash_context& context, const intflash_cache& cache,
                                     const intflash_batch_desc& desc);
void free_batch_plan(intflash_batch_plan& plan);

// What the workspace of a run of plan that was begun, and has not ended, begins with.
inline std::uint64_t run_mark(const intflash_batch_plan& plan) {
  constexpr std::uint64_t kBatchRun = 0x6e75726863746162;  // "batchrun"
  return kBatchRun ^ plan.serial;
}

// At the start of the workspace.
struct BatchRun {
  std::uint64_t mark;
  const intflash_batch_plan* plan;
  const intflash_cache* cache;
  intflash_batch_args args;
  char* workspace;
  double query_scale;  // the largest of an INT8 query's scales; 1 of any other
  double largest_key;  // magnitude, in the pages that are read, before or after centring
  TensorScan query;
  std::atomic<std::int64_t> next_task;
  std::atomic<std::int64_t> tasks_run;  // by the caller
  std::atomic<std::int32_t> cancelled;
  std::atomic<std::int64_t> first_bad_bias;  // lowest query of the batch whose mask is bad
  Attention attention;

  ScannedTensor query_tensor() const;
  Team team();
};

// Begins a run whose arguments have been checked; largest_key as in BatchRun.
BatchRun& begin_run(const intflash_batch_plan& plan, const intflash_cache& cache,
                    const intflash_batch_args& args, double largest_key, void* workspace);

std::int32_t num_phases(const intflash_batch_plan& plan);
std::int64_t num_tasks(const intflash_batch_plan& plan, std::int32_t phase);
void run_task(BatchRun& run, std::int32_t phase, std::int64_t task, const Worker& worker);
// INTFLASH_OK, or what the scan found, or that the run was cancelled.
intflash_status result_of(const BatchRun& run);

}  // namespace intflash::internal
