// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A ragged batch cut into work items. Depends on lengths, masks, shared prefixes and the number of
// workers alone.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "context.h"
#include "intflash/cache.h"
#include "kv_cache.h"
#include "mask.h"
#include "worker.h"

namespace intflash {

// Tiles that pass over a span while it is in L2, or heads that take turns at a block.
constexpr std::int64_t kTilesPerItem = 16;

struct BatchRequest {
  MaskRule mask;
  std::int64_t first_query;    // row of the batch's query tensor
  std::int64_t shared_end;     // position after the last key that shared sections attend
  std::int32_t shared_levels;  // how many of them, one after the other
  float softmax_scale;
};

// Where the first query stands.
inline std::int64_t first_position(const BatchRequest& request) {
  return request.mask.kv_len - request.mask.query_len;
}

// The rows of consecutive requests against keys that they have in common, or those of one request
// against the keys that are left. Where keys are shared the rows' states are handed over, from the
// outermost section to the request's own, in the workspace.
struct BatchSection {
  std::int64_t first_request, num_requests;
  KeyRange keys;  // in whole score blocks, but for the end of a request's own
  std::int32_t stage;
  std::int32_t level;        // sections before it that its rows have been through
  bool is_shared;            // leaves states; writes the result otherwise
  std::int64_t num_rows;     // of one kv head
  std::int64_t first_state;  // of its rows' states that are handed over; -1: it has them alone
  std::int64_t num_tiles;
  KeyRange first_tile_keys;  // that some row of tile 0 sees: of a decoding request all there is
  float cost;                // of one kv head

  // Whether the kv heads of an item attend each block in turn. Few rows wait for their keys, and a
  // page has those of all heads one after the other: read to its end it comes faster than head by
  // head, with a jump after each (0.955 of the rate of reading where nothing is computed, against
  // 0.86).
  bool heads_take_turns() const { return num_rows <= kFewRows && !is_shared && first_state < 0; }
  // Whether its rows' states that are handed over begin here.
  bool begins_states() const { return first_state >= 0 && keys.begin == 0; }
  // Whether a section before it, or after it, has the first keys of the span, or the last ones.
  bool enters(std::int64_t span) const { return span * kSpanTokens < keys.begin; }
  bool leaves(std::int64_t span) const { return is_shared && (span + 1) * kSpanTokens > keys.end; }
};

// Sections that run at the same time: all that share keys with the same number around them, and at
// last those of the requests' own keys.
struct BatchStage {
  std::int64_t first_section, num_sections;
  std::int64_t first_item, num_items;
  std::int64_t first_merge, num_merges;
};
constexpr std::int32_t kMaxStages = INTFLASH_MAX_PREFIX_LEVELS + 1;

// Tiles of one or more kv heads of a section against a run of spans. Where the key range is not cut
// the item finishes its tiles. Where it is, the item has one tile of one head; the first part
// leaves its total, every other one a state per span, and a merge puts them together in order.
struct BatchItem {
  std::int32_t section;
  std::int32_t first_head, num_heads;
  std::int32_t first_tile, num_tiles;
  std::int32_t first_span, num_spans;
  std::int32_t slot;  // of the item's first state; -1: the key range is not cut
  bool is_later_part;
  float cost;
};

// The states of one tile, in slots [first_slot, first_slot + num_slots). The first is the total,
// unless that is handed over.
struct BatchMerge {
  std::int32_t section;
  std::int32_t head;
  std::int32_t tile;
  std::int32_t first_slot, num_slots;
};

// Where in the workspace the parts of a run lie.
struct BatchLayout {
  WorkerLayout worker;
  std::int64_t states_offset;  // that are handed over: [num_kv_heads] of states_bytes
  std::int64_t states_bytes;
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
  std::int64_t num_sections;
  std::int64_t num_states;  // rows of one kv head whose states are handed over
  std::int64_t num_items;
  std::int64_t num_merges;
  std::int64_t num_slots;
  std::int32_t num_workers;
  std::int32_t num_stages;
  intflash::BatchStage stages[intflash::kMaxStages];
  intflash::BatchRequest* requests;  // this and what follows lie behind the struct
  intflash::BatchSection* sections;  // by stage
  intflash::BatchItem* items;        // by stage, the costliest first
  intflash::BatchMerge* merges;
  intflash::BatchLayout layout;
};

namespace intflash {

// Calls visit(request, first row, number of rows) for what rows [first_row, first_row + num_rows)
// of a section's are to its requests.
template <class Visit>
void for_each_run(const intflash_batch_plan& plan, const BatchSection& section,
                  std::int64_t first_row, std::int64_t num_rows, Visit visit) {
  const BatchRequest* first = plan.requests + section.first_request;
  const auto rows_before = [&](const BatchRequest& request) {
    return (request.first_query - first->first_query) * plan.group_size;
  };
  const auto rows_up_to = [&](const BatchRequest& request) {
    return rows_before(request) + request.mask.query_len * plan.group_size;
  };
  const BatchRequest* request = std::partition_point(
      first, first + section.num_requests,
      [&](const BatchRequest& before) { return rows_up_to(before) <= first_row; });
  const std::int64_t end_row = first_row + num_rows;
  for (std::int64_t row = first_row; row < end_row; ++request) {
    const std::int64_t end = std::min(end_row, rows_up_to(*request));
    if (end > row) visit(*request, row - rows_before(*request), end - row);
    row = end;
  }
}

// Cuts the batch of desc, which has been checked, for caches of this shape. nullptr: no memory.
intflash_batch_plan* make_batch_plan(const intflash_context& context, const intflash_cache& cache,
                                     const intflash_batch_desc& desc);

}  // namespace intflash
