// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A batch of requests cut into work items. Depends on lengths, masks, shared prefixes and the
// number of workers alone: it knows no port and no pointer, and any backend can follow it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "context/context.h"
#include "core/mask.h"
#include "engine/worker.h"
#include "intflash/cache.h"

namespace intflash::internal {

struct Request {
  MaskRule mask;
  KeyRange keys;             // that are attended, of those that the mask lets a query see
  std::int64_t first_query;  // its row among the batch's queries
  std::int64_t first_state;  // the first that it leaves, where a run leaves states, of the batch's
  float softmax_scale;       // what the rows are scaled by; of no concern to the schedule
  std::int64_t shared_end;   // position after the last key that shared sections attend
};

// Where the first query stands.
inline std::int64_t first_position(const Request& request) {
  return request.mask.kv_len - request.mask.query_len;
}

// The rows of consecutive requests against keys that they have in common, or those of one request
// against the keys that are left. Where keys are shared the rows' states are handed over, from the
// outermost section to the request's own, in the workspace.
struct Section {
  std::int64_t first_request, num_requests;
  KeyRange keys;  // in whole score blocks, but for the end of a request's own
  std::int32_t stage;
  bool is_shared;            // leaves states; writes the result otherwise
  std::int64_t num_rows;     // of one kv head
  std::int64_t first_state;  // of its rows' states that are handed over; -1: it has them alone
  std::int64_t num_tiles;
  KeyRange first_tile_keys;  // that some row of tile 0 sees: of a decoding request all there is
  float cost;                // of one kv head

  bool hands_over() const { return first_state >= 0; }
};

// The spans that have the keys a request attends.
inline KeyRange attended_spans(const Request& request) {
  if (request.keys.begin == request.keys.end) return {};
  return {request.keys.begin / kSpanTokens, ceil_div(request.keys.end, kSpanTokens)};
}

// Sections that run at the same time: all that share keys with the same number around them, and at
// last those of the requests' own keys.
struct Stage {
  std::int64_t first_section, num_sections;
  std::int64_t first_item, num_items;
  std::int64_t first_merge, num_merges;
};
constexpr std::int32_t kMaxStages = INTFLASH_MAX_PREFIX_LEVELS + 1;

// Tiles that pass over a span while it is in L2.
constexpr std::int64_t kTilesPerItem = 16;
// Heads that one worker attends at once, block by block.
constexpr std::int64_t kHeadsAtOnce = 64;

enum class ItemKind : std::int32_t {
  kTiles,  // tiles of one kv head after another: keys stay in the cache while tiles pass over them
  kHeads   // the only tile of each of several kv heads, block by block: keys are read as they lie
};

// Tiles of one or more kv heads of a section against a run of spans. Where the key range is not cut
// the item finishes its tiles. Where it is, each item leaves the states of its tiles that wait for
// others in slots, and a merge puts them together.
struct Item {
  ItemKind kind;
  std::int32_t section;
  std::int32_t first_head, num_heads;
  std::int32_t first_tile, num_tiles;
  std::int32_t first_span, num_spans;
  std::int64_t slot;            // of the item's first state; -1: the key range is not cut
  std::int32_t slots_per_head;  // room for so many states of each head
  bool is_first_part;
  float cost;
};

// The states of one tile, which num_parts items have left: part p those of its spans num_spans * p
// / num_parts ... num_spans * (p + 1) / num_parts - 1 from first_span on, in slots from first_slot
// + p * part_slots on.
struct Merge {
  std::int32_t section;
  std::int32_t head;
  std::int32_t tile;
  std::int32_t first_span, num_spans;
  std::int32_t num_parts;
  std::int64_t first_slot, part_slots;
  float cost;
};
// The first span of a part, counted from the merge's first.
inline std::int64_t part_begin(std::int64_t num_spans, std::int64_t part, std::int64_t num_parts) {
  return num_spans * part / num_parts;
}

struct ScheduleShape {
  std::int64_t num_kv_heads;
  std::int64_t group_size;
  std::int64_t tile_rows;     // of the kernels
  std::int64_t rows_at_once;  // up to so many rows of a section are attended in items of kHeads
  std::int32_t num_workers;
  bool defers_results;       // no item writes results, merges do: all has then been looked at
  bool parts_spans = false;  // items of kHeads have one span each: spans lie on different nodes
};

struct Schedule {
  ScheduleShape shape;
  std::int64_t tile_rows;      // of a tile: no more than a section has
  std::int64_t num_queries;    // of all requests
  std::int64_t num_states;     // that a run leaves where it leaves states
  std::int64_t most_tiles;     // that an item of kTiles has of a head
  std::int64_t most_heads;     // that an item of kHeads has
  std::int64_t most_states;    // that wait in a tile at a time
  std::int64_t handed_states;  // the same, of rows whose states are handed over
  std::int64_t num_handed;     // such rows of one kv head
  std::int64_t num_slots;
  std::int64_t num_requests, num_sections, num_items, num_merges;
  std::int32_t num_stages;
  Stage stages[kMaxStages];
  Request* requests;
  Section* sections;     // by stage
  Item* items;           // by stage, the costliest first
  Merge* merges;         // by stage
  void* allocations[3];  // that have them
};

// Calls visit(request, first row, number of rows) for what rows [first_row, first_row + num_rows)
// of a section's are to its requests.
template <class Visit>
void for_each_run(const Schedule& schedule, const Section& section, std::int64_t first_row,
                  std::int64_t num_rows, Visit visit) {
  const std::int64_t group_size = schedule.shape.group_size;
  const Request* first = schedule.requests + section.first_request;
  const auto rows_before = [&](const Request& request) {
    return (request.first_query - first->first_query) * group_size;
  };
  const auto rows_up_to = [&](const Request& request) {
    return rows_before(request) + request.mask.query_len * group_size;
  };
  const Request* request =
      std::partition_point(first, first + section.num_requests,
                           [&](const Request& before) { return rows_up_to(before) <= first_row; });
  const std::int64_t end_row = first_row + num_rows;
  for (std::int64_t row = first_row; row < end_row; ++request) {
    const std::int64_t end = std::min(end_row, rows_up_to(*request));
    if (end > row) visit(*request, row - rows_before(*request), end - row);
    row = end;
  }
}

// What a schedule is made from.
struct Batch {
  ScheduleShape shape;
  std::int64_t num_requests;
  // Fills mask, keys and softmax_scale of a request. keys.end = 0: all keys.
  void (*make_request)(const void* user, std::int64_t index, Request& request);
  const void* user;
  const intflash_shared_prefix* shared_prefixes;  // checked
  std::uint32_t shared_prefix_size;
  std::int64_t num_shared_prefixes;
  std::int64_t page_size;
};

// Cuts the batch. False: the context's allocator has no memory.
bool make_schedule(const intflash_context& context, const Batch& batch, Schedule& schedule);
void free_schedule(const intflash_context& context, Schedule& schedule);

}  // namespace intflash::internal
