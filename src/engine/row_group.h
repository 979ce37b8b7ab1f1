// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The query rows of one request that read one kv head, from the caller's memory to the written
// result. Row r is query r / group_size of query head r % group_size of the group: rows that see
// the same keys lie together.
#pragma once

#include <cstdint>

#include "core/int8_window.h"
#include "core/mask.h"
#include "core/rotation.h"
#include "engine/worker.h"
#include "inputs/score_bias.h"
#include "intflash/cache.h"

namespace intflash::internal {

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
  bool leaves_states;  // in place of results

  std::int64_t group_size;
  std::int64_t num_rows;
  std::int64_t head_dim;
  std::int64_t head_dim_v;
  MaskRule mask;
  Int8Window window;
  bool has_f16_values;  // mode int8_qk
  float softmax_scale;
  float score_cap;     // 0 = none
  const float* sinks;  // [group_size]: of the group's heads; nullptr = none
  ScoreBias bias;
  const KeyRange* plain_keys;  // of bias.additive, for each query; nullptr = not known
  Rotation rotation;
  RopeRows rope;            // of the queries
  const float* key_center;  // [head_dim]; nullptr = none
  const float* value_center;
};

// An empty tile whose states come to lie in states, and whose rows are of this shape.
void begin_tile(const TileShape& shape, const StateStack& states, Tile& tile);
// Quantizes num_rows more of a group's rows, from first_row on, as often as there are groups.
// Groups of one tile have the same dims.
void add_rows(const RowGroup& group, const TileShape& shape, std::int64_t first_row,
              std::int64_t num_rows, Tile& tile);
// The fixed point of the query's rows from `begin` on, whose codes are there; scale: theirs.
void set_row_scales(const KernelTable& kernels, float softmax_scale, const float* scale,
                    std::int32_t begin, QueryTile& query);
// What finish_tile wants to know of rows that are not to see any more keys.
void add_seen_rows(const RowGroup& group, std::int64_t first_row, std::int64_t num_rows,
                   Tile& tile);

// No key seen.
void clear_state(const AttentionState& state, std::int32_t rows);

// The state that takes a span's keys: it is new where the tile's last one is not of this span, and
// those before it are then merged as far as they can be.
// part: memory for it where it is merged by leave_span; nullptr: it has its place among others.
AttentionState enter_span(const RowGroup& group, std::int64_t span, const AttentionState* part,
                          Tile& tile);
// Once the state has all keys of the span: merges what can be.
void leave_span(const RowGroup& group, std::int64_t span, const AttentionState* part, Tile& tile);

// Score blocks of a span: all of them, or a part.
struct SpanKeys {
  KeyRange keys;  // begin is a multiple of kScoreBlock
  const ScoreBlock* blocks;
  const KvBlock* after;  // [2]: keys that are read after the last; nullptr = unknown
  std::int32_t packed;   // as in TileTask
};

// Which keys rows see in which form, where there is a window: first ones in INT8, those that are as
// the codec has them, and those of the window.
constexpr std::int32_t kNumForms = 3;
constexpr std::int32_t kCodedForm = 1;
void set_part(const Tile& tile, std::int32_t form, SeenRanges& part);

// Takes the keys that the tile's rows see, as seen says, into state, behind those that it holds.
void attend_into(const RowGroup& group, const Worker& worker, const SpanKeys& keys,
                 const Tile& tile, const SeenRanges& seen, const AttentionState& state);

// How many spans from first on, and before end, attend_whole_spans may take: seen whole by all rows
// of a full tile, none of which takes second digits. blocks: of these spans.
constexpr std::int64_t kMaxSpansAtOnce = 64;
std::int64_t count_whole_spans(const RowGroup& group, const Tile& tile, std::int64_t first,
                               std::int64_t end, const ScoreBlock* blocks);
// Attends spans first ... first + count - 1 one after the other, each into a state of its own.
void attend_whole_spans(const RowGroup& group, const Worker& worker, std::int64_t first,
                        std::int64_t count, const ScoreBlock* blocks, Tile& tile);

// Merges what is left of the tile's states.
void merge_all(const RowGroup& group, Tile& tile);
// Writes out, and log-sum-exp, from the tile's only state, or from none.
void finish_tile(const RowGroup& group, std::int64_t first_row, Tile& tile);
// Copies a state of the tile's rows to the caller's, whose rows are [query_heads][query_len].
// state.reference == nullptr: they have seen no key.
void leave_state(const RowGroup& group, std::int64_t first_row, const Tile& tile,
                 const AttentionState& state, const intflash_state& to);

}  // namespace intflash::internal
