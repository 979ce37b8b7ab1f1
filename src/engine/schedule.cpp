// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "engine/schedule.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/pieces.h"
#include "engine/shared_prefix.h"
#include "machine/float_state.h"

namespace intflash::internal {
namespace {

// The cost of a row, and of a tile whatever its rows, against 128 keys of 128 channels: shares of
// what reading the keys takes. A tile of few rows waits for memory, one of many multiplies.
constexpr float kRowCost = 0.05f;
constexpr float kTileCost = 1.0f;
// The same of a merge, of each state that it takes in, and of a state's rows.
constexpr float kMergeCost = 0.05f;
constexpr float kStateCost = 0.02f;
constexpr float kStateRowCost = 0.01f;
// Items per worker that the batch is cut for, so that the last ones end together. Items of heads
// read keys that no other reads, and may be smaller.
constexpr std::int64_t kItemsPerWorker = 8;
constexpr float kHeadsTarget = 0.5f;
// The last quarter of a head's tiles goes into items so much smaller, which come last and even out
// what the others leave.
constexpr float kLastTilesTarget = 0.25f;
// Items of heads that a worker has at least where spans alone are fewer, so that workers of unequal
// speed end together. More are of fewer heads, and read memory less as it lies: two threads with 16
// items of a head each take 1.07 times as long for 4096 keys of 8 heads as with 4 (avx2).
constexpr float kLeastItemsPerWorker = 4;
// The busiest worker's share over the mean for which heads are not cut further.
constexpr float kEvenEnough = 1.02f;
// An item of less is not worth cutting, in the same unit: a span of one kv head.
constexpr float kLeastCost = 8.0f;

bool is_empty(KeyRange range) { return range.begin >= range.end; }

// The keys from the first of both to the last.
KeyRange hull(KeyRange a, KeyRange b) {
  if (is_empty(a)) return b;
  if (is_empty(b)) return a;
  return {std::min(a.begin, b.begin), std::max(a.end, b.end)};
}

KeyRange intersection(KeyRange a, KeyRange b) {
  const KeyRange both = {std::max(a.begin, b.begin), std::min(a.end, b.end)};
  return is_empty(both) ? KeyRange{} : both;
}

// count objects at memory, which moves on behind them.
template <class T>
T* take(char*& memory, std::int64_t count) {
  T* const first = reinterpret_cast<T*>(memory);
  memory += bytes_of<T>(count);
  return first;
}

// What a batch is cut into.
struct Cuts {
  Pieces<Item> items;
  Pieces<Merge> merges;
  std::int64_t num_slots = 0;
};

class Cutter {
 public:
  explicit Cutter(const Schedule& schedule)
      : schedule_(schedule), num_heads_(schedule.shape.num_kv_heads) {}

  // What a section that has its rows and keys costs, tile by tile.
  void measure(Section& section) const {
    section.num_tiles = ceil_div(section.num_rows, schedule_.tile_rows);
    if (section.num_tiles > 0) section.first_tile_keys = tile_keys(section, 0);
    section.cost = cost(section);
  }
  float cost(const Section& section) const {
    float sum = 0;
    for (std::int64_t tile = 0; tile < section.num_tiles; ++tile) sum += cost(section, tile);
    return sum;
  }

  // Adds all of a stage.
  void cut(const Stage& stage, Cuts& cuts) const {
    const std::int64_t end = stage.first_section + stage.num_sections;
    float total = 0;
    for (std::int64_t s = stage.first_section; s < end; ++s)
      total += schedule_.sections[s].cost * static_cast<float>(num_heads_);
    const float target = std::max(
        total / static_cast<float>(schedule_.shape.num_workers * kItemsPerWorker), kLeastCost);
    for (std::int64_t s = stage.first_section; s < end; ++s) {
      const Section& section = schedule_.sections[s];
      if (section.num_tiles == 0) continue;
      if (is_attended_at_once(section)) {
        cut_at_once(s, total, std::max(kHeadsTarget * target, kLeastCost), cuts);
      } else if (section.cost <= target || schedule_.shape.num_workers == 1) {
        cut_heads(s, target, cuts);
      } else {
        for (std::int64_t head = 0; head < num_heads_; ++head) cut_head(s, head, target, cuts);
      }
    }
  }

