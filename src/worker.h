// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What one worker of a run keeps in its part of the workspace.
#pragma once

#include <cstddef>
#include <cstdint>

#include "mask.h"
#include "score_bias.h"
#include "tile/portability.h"
#include "tile/types.h"

namespace intflash {

constexpr std::int64_t kBlocksPerSpan = kSpanTokens / kScoreBlock;
inline KeyRange keys_of_span(std::int64_t span) {
  return {span * kSpanTokens, (span + 1) * kSpanTokens};
}

// Query rows from quantization to the written result; its accumulators and codes follow it.
struct Tile {
  QueryTile query;
  AttentionState total;
  bool touched;                     // total holds the state of a span
  std::int64_t min_begin, max_end;  // keys that some row sees
  std::int64_t max_begin, min_end;  // keys that all rows see
  KeyRange ranges[kMaxTileRows];
  bool has_bias;  // some row has one of the next two
  BiasRow bias[kMaxTileRows];
  BitRow bits[kMaxTileRows];
  double center_score[kMaxTileRows];  // query . key_center * softmax_scale
  float reference[kMaxTileRows];
  float row_sum[kMaxTileRows];
};

// The extent of a tile: rows, and what its arrays are padded to.
struct TileShape {
  std::int64_t rows;
  std::int64_t code_stride;         // bytes of a row's codes
  std::int64_t accumulator_stride;  // floats of a row's accumulators

  std::int64_t bytes() const {
    return round_up(sizeof(Tile), 64) + rows * accumulator_stride * 4 + rows * code_stride;
  }
};
inline TileShape tile_shape(std::int64_t rows, std::int64_t head_dim, std::int64_t head_dim_v) {
  return {rows, round_up(head_dim, 64), round_up(head_dim_v, 16)};
}

// One worker's part of the workspace.
struct Worker {
  Tile* tile(std::int64_t index) const {
    return reinterpret_cast<Tile*>(tiles + index * tile_bytes);
  }

  // Of the span at work, where a tile's total holds an earlier one.
  AttentionState part(std::int64_t index) const {
    float* state = reinterpret_cast<float*>(parts + index * part_bytes);
    return {state, state + kMaxTileRows, state + 2 * kMaxTileRows, accumulator_stride};
  }

  char* tiles;
  std::int64_t tile_bytes;
  char* parts;
  std::int64_t part_bytes;
  std::int64_t accumulator_stride;
  std::uint64_t* keep;  // [blocks of a span][kMaxTileRows][2]
  ScoreBlock* blocks;   // [blocks of a span]: gathered from pages
  std::int8_t* codes;   // [64][stride of the larger dim]: rows being packed
  void* scratch;        // the port's
};

// Where the parts of a worker's memory begin.
struct WorkerLayout {
  TileShape tile;
  std::int64_t parts, keep, blocks, codes, scratch, bytes;

  std::int64_t part_bytes() const {
    return 2 * kMaxTileRows * 4 + tile.rows * tile.accumulator_stride * 4;
  }

  Worker at(char* base) const {
    Worker worker{};
    worker.tiles = base;
    worker.tile_bytes = tile.bytes();
    worker.parts = base + parts;
    worker.part_bytes = part_bytes();
    worker.accumulator_stride = tile.accumulator_stride;
    worker.keep = reinterpret_cast<std::uint64_t*>(base + keep);
    worker.blocks = reinterpret_cast<ScoreBlock*>(base + blocks);
    worker.codes = reinterpret_cast<std::int8_t*>(base + codes);
    worker.scratch = base + scratch;
    return worker;
  }
};

inline WorkerLayout worker_layout(const KernelTable& kernels, const TileShape& tile,
                                  std::int64_t num_tiles, std::int64_t num_parts,
                                  std::int64_t head_dim, std::int64_t head_dim_v) {
  const std::int64_t larger_dim = head_dim > head_dim_v ? head_dim : head_dim_v;
  const std::int64_t scratch = static_cast<std::int64_t>(kernels.scratch_bytes(
      static_cast<std::int32_t>(head_dim), static_cast<std::int32_t>(head_dim_v)));
  WorkerLayout at{};
  at.tile = tile;
  at.parts = num_tiles * tile.bytes();
  at.keep = at.parts + num_parts * at.part_bytes();
  at.blocks = at.keep + kBlocksPerSpan * kMaxTileRows * 2 * 8;
  at.codes = at.blocks + kBlocksPerSpan * static_cast<std::int64_t>(sizeof(ScoreBlock));
  at.scratch = at.codes + kBlockTokens * round_up(larger_dim, 64);
  at.bytes = at.scratch + round_up(scratch, 64);
  return at;
}

}  // namespace intflash
