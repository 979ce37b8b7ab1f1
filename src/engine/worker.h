// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What one worker of a run keeps in its part of the workspace.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/mask.h"
#include "inputs/score_bias.h"
#include "states/span_tree.h"
#include "tile/portability.h"
#include "tile/types.h"

namespace intflash::internal {

constexpr std::int64_t kBlocksPerSpan = kSpanTokens / kScoreBlock;
inline KeyRange keys_of_span(std::int64_t span) {
  return {span * kSpanTokens, (span + 1) * kSpanTokens};
}

// The extent of a tile: rows, and what its arrays are padded to.
struct TileShape {
  std::int64_t rows;
  std::int64_t code_stride;         // bytes of a row's codes
  std::int64_t accumulator_stride;  // floats of a row's accumulators
  std::int32_t digits_above;        // of the queries

  bool has_digits() const { return digits_above != kNoDigits; }
  std::int64_t code_bytes() const { return (has_digits() ? 2 : 1) * rows * code_stride; }
  std::int64_t state_floats() const { return 2 * kMaxTileRows + rows * accumulator_stride; }
};
inline TileShape tile_shape(std::int64_t rows, std::int64_t head_dim, std::int64_t head_dim_v,
                            std::int32_t digits_above) {
  return {rows, round_up(head_dim, 64), round_up(head_dim_v, 16), digits_above};
}

// States of the same rows, one behind the other.
struct StateStack {
  AttentionState first;
  std::int64_t stride;  // floats from one state to the next

  AttentionState operator[](std::int64_t i) const {
    return {first.reference + i * stride, first.row_sum + i * stride,
            first.accumulators + i * stride, first.accumulator_stride};
  }
};
// In memory of a state each: references, sums, accumulators.
inline StateStack state_stack(const TileShape& shape, char* memory) {
  float* state = reinterpret_cast<float*>(memory);
  return {{state, state + kMaxTileRows, state + 2 * kMaxTileRows, shape.accumulator_stride},
          shape.state_floats()};
}

// Which keys the rows of a tile see.
struct SeenRanges {
  std::int64_t min_begin, max_end;  // keys that some row sees
  std::int64_t max_begin, min_end;  // keys that all rows see
  KeyRange rows[kMaxTileRows];

  void clear() {
    min_begin = min_end = INT64_MAX;
    max_end = max_begin = 0;
  }
  void set(std::int32_t row, KeyRange keys) {
    rows[row] = keys;
    max_begin = std::max(max_begin, keys.begin);
    min_end = std::min(min_end, keys.end);
    if (keys.begin == keys.end) return;
    min_begin = std::min(min_begin, keys.begin);
    max_end = std::max(max_end, keys.end);
  }
  // Leaves the rows keys alone, of which they may see others in the same score blocks.
  void clip(KeyRange keys) {
    min_begin = std::max(min_begin, keys.begin);
    max_end = std::min(max_end, keys.end);
    if (min_begin < max_end) return;
    min_begin = INT64_MAX;
    max_end = 0;
  }
  bool any_sees(KeyRange keys) const { return min_begin < keys.end && max_end > keys.begin; }
  bool all_see(KeyRange keys) const { return max_begin <= keys.begin && min_end >= keys.end; }
};

// Query rows from quantization to the written result; its codes, and digits, follow it.
struct Tile {
  QueryTile query;
  SpanTree tree;
  StateStack states;  // [tree.size()]
  SeenRanges seen;
  KeyRange coded[kMaxTileRows];  // of Int8Window, where there is one
  bool has_bias;                 // some row has one of the next two
  BiasRow bias[kMaxTileRows];
  BitRow bits[kMaxTileRows];
  double center_score[kMaxTileRows];  // query . key_center * softmax_scale
};

// One worker's part of the workspace.
struct Worker {
  Tile* tile(std::int64_t index) const {
    return reinterpret_cast<Tile*>(tiles + index * tile_bytes);
  }

  char* tiles;
  std::int64_t tile_bytes;
  char* states;
  char* part;                 // a state that is merged into a tile's as soon as it is done
  std::uint64_t* keep;        // [blocks of a span][kMaxTileRows][2]
  ScoreBlock* blocks;         // [spans at once][blocks of a span]
  ScoreBlock* window_blocks;  // the same of keys that are in INT8 where the codec has fewer bits
  std::int8_t* codes;         // 64 rows being packed
  std::int8_t* digits;        // of the same
  char* pages;                // that they are packed into where they are attended at once
  char* expanded;             // the halves of blocks, where their codec is not int8
  void* scratch;              // the port's
};

// What a worker is to have room for.
struct WorkerRoom {
  std::int64_t tiles;        // at a time
  std::int64_t state_bytes;  // of all of them
  std::int64_t spans;        // whose blocks are at hand at a time
  std::int64_t head_dim, head_dim_v;
  std::int64_t row_bytes;       // of Worker::codes; 0 = nothing is packed
  std::int64_t page_bytes;      // of Worker::pages
  std::int64_t expanded_bytes;  // of a half in Worker::expanded; 0 = there are none
  bool has_window;
};

// Where the parts of a worker's memory begin.
struct WorkerLayout {
  std::int64_t tile_bytes;
  std::int64_t states, part, keep, blocks, window_blocks, codes, digits, pages, expanded, scratch,
      bytes;

  Worker at(char* base) const {
    Worker worker{};
    worker.tiles = base;
    worker.tile_bytes = tile_bytes;
    worker.states = base + states;
    worker.part = base + part;
    worker.keep = reinterpret_cast<std::uint64_t*>(base + keep);
    worker.blocks = reinterpret_cast<ScoreBlock*>(base + blocks);
    worker.window_blocks = reinterpret_cast<ScoreBlock*>(base + window_blocks);
    worker.codes = reinterpret_cast<std::int8_t*>(base + codes);
    worker.digits = reinterpret_cast<std::int8_t*>(base + digits);
    worker.pages = base + pages;
    worker.expanded = base + expanded;
    worker.scratch = base + scratch;
    return worker;
  }
};

inline WorkerLayout worker_layout(const KernelTable& kernels, const TileShape& tile,
                                  const WorkerRoom& room) {
  const std::int64_t scratch = static_cast<std::int64_t>(
      kernels.scratch_bytes(static_cast<std::int32_t>(room.head_dim),
                            static_cast<std::int32_t>(room.head_dim_v), tile.has_digits()));
  WorkerLayout at{};
  at.tile_bytes = round_up(sizeof(Tile), 64) + tile.code_bytes();
  at.states = room.tiles * at.tile_bytes;
  at.part = at.states + room.state_bytes;
  at.keep = at.part + tile.state_floats() * 4;
  at.blocks = at.keep + kBlocksPerSpan * kMaxTileRows * 2 * 8;
  const std::int64_t block_bytes =
      room.spans * kBlocksPerSpan * static_cast<std::int64_t>(sizeof(ScoreBlock));
  at.window_blocks = at.blocks + block_bytes;
  at.codes = at.window_blocks + (room.has_window ? block_bytes : 0);
  at.digits = at.codes + kBlockTokens * round_up(room.row_bytes, 64);
  at.pages = at.digits + (tile.has_digits() ? kBlockTokens * round_up(room.head_dim, 64) : 0);
  at.expanded = at.pages + room.page_bytes;
  at.scratch = at.expanded + room.spans * kBlocksPerSpan * 2 * room.expanded_bytes;
  at.bytes = at.scratch + round_up(scratch, 64);
  return at;
}

}  // namespace intflash::internal