 private:
  // Keys that some of a request's rows [first_row, first_row + num_rows) see.
  KeyRange keys(const Request& request, std::int64_t first_row, std::int64_t num_rows) const {
    if (request.mask.query_len == 1) return visible_keys(request.mask, 0);
    // Ranges only move on with the query: those in between lie between these two.
    const std::int64_t last_row = first_row + num_rows - 1;
    return hull(visible_keys(request.mask, first_row / schedule_.shape.group_size),
                visible_keys(request.mask, last_row / schedule_.shape.group_size));
  }
  std::int64_t rows(const Section& section, std::int64_t tile) const {
    return std::min(schedule_.tile_rows, section.num_rows - tile * schedule_.tile_rows);
  }
  // Keys of the section that some row of a tile sees.
  KeyRange keys(const Section& section, std::int64_t tile) const {
    return tile == 0 ? section.first_tile_keys : tile_keys(section, tile);
  }
  KeyRange tile_keys(const Section& section, std::int64_t tile) const {
    const std::int64_t first = tile * schedule_.tile_rows;
    if (section.num_requests == 1) {
      const Request& request = schedule_.requests[section.first_request];
      return intersection(keys(request, first, rows(section, tile)), section.keys);
    }
    KeyRange seen{};
    for_each_run(schedule_, section, first, rows(section, tile),
                 [&](const Request& request, std::int64_t first_row, std::int64_t num_rows) {
                   seen = hull(seen, keys(request, first_row, num_rows));
                 });
    return intersection(seen, section.keys);
  }
  float cost(const Section& section, std::int64_t tile) const {
    const KeyRange seen = keys(section, tile);
    const float blocks = static_cast<float>(ceil_div(seen.end - seen.begin, kScoreBlock));
    return (kTileCost + kRowCost * static_cast<float>(rows(section, tile))) * (blocks + 1);
  }

  bool is_attended_at_once(const Section& section) const {
    return section.num_rows <= schedule_.shape.rows_at_once && section.num_tiles == 1 &&
           !section.hands_over();
  }

  // The spans that tiles of a section are attended in. Where states are handed over these are all
  // of the section's, so that it is known without a look at the tiles which states there are.
  KeyRange spans(const Section& section, std::int64_t tile, std::int64_t num_tiles) const {
    const MaskRule& mask = schedule_.requests[section.first_request].mask;
    KeyRange seen = {std::max(section.keys.begin, mask.kv_begin), section.keys.end};
    if (!section.hands_over()) {
      seen = {};
      for (std::int64_t i = 0; i < num_tiles; ++i) seen = hull(seen, keys(section, tile + i));
    }
    if (is_empty(seen)) return {};
    return {seen.begin / kSpanTokens, ceil_div(seen.end, kSpanTokens)};
  }

  // All spans. Field by field, since a copy of what was just written in smaller pieces waits for
  // it.
  static Item item_of(ItemKind kind, std::int64_t s, std::int64_t first_head,
                      std::int64_t num_heads, std::int64_t tile, std::int64_t num_tiles,
                      KeyRange spans, float cost) {
    return {kind,
            static_cast<std::int32_t>(s),
            static_cast<std::int32_t>(first_head),
            static_cast<std::int32_t>(num_heads),
            static_cast<std::int32_t>(tile),
            static_cast<std::int32_t>(num_tiles),
            static_cast<std::int32_t>(spans.begin),
            static_cast<std::int32_t>(spans.end - spans.begin),
            -1,
            0,
            true,
            cost};
  }

  // Tiles of one head.
  Item whole_item(std::int64_t s, std::int64_t head, std::int64_t tile,
                  std::int64_t num_tiles) const {
    const Section& section = schedule_.sections[s];
    float sum = section.cost;
    if (num_tiles < section.num_tiles) {
      sum = 0;
      for (std::int64_t i = 0; i < num_tiles; ++i) sum += cost(section, tile + i);
    }
    return item_of(ItemKind::kTiles, s, head, 1, tile, num_tiles, spans(section, tile, num_tiles),
                   sum);
  }

  // Items of whole heads, several together where one is little work.
  void cut_heads(std::int64_t s, float target, Cuts& cuts) const {
    const Section& section = schedule_.sections[s];
    const std::int64_t heads =
        std::clamp<std::int64_t>(static_cast<std::int64_t>(target / section.cost), 1, num_heads_);
    for (std::int64_t head = 0; head < num_heads_; head += heads) {
      for (std::int64_t tile = 0; tile < section.num_tiles; tile += kTilesPerItem) {
        Item whole = whole_item(s, head, tile, std::min(kTilesPerItem, section.num_tiles - tile));
        whole.num_heads = static_cast<std::int32_t>(std::min(heads, num_heads_ - head));
        whole.cost *= static_cast<float>(whole.num_heads);
        cuts.items.add(whole);
      }
    }
  }

