// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The plan of a dense call in mode int8: a batch of requests over pages in its workspace.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "cache/page.h"
#include "core/scan.h"
#include "engine/attention.h"
#include "engine/backend.h"
#include "engine/schedule.h"

namespace intflash::internal {

// What the workers of a run share; at DensePlan::status_offset.
struct CallStatus {
  std::atomic<std::int64_t> next_task;
  std::uint64_t packed;  // packed_mark(plan) where the pages hold what pack left
  TensorScan query;
  TensorScan key;
  TensorScan value;
  double largest_key;                        // magnitude that pack found
  std::atomic<std::int64_t> first_bad_bias;  // lowest query, of all batches, whose mask is bad
};

struct DensePlan : intflash_plan {
  std::uint64_t serial;
  Schedule schedule;
  // Whether each block of keys is attended as soon as it is packed: where one tile reads it.
  bool packs_as_it_attends;
  std::int64_t pages_per_head;
  std::int64_t blocks_per_head;
  std::int64_t spans_at_once;
  PageLayout page;
  TileShape tile;
  WorkerLayout worker;

  // Offsets into the workspace; all multiples of 64.
  std::int64_t status_offset;  // counters of the running call
  std::int64_t mask_offset;    // KeyRange [batch][query_len]: plain_keys of the additive mask
  std::int64_t center_offset;  // computed means: float [batch][num_kv_heads][head_dim + head_dim_v]
  std::int64_t partial_offset;  // double [batch][num_kv_heads][spans][head_dim + head_dim_v]
  std::int64_t blocks_offset;   // ScoreBlock [batch][num_kv_heads][blocks_per_head]
  std::int64_t pages_offset;    // [batch][num_kv_heads][pages_per_head] pages
  std::int64_t slots_offset;    // of the schedule's states
  std::int64_t workers_offset;  // [num_workers] of worker.bytes
};

inline const DensePlan& dense(const intflash_plan& plan) {
  return static_cast<const DensePlan&>(plan);
}

// As Backend has them.
intflash_plan* create_dense_plan(const intflash_context& context, const Problem& problem);
void destroy_dense_plan(intflash_plan& plan);

}  // namespace intflash::internal
