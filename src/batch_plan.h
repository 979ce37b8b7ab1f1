// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A ragged batch cut into work items. Depends on lengths, masks and the number of workers alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "context.h"
#include "intflash/cache.h"
#include "kv_cache.h"
#include "mask.h"
#include "worker.h"

namespace intflash {

struct BatchRequest {
  MaskRule mask;
  std::int64_t first_query;  // row of the batch's query tensor
  std::int64_t num_tiles;    // of one kv head
  float softmax_scale;
  float cost;  // of one kv head
};

// Where the first query stands.
inline std::int64_t first_position(const BatchRequest& request) {
  return request.mask.kv_len - request.mask.query_len;
}

// Tiles of one or more kv heads of a request against a run of spans. Where the key range is not cut
// the item writes the result. Where it is, the item has one tile of one head; the first part leaves
// its total, every other one a state per span, and a merge puts them together in order.
struct BatchItem {
  std::int32_t request;
  std::int32_t first_head, num_heads;
  std::int32_t first_tile, num_tiles;
  std::int32_t first_span, num_spans;
  std::int32_t slot;  // of the item's first state; -1: the key range is not cut
  float cost;
};

// The states of one tile, in slots [first_slot, first_slot + num_slots).
struct BatchMerge {
  std::int32_t request;
  std::int32_t head;
  std::int32_t tile;
  std::int32_t first_slot, num_slots;
};

// Where in the workspace the parts of a run lie.
struct BatchLayout {
  WorkerLayout worker;
  std::int64_t slot_bytes;
  std::int64_t page_set_offset;  // scratch of the page tables' check
  std::int64_t slots_offset;
  std::int64_t workers_offset;
  std::int64_t total_bytes;
};

}  // namespace intflash

struct intflash_batch_plan {
  const intflash_context* context;
  // What the cache must be like.
  intflash::PageLayout page;
  std::int64_t num_kv_heads;
  std::int64_t num_pages;
  bool rotate;

  std::int64_t num_query_heads;
  std::int64_t group_size;
  intflash_dtype query_dtype;
  intflash_dtype out_dtype;
  float score_cap;
  float largest_softmax_scale;

  std::int64_t num_queries;  // of all requests
  std::int64_t num_requests;
  std::int64_t num_items;
  std::int64_t num_merges;
  std::int64_t num_slots;
  std::int32_t num_workers;
  intflash::BatchRequest* requests;  // this and what follows lie behind the struct
  intflash::BatchItem* items;        // the costliest first
  intflash::BatchMerge* merges;
  intflash::BatchLayout layout;
};

namespace intflash {

// Cuts the batch of desc, which has been checked, for caches of this shape. nullptr: no memory.
intflash_batch_plan* make_batch_plan(const intflash_context& context, const intflash_cache& cache,
                                     const intflash_batch_desc& desc);

}  // namespace intflash