  // The fewest groups of heads, each with every span for an item, that give each of so many workers
  // kLeastItemsPerWorker and keep them equally busy; where none do, that leave the busiest least.
  std::int64_t count_groups(std::int64_t num_spans, float workers) const {
    constexpr float kRounding = 1e-3f;  // of a share that is a whole number
    const float spans_per_worker = static_cast<float>(num_spans) / workers;
    const float mean = spans_per_worker * static_cast<float>(num_heads_);
    const std::int64_t least = ceil_div(num_heads_, kHeadsAtOnce);
    std::int64_t best = least;
    float least_busiest = INFINITY;
    for (std::int64_t groups = least; groups <= num_heads_; ++groups) {
      const float items = spans_per_worker * static_cast<float>(groups);
      const float busiest =
          std::ceil(items - kRounding) * static_cast<float>(ceil_div(num_heads_, groups));
      if (items >= kLeastItemsPerWorker && busiest <= kEvenEnough * mean) return groups;
      if (busiest >= least_busiest) continue;
      least_busiest = busiest;
      best = groups;
    }
    return best;
  }

  // Items of all heads and some of the spans, so that memory is read as it lies; of some heads too
  // where there are not enough spans. total: the cost of the stage.
  void cut_at_once(std::int64_t s, float total, float target, Cuts& cuts) const {
    const Section& section = schedule_.sections[s];
    const KeyRange range = spans(section, 0, 1);
    const float all = section.cost * static_cast<float>(num_heads_);
    const std::int64_t num_spans = std::max<std::int64_t>(1, range.end - range.begin);
    std::int64_t pieces = schedule_.shape.num_workers == 1 || all <= target
                              ? 1
                              : static_cast<std::int64_t>(std::ceil(all / target));
    if (schedule_.shape.parts_spans) pieces = std::max(pieces, num_spans);
    const std::int64_t parts = std::clamp<std::int64_t>(pieces, 1, num_spans);
    const std::int64_t groups =
        pieces <= parts
            ? ceil_div(num_heads_, kHeadsAtOnce)
            : count_groups(parts, static_cast<float>(schedule_.shape.num_workers) * all / total);
    std::int64_t first_head = 0;
    for (std::int64_t group = 1; group <= groups; ++group) {
      // Without a division for the last of them, which mostly is the only one.
      const std::int64_t end_head =
          group == groups ? num_heads_ : part_begin(num_heads_, group, groups);
      const std::int64_t heads = end_head - first_head;
      const float cost = section.cost * static_cast<float>(heads);
      if (parts > 1 || schedule_.shape.defers_results) {
        cut_spans(item_of(ItemKind::kHeads, s, first_head, heads, 0, 1, range, cost), parts, cuts);
      } else {
        cuts.items.add(item_of(ItemKind::kHeads, s, first_head, heads, 0, 1, range, cost));
      }
      first_head = end_head;
    }
  }

  // Items of some tiles of one head; where one tile is too much, of some of its spans.
  void cut_head(std::int64_t s, std::int64_t head, float target, Cuts& cuts) const {
    const Section& section = schedule_.sections[s];
    for (std::int64_t tile = 0; tile < section.num_tiles;) {
      const bool is_last = tile >= section.num_tiles * 3 / 4;
      const float most = is_last ? kLastTilesTarget * target : target;
      const float tile_cost = cost(section, tile);
      const Item whole = whole_item(s, head, tile, 1);
      if (tile_cost > 2 * most && whole.num_spans > 1) {
        const std::int64_t parts = std::min<std::int64_t>(
            whole.num_spans, static_cast<std::int64_t>(std::ceil(tile_cost / most)));
        cut_spans(whole, parts, cuts);
        ++tile;
        continue;
      }
      std::int64_t tiles = 1;
      float sum = tile_cost;
      while (tiles < kTilesPerItem && tile + tiles < section.num_tiles && sum < most)
        sum += cost(section, tile + tiles++);
      cuts.items.add(whole_item(s, head, tile, tiles));
      tile += tiles;
    }
  }

