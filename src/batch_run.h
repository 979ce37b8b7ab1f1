// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// One run of a batch plan over a workspace, in three phases: query scanned, items attended, states
// of cut key ranges merged. A phase's tasks are independent.
#pragma once

#include <atomic>
#include <cstdint>

#include "batch_plan.h"
#include "intflash/cache.h"
#include "scan.h"
#include "team.h"

namespace intflash {

enum BatchPhase : std::int32_t { kScanPhase, kAttendPhase, kMergePhase, kNumBatchPhases };

// At the start of the workspace.
struct BatchRun {
  const intflash_batch_plan* plan;
  const intflash_cache* cache;
  const intflash_batch_args* args;
  char* workspace;
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

std::int64_t num_tasks(const intflash_batch_plan& plan, std::int32_t phase);
void run_task(BatchRun& run, std::int32_t phase, std::int64_t task, const Worker& worker);
// INTFLASH_OK, or what the scan found, or that the run was cancelled.
intflash_status result_of(const BatchRun& run);

}  // namespace intflash
