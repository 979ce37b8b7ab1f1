// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A ragged batch over a cache on the CPU's ports: its plan, and one run of it over a workspace, in
// phases: query scanned; then for each stage items attended, and states of cut key ranges merged.
#pragma once

#include <atomic>
#include <cstdint>

#include "backend/backend.h"
#include "cache/kv_cache.h"
#include "engine/attention.h"
#include "inputs/scan.h"
#include "intflash/cache.h"

namespace intflash::internal {

struct BatchPlan : intflash_plan {
  float largest_softmax_scale;
  std::int64_t spans_at_once;
  TileShape tile;
  WorkerLayout worker;

  // Offsets into the workspace.
  std::int64_t slots_offset;
  std::int64_t handed_offset;
  std::int64_t workers_offset;
};

// At the start of the workspace.
struct BatchRun : Run {
  const intflash_cache* cache;
  intflash_batch_args args;
  double largest_key;  // magnitude, in the pages that are read, before or after centring
  TensorScan query;
  std::atomic<std::int64_t> first_bad_bias;  // lowest query of the batch whose mask is bad
  Attention attention;

  const BatchPlan& batch_plan() const { return static_cast<const BatchPlan&>(*plan); }
  ScannedTensor query_tensor() const;
};

// As Backend has it.
intflash_status create_batch_plan(const intflash_context& context, const intflash_cache& cache,
                                  const intflash_batch_desc& desc, intflash_plan*& plan);

}  // namespace intflash::internal