  // Parts of an item of one tile a head, and the merges of its heads' states.
  void cut_spans(const Item& whole, std::int64_t parts, Cuts& cuts) const {
    const std::int32_t depth =
        most_waiting_states(1, ceil_div(whole.num_spans, parts));  // of the longest part
    const std::int64_t part_slots = static_cast<std::int64_t>(whole.num_heads) * depth;
    std::int64_t begin = 0;
    for (std::int64_t part = 0; part < parts; ++part) {
      const std::int64_t end = part_begin(whole.num_spans, part + 1, parts);
      Item& piece = cuts.items.add(whole);
      piece.first_span += static_cast<std::int32_t>(begin);
      piece.num_spans = static_cast<std::int32_t>(end - begin);
      begin = end;
      if (parts > 1)
        piece.cost *= static_cast<float>(piece.num_spans) / static_cast<float>(whole.num_spans);
      piece.slot = cuts.num_slots + part * part_slots;
      piece.slots_per_head = depth;
      piece.is_first_part = part == 0;
    }
    const Section& section = schedule_.sections[whole.section];
    const float state_cost =
        kStateCost + kStateRowCost * static_cast<float>(rows(section, whole.first_tile));
    for (std::int32_t head = 0; head < whole.num_heads; ++head) {
      cuts.merges.add({whole.section, whole.first_head + head, whole.first_tile, whole.first_span,
                       whole.num_spans, static_cast<std::int32_t>(parts),
                       cuts.num_slots + head * depth, part_slots,
                       kMergeCost + state_cost * static_cast<float>(parts * std::min(depth, 2))});
    }
    cuts.num_slots += parts * part_slots;
  }

