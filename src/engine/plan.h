// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A problem cut into work items, and the workspace that they need. Depends on lengths, caches and
// the number of workers alone.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "api/problem.h"
#include "cache/page.h"
#include "core/scan.h"
#include "engine/worker.h"

namespace intflash::internal {

// Bounds the tiles and states that a worker keeps.
constexpr std::int64_t kMaxHeadsAtOnce = 64;

// Tiles of consecutive query rows of one kv head. Row r of a head's rows is query r / group_size of
// query head r % group_size of the group: rows that see the same keys lie together.
struct WorkItem {
  std::int64_t batch;
  std::int64_t kv_head;
  std::int64_t first_tile;
  std::int64_t num_tiles;
};

// What the workers of a run share; at Plan::status_offset.
struct CallStatus {
  std::atomic<std::int64_t> next_task;
  std::uint64_t packed;  // packed_mark(plan) where the pages hold what pack left
  TensorScan query;
  TensorScan key;
  TensorScan value;
  double largest_key;                        // magnitude that pack found
  std::atomic<std::int64_t> first_bad_bias;  // lowest query, of all batches, whose mask is bad
};

struct Plan {
  std::int32_t num_workers;
  std::int64_t rows_per_head;  // group_size * query_len
  std::int64_t tiles_per_head;
  std::int64_t tiles_per_item;
  std::int64_t num_items;
  std::int64_t heads_at_once;     // kv heads whose few rows attend each block as soon as it is
                                  // packed; 0 = all is packed first
  std::int64_t superblock_spans;  // spans whose keys and values stay in L2 while an item's tiles
                                  // pass over them

  std::int64_t num_blocks;  // score blocks of a kv head
  PageLayout page;
  TileShape tile;
  WorkerLayout worker;

  // Offsets into the workspace; all multiples of 64.
  std::size_t status_offset;   // counters of the running call
  std::size_t mask_offset;     // KeyRange [batch][query_len]: plain_keys of the additive mask
  std::size_t center_offset;   // computed means: float [batch][num_kv_heads][head_dim + head_dim_v]
  std::size_t partial_offset;  // double [batch][num_kv_heads][spans][head_dim + head_dim_v]
  std::size_t blocks_offset;   // ScoreBlock [batch][num_kv_heads][num_blocks]
  std::size_t pages_offset;    // [batch][num_kv_heads][2 * num_blocks] pages
  std::size_t workers_offset;  // [num_workers] of worker.bytes
  std::size_t total_bytes;
};

Plan make_plan(const Problem& problem, const KernelTable& kernels, std::int32_t num_workers,
               std::int64_t l2_bytes);

// Item i, the costliest first: under a causal mask the last rows see the most keys.
WorkItem work_item(const Problem& problem, const Plan& plan, std::int64_t index);

}  // namespace intflash::internal
