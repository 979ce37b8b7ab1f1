// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// One run of a schedule on a port's kernels: where its rows, keys, masks, states and results lie.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cache/kv_cache.h"
#include "engine/row_group.h"
#include "engine/schedule.h"
#include "inputs/score_bias.h"
#include "intflash/cache.h"
#include "pages/page.h"

namespace intflash::internal {

// Pages of packed keys and values: those of a cache's requests, or a request's one after the other.
struct KeyPages {
  PageLayout layout;
  const char* memory;                                     // of a layer
  std::int64_t page_stride, head_stride, request_stride;  // bytes; request_stride without a cache
  const intflash_cache* cache;                            // nullptr: consecutive pages
  const intflash_batch_args* args;                        // which name the cache's
  // Of consecutive pages: [requests][num_kv_heads][blocks_per_head] of all their keys, prepared.
  const ScoreBlock* blocks;
  std::int64_t blocks_per_head;
  // nullptr: pages are of codec int8, else each block is expanded to a page of its own, but for
  // what up to packed_rows rows take as it lies.
  ExpandFn expand;
  PageLayout expanded;
  std::int32_t packed_rows;
  std::int32_t packed;
  // Of a cache with a window, the pages in INT8.
  Int8Window window;
  PageLayout window_layout;
  const char* window_memory;
  std::int64_t window_page_stride, window_head_stride;

  // What of blocks so many rows take as it lies.
  std::int32_t packed_for(std::int32_t rows) const { return rows <= packed_rows ? packed : 0; }
};

// Packs the tokens of a score block that lie before kv_end, instead of what KeyPages would name,
// as far as the query wants them, and prepares the block. False: what was found so far is an error,
// and there is nothing to attend.
using BringBlockFn = bool (*)(const void* user, const Worker& worker, const QueryTile& query,
                              std::int64_t request, std::int64_t kv_head, std::int64_t first_key,
                              std::int64_t kv_end, ScoreBlock& block);

// A vector for each kv head of each request; data == nullptr: none.
struct HeadVectors {
  const float* data;
  std::int64_t request_stride, head_stride;

  const float* of(std::int64_t request, std::int64_t kv_head) const {
    return data == nullptr ? nullptr : data + request * request_stride + kv_head * head_stride;
  }
};

struct Attention {
  const Schedule* schedule;
  const KernelTable* kernels;
  TileShape tile;
  std::int64_t head_dim, head_dim_v;
  bool has_f16_values;  // mode int8_qk

  const intflash_tensor* query;
  const intflash_tensor* out;
  intflash_dtype query_dtype, out_dtype;
  bool requests_are_batches;  // request r is batch r of the tensors; else they follow one another
  float* lse;                 // of the queries in their order; nullptr: not asked for
  std::int64_t lse_stride_head, lse_stride_token;
  const intflash_state* states;  // of the schedule's requests, in place of results; nullptr = none
  std::uint32_t state_size;      // bytes of one, as the caller knows it

  float score_cap;     // 0 = none
  const float* sinks;  // [num_query_heads]; nullptr = none
  const float* alibi_slopes;
  const intflash_additive_mask* additive_masks;  // nullptr = none
  std::uint32_t additive_mask_size;              // bytes of one, as the caller knows it
  const intflash_bit_mask* bit_masks;            // nullptr = none
  std::uint32_t bit_mask_size;
  std::int64_t mask_stride;        // 0: all requests have the first of the masks
  const KeyRange* plain_keys;      // of the additive masks; nullptr = not known
  std::int64_t plain_keys_stride;  // from request to request

  Rotation rotation;
  intflash_rope rope;  // of the queries
  HeadVectors key_center, value_center;

  KeyPages pages;
  BringBlockFn bring_block;  // nullptr: keys are in pages
  const void* bring_user;

  // Asked between tiles, and between spans: true = what is left of an item is not worth doing.
  bool (*is_cancelled)(void* user);
  void* cancel_user;

  std::int64_t spans_at_once;  // that stay in L2 while tiles pass over them
  char* slots;                 // [num_slots] of state_bytes()
  char* handed;                // [num_kv_heads] of handed_bytes()

  std::int64_t state_bytes() const { return tile.state_floats() * 4; }
  // The tiles of an item's kind: those of heads have few rows.
  TileShape tile_of(ItemKind kind) const { return tile_of(*schedule, tile, kind); }
  static TileShape tile_of(const Schedule& schedule, TileShape tile, ItemKind kind) {
    if (kind == ItemKind::kHeads) tile.rows = std::min(tile.rows, schedule.shape.rows_at_once);
    return tile;
  }
  // Of the states of a worker's tiles.
  static std::int64_t worker_state_bytes(const Schedule& schedule, const TileShape& tile) {
    const auto of = [&](ItemKind kind, std::int64_t tiles) {
      return tiles * schedule.most_states * tile_of(schedule, tile, kind).state_floats() * 4;
    };
    return std::max(of(ItemKind::kTiles, schedule.most_tiles),
                    of(ItemKind::kHeads, schedule.most_heads));
  }
  // A state of all rows that are handed over, of one kv head: references, sums, accumulators.
  std::int64_t handed_floats() const { return handed_floats(*schedule, tile); }
  static std::int64_t handed_floats(const Schedule& schedule, const TileShape& tile) {
    return 2 * round_up(schedule.num_handed, 16) + schedule.num_handed * tile.accumulator_stride;
  }
  static std::int64_t handed_bytes(const Schedule& schedule, const TileShape& tile) {
    return schedule.handed_states * handed_floats(schedule, tile) * 4;
  }
};

// Spans of pages of this layout that leave room in an L2 cache for what passes over them.
std::int64_t spans_in_cache(const PageLayout& layout, std::int64_t l2_bytes);

// The masks of a request that are data.
ScoreBias score_bias(const Attention& attention, std::int64_t request);

// Tasks of a stage; each may run on any worker.
void run_item(const Attention& attention, const Item& item, const Worker& worker);
// Once all items of the stage are done.
void run_merge(const Attention& attention, const Merge& merge, const Worker& worker);

}  // namespace intflash::internal