  const Schedule& schedule_;
  std::int64_t num_heads_;
};

// Sections of shared prefixes, of requests' own keys after them, each stage's together; of the
// whole schedule but tiles and costs.
void make_sections(const Batch& batch, Schedule& schedule) {
  const std::int64_t num_shared = make_shared_sections(batch, schedule.requests, schedule.sections);
  Section* const end_shared = schedule.sections + num_shared;
  const auto comes_before = [](const Section& a, const Section& b) {
    return a.stage != b.stage ? a.stage < b.stage : a.first_request < b.first_request;
  };
  // They are few: a third of std::sort's code will do.
  std::make_heap(schedule.sections, end_shared, comes_before);
  std::sort_heap(schedule.sections, end_shared, comes_before);
  schedule.num_stages = num_shared == 0 ? 1 : end_shared[-1].stage + 2;
  schedule.num_sections = num_shared + schedule.num_requests;
  for (std::int64_t r = 0; r < schedule.num_requests; ++r) {
    const Request& request = schedule.requests[r];
    const std::int64_t rows = request.mask.query_len * schedule.shape.group_size;
    Section& section = end_shared[r];
    section.first_request = r;
    section.num_requests = 1;
    section.keys = {std::max(request.shared_end, request.keys.begin), request.keys.end};
    section.stage = schedule.num_stages - 1;
    section.num_rows = rows;
    section.first_state = request.shared_end > 0 ? schedule.num_handed : -1;
    if (request.shared_end > 0) schedule.num_handed += rows;
  }
  schedule.stages[schedule.num_stages - 1].first_section = num_shared;
  schedule.stages[schedule.num_stages - 1].num_sections = schedule.num_requests;
  for (Section* shared = schedule.sections; shared < end_shared; ++shared) {
    const Section* members = end_shared + shared->first_request;
    shared->first_state = members->first_state;
    for (std::int64_t i = 0; i < shared->num_requests; ++i) shared->num_rows += members[i].num_rows;
    Stage& stage = schedule.stages[shared->stage];
    if (stage.num_sections++ == 0) stage.first_section = shared - schedule.sections;
  }
}

// Raises the most states that wait at a time, in tiles or where they are handed over, to a
// section's.
void count_states(const Section& section, Schedule& schedule) {
  const MaskRule& mask = schedule.requests[section.first_request].mask;
  const std::int64_t begin =
      section.hands_over() ? mask.kv_begin : std::max(section.keys.begin, mask.kv_begin);
  const std::int64_t first = begin / kSpanTokens;
  const std::int64_t end = ceil_div(std::max(section.keys.end, begin), kSpanTokens);
  std::int64_t& most = section.hands_over() ? schedule.handed_states : schedule.most_states;
  // A window may begin anywhere.
  const bool from_first = first == 0 && (section.hands_over() || mask.window_left < 0);
  most = std::max<std::int64_t>(most, most_waiting_states(from_first ? 0 : 1, end - first));
}

// The most tiles or heads that a worker has at a time.
void note_most(Schedule& schedule) {
  schedule.most_tiles = 1;  // of a merge
  for (std::int64_t i = 0; i < schedule.num_items; ++i) {
    const Item& item = schedule.items[i];
    std::int64_t& most = item.kind == ItemKind::kHeads ? schedule.most_heads : schedule.most_tiles;
    most = std::max<std::int64_t>(most,
                                  item.kind == ItemKind::kHeads ? item.num_heads : item.num_tiles);
  }
}

// Cuts all stages.
void cut_stages(Schedule& schedule, Cuts& cuts) {
  const Cutter cutter(schedule);
  for (std::int32_t i = 0; i < schedule.num_stages; ++i) {
    Stage& stage = schedule.stages[i];
    stage.first_item = cuts.items.size();
    stage.first_merge = cuts.merges.size();
    cutter.cut(stage, cuts);
    stage.num_items = cuts.items.size() - stage.first_item;
    stage.num_merges = cuts.merges.size() - stage.first_merge;
  }
  schedule.items = cuts.items.data();
  schedule.merges = cuts.merges.data();
  schedule.num_items = cuts.items.size();
  schedule.num_merges = cuts.merges.size();
  schedule.num_slots = cuts.num_slots;
  note_most(schedule);
}

// The costliest items come first.
void sort_items(Schedule& schedule) {
  if (schedule.shape.num_workers == 1) return;
  const auto is_costlier = [](const Item& a, const Item& b) { return a.cost > b.cost; };
  for (std::int32_t i = 0; i < schedule.num_stages; ++i) {
    Item* const first = schedule.items + schedule.stages[i].first_item;
    Item* const end = first + schedule.stages[i].num_items;
    // Requests of one length are cut in order.
    if (!std::is_sorted(first, end, is_costlier)) std::sort(first, end, is_costlier);
  }
}

void make_requests(const Batch& batch, Schedule& schedule) {
  for (std::int64_t r = 0; r < batch.num_requests; ++r) {
    Request* const request = schedule.requests + r;
    batch.make_request(batch.user, r, *request);
    const MaskRule& mask = request->mask;
    if (request->keys.end == 0) request->keys = {mask.kv_begin, mask.kv_len};
    // Of no page.
    if (is_empty(request->keys)) request->keys = {mask.kv_begin, mask.kv_begin};
    request->first_query = schedule.num_queries;
    schedule.num_queries += request->mask.query_len;
    request->first_state = schedule.num_states;
    const KeyRange spans = attended_spans(*request);
    for_each_node(spans.begin, spans.end,
                  [&](std::int64_t, std::int64_t) { ++schedule.num_states; });
  }
}

}  // namespace

bool make_schedule(const intflash_context& context, const Batch& batch, Schedule& schedule) {
  const FloatState float_state;  // the caller may round otherwise
  schedule = {};
  schedule.shape = batch.shape;
  schedule.num_requests = batch.num_requests;

  const std::int64_t sections = batch.num_shared_prefixes + batch.num_requests;  // at most
  // Room for the items and merges of few workers, so that one allocation has all.
  const std::int64_t items = sections + 16;
  const std::int64_t merges = batch.shape.defers_results ? sections * batch.shape.num_kv_heads : 0;
  const std::int64_t zeroed = bytes_of<Request>(batch.num_requests) + bytes_of<Section>(sections);
  char* memory = allocate(context, zeroed + bytes_of<Item>(items) + bytes_of<Merge>(merges));
  if (memory == nullptr) return false;
  schedule.allocations[0] = memory;
  std::memset(memory, 0, static_cast<std::size_t>(zeroed));
  schedule.requests = take<Request>(memory, batch.num_requests);
  schedule.sections = take<Section>(memory, sections);
  Item* const first_item = take<Item>(memory, items);
  bool has_memory = true;
  Merge* const first_merge = take<Merge>(memory, merges);
  Cuts cuts{{context, first_item, items, schedule.allocations[1], has_memory},
            {context, first_merge, merges, schedule.allocations[2], has_memory}};
  make_requests(batch, schedule);
  make_sections(batch, schedule);

  std::int64_t most_rows = 1;
  for (std::int64_t s = 0; s < schedule.num_sections; ++s)
    most_rows = std::max(most_rows, schedule.sections[s].num_rows);
  schedule.tile_rows = std::min(batch.shape.tile_rows, most_rows);
  const Cutter cutter(schedule);
  schedule.most_states = 1;
  for (std::int64_t s = 0; s < schedule.num_sections; ++s) {
    cutter.measure(schedule.sections[s]);
    count_states(schedule.sections[s], schedule);
  }
  cut_stages(schedule, cuts);
  if (has_memory) {
    sort_items(schedule);
  } else {
    free_schedule(context, schedule);
  }
  return has_memory;
}

void free_schedule(const intflash_context& context, Schedule& schedule) {
  for (void*& allocation : schedule.allocations) {
    deallocate(context, allocation);
    allocation = nullptr;
  }
}

}  // namespace intflash::internal
