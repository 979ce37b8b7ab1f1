// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The plan of a dense call in mode int8: a batch of requests over pages in its workspace.
#pragma once

#include <cstdint>

#include "backend/plan.h"
#include "engine/worker.h"
#include "pages/page.h"

namespace intflash::internal {

struct DensePlan : intflash_plan {
  // Whether each block of keys is attended as soon as it is packed: where one tile reads it.
  bool packs_as_it_attends;
  std::int64_t pages_per_head;
  std::int64_t blocks_per_head;
  std::int64_t limits_per_head;  // of queries, taken before keys are packed; 0: none are
  std::int64_t spans_at_once;
  PageLayout page;
  TileShape tile;
  WorkerLayout worker;

  // Offsets into the workspace; all multiples of 64.
  std::int64_t mask_offset;    // KeyRange [batch][query_len]: plain_keys of the additive mask
  std::int64_t center_offset;  // computed means: float [batch][num_kv_heads][head_dim + head_dim_v]
  std::int64_t
      partial_offset;  // double [batch][num_kv_heads][spans], as DenseRun::partial_sums says
  std::int64_t limits_offset;   // float [batch][num_kv_heads][limits_per_head]
  std::int64_t blocks_offset;   // ScoreBlock [batch][num_kv_heads][blocks_per_head]
  std::int64_t pages_offset;    // [batch][num_kv_heads][pages_per_head] pages
  std::int64_t slots_offset;    // of the schedule's states
  std::int64_t workers_offset;  // [num_workers] of worker.bytes
};

// Room for so many bytes of a run goes before all else.
intflash_status create_dense_plan(const intflash_context& context, const Problem& problem,
                                  std::int64_t run_bytes, DensePlan*& plan);

}  // namespace intflash::internal
