// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The query rows of one request that read one kv head, from the caller's memory to the written
// result. Row r is query r / group_size of query head r % group_size of the group: rows that see
// the same keys lie together.
#pragma once

#include <cstdint>

#include "intflash/intflash.h"
#include "mask.h"
#include "score_bias.h"
#include "worker.h"

namespace intflash {

struct RowGroup {
  const KernelTable* kernels;
  // Where the rows lie: token first_token + query of these tensors, heads first_head and on.
  const intflash_tensor* query;
  const intflash_tensor* out;
  intflash_dtype query_dtype;
  intflash_dtype out_dtype;
  std::int64_t batch;  // index into the tensors' first dimension
  std::int64_t first_head;
  std::int64_t first_token;
  // Log-sum-exp of query 0 and head 0 of the group; nullptr: not asked for.
  float* lse;
  std::int64_t lse_stride_head;
  std::int64_t lse_stride_token;

  std::int64_t group_size;
  std::int64_t num_rows;
  std::int64_t head_dim;
  std::int64_t head_dim_v;
  MaskRule mask;
  float softmax_scale;
  float score_cap;     // 0 = none
  const float* sinks;  // [group_size]: of the group's heads; nullptr = none
  ScoreBias bias;
  const KeyRange* plain_keys;  // of bias.additive, for each query; nullptr = not known
  bool rotate;
  RopeRows rope;            // of the queries
  const float* key_center;  // [head_dim]; nullptr = none
  const float* value_center;
};

// Quantizes rows [first_row, first_row + plan.tile_rows) into tile, with nothing seen yet.
void begin_tile(const RowGroup& group, const TileShape& shape, std::int64_t first_row, Tile& tile);

// The same in steps, for tiles of several groups' rows: none yet, then num_rows more from first_row
// on, as often as there are groups. Groups of one tile have the same dims.
void begin_tile(const TileShape& shape, Tile& tile);
void add_rows(const RowGroup& group, const TileShape& shape, std::int64_t first_row,
              std::int64_t num_rows, Tile& tile);

// Leaves the tile keys alone. keys.begin is a multiple of kScoreBlock, and so is keys.end unless no
// row sees a key behind it.
void clip_tile(KeyRange keys, Tile& tile);

// No key seen.
void clear_state(const AttentionState& state, std::int32_t rows);

// Whether some row of the tile sees one of the keys.
bool sees_keys(const Tile& tile, KeyRange keys);

// Score blocks of a span: all of them, or a part.
struct SpanKeys {
  KeyRange keys;  // begin is a multiple of kScoreBlock
  const ScoreBlock* blocks;
  const KvBlock* after;  // [2]: keys that are read after the last; nullptr = unknown
};

// Takes the keys that the tile sees into state, behind those that it holds.
void attend_into(const RowGroup& group, const Worker& worker, const SpanKeys& keys,
                 const Tile& tile, const AttentionState& state);

// The state that takes a span's keys alone, with none seen yet: the part, or the tile's own state
// as long as that has seen none.
AttentionState begin_span(Tile& tile, const AttentionState& part);
// Merges it into the tile's state.
void end_span(const RowGroup& group, const AttentionState& part, Tile& tile);

// Attends the keys of a span alone, and merges them into the tile's state.
void attend_span(const RowGroup& group, const Worker& worker, const SpanKeys& keys, Tile& tile);

// The same for spans first ... end - 1, whose score blocks follow each other.
void attend_spans(const RowGroup& group, const Worker& worker, std::int64_t first, std::int64_t end,
                  const ScoreBlock* blocks, Tile& tile);

// Writes out, and log-sum-exp.
void finish_tile(const RowGroup& group, std::int64_t first_row, Tile& tile);

}  // namespace intflash
