// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What a run keeps in its workspace beside packed keys and values: shared counters, and each
// worker's tiles.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "plan.h"
#include "problem.h"
#include "tile/portability.h"
#include "tile/types.h"

namespace intflash {

// What the scan of one tensor found.
struct TensorScan {
  std::atomic<std::uint32_t>
      magnitude;  // bits of the largest |x|; codes of INT8 are scanned as numbers
  std::atomic<std::int64_t>
      first_bad;  // lowest chunk with NaN, infinity or a code of -128; INT64_MAX = none
};

struct CallStatus {
  std::atomic<std::int64_t> next_task;
  TensorScan query;
  TensorScan key;
  TensorScan value;
  double largest_key;  // magnitude that pack found
};

// Rows [first_row, first_row + rows) of a head, from quantization to the written result.
struct Tile {
  QueryTile query;
  AttentionState total;
  bool touched;                     // total holds the state of a span
  std::int64_t min_begin, max_end;  // keys that some row sees
  KeyRange ranges[kMaxTileRows];
  double center_score[kMaxTileRows];  // query . key_center * softmax_scale
  float reference[kMaxTileRows];
  float row_sum[kMaxTileRows];
};

// One worker's part of the workspace.
struct Worker {
  Tile* tile(std::int64_t index) const {
    return reinterpret_cast<Tile*>(tiles + index * static_cast<std::int64_t>(tile_bytes));
  }

  char* tiles;  // [tiles_per_item] of tile_bytes: a Tile, its accumulators, its codes
  std::size_t tile_bytes;
  AttentionState part;  // of the span at work, where total holds an earlier one
  std::uint64_t* keep;  // [blocks of a span][kMaxTileRows][2]
  std::int8_t* codes;   // [64][stride of the larger dim]: rows being packed
  void* scratch;        // the port's
};

constexpr std::int64_t kBlocksPerSpan = kSpanTokens / kScoreBlock;

inline std::size_t tile_state_bytes(const Plan& plan) {
  return static_cast<std::size_t>(round_up(sizeof(Tile), 64) +
                                  plan.tile_rows * plan.accumulator_stride * 4 +
                                  plan.tile_rows * plan.code_stride);
}

struct WorkerLayout {
  std::int64_t part, keep, codes, scratch, end;
};

inline WorkerLayout worker_layout(const Problem& problem, const Plan& plan,
                                  std::size_t scratch_bytes) {
  WorkerLayout at{};
  const std::int64_t code_stride =
      round_up(problem.head_dim > problem.head_dim_v ? problem.head_dim : problem.head_dim_v, 64);
  at.part = plan.tiles_per_item * static_cast<std::int64_t>(plan.tile_state_bytes);
  at.keep = at.part + plan.tile_rows * plan.accumulator_stride * 4 + 2 * kMaxTileRows * 4;
  at.codes = at.keep + kBlocksPerSpan * kMaxTileRows * 2 * 8;
  at.scratch = at.codes + kBlockTokens * code_stride;
  at.end = at.scratch + round_up(static_cast<std::int64_t>(scratch_bytes), 64);
  return at;
}

inline std::size_t worker_bytes(const Problem& problem, const Plan& plan,
                                const KernelTable& kernels) {
  const std::size_t scratch = kernels.scratch_bytes(static_cast<std::int32_t>(problem.head_dim),
                                                    static_cast<std::int32_t>(problem.head_dim_v));
  return static_cast<std::size_t>(worker_layout(problem, plan, scratch).end);
}

}  // namespace intflash
