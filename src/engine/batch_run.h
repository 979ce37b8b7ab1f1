// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// One run of a batch plan over a workspace, in phases: query scanned; then for each stage items
// attended, and states of cut key ranges merged. A phase's tasks are independent.
#pragma once

#include <atomic>
#include <cstdint>

#include "core/scan.h"
#include "engine/batch_plan.h"
#include "engine/team.h"
#include "intflash/cache.h"

namespace intflash::internal {

constexpr std::int32_t kScanPhase = 0;
inline std::int32_t num_phases(const intflash_batch_plan& plan) { return 1 + 2 * plan.num_stages; }

// At the start of the workspace.
struct BatchRun {
  const intflash_batch_plan* plan;
  const intflash_cache* cache;
  const intflash_batch_args* args;
  char* workspace;
  double largest_key;  // magnitude, in the pages that are read, before or after centring
  TensorScan query;
  std::atomic<std::int64_t> next_task;
  std::atomic<std::int32_t> cancelled;
  std::atomic<std::int64_t> first_bad_bias;  // lowest query of the batch whose mask is bad

  ScannedTensor query_tensor() const;
  Team team();
};

// A state in a slot: references, sums, accumulators.
inline std::int64_t state_bytes(const TileShape& tile) {
  return 2 * kMaxTileRows * 4 + tile.rows * tile.accumulator_stride * 4;
}

// Of one kv head, the states that sections hand over: totals of all rows, then states of the spans
// in which sections end; of each, references, sums, accumulators.
inline std::int64_t handed_state_bytes(std::int64_t num_rows, const TileShape& tile) {
  return 2 * round_up(num_rows, 16) * 4 + num_rows * tile.accumulator_stride * 4;
}

std::int64_t num_tasks(const intflash_batch_plan& plan, std::int32_t phase);
void run_task(BatchRun& run, std::int32_t phase, std::int64_t task, const Worker& worker);
// INTFLASH_OK, or what the scan found, or that the run was cancelled.
intflash_status result_of(const BatchRun& run);

}  // namespace intflash::internal
