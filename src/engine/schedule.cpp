// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "engine/schedule.h"

#include <algorithm>
#include <cmath>
#include <new>

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

// What a batch is cut into: counted, and written where there is memory for it.
struct Cuts {
  Item* items = nullptr;
  Merge* merges = nullptr;
  std::int64_t num_items = 0, num_merges = 0, num_slots = 0;
  std::int64_t most_tiles = 1, most_heads = 0;  // of an item; a merge has a tile

  void add(const Item& item) {
    if (items != nullptr) new (items + num_items) Item(item);
    ++num_items;
    if (item.kind == ItemKind::kHeads) {
      most_heads = std::max<std::int64_t>(most_heads, item.num_heads);
    } else {
      most_tiles = std::max<std::int64_t>(most_tiles, item.num_tiles);
    }
  }
  void add(const Merge& merge) {
    if (merges != nullptr) new (merges + num_merges) Merge(merge);
    ++num_merges;
  }
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
        cut_at_once(s, std::max(kHeadsTarget * target, kLeastCost), cuts);
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
    KeyRange seen{};
    for_each_run(schedule_, section, tile * schedule_.tile_rows, rows(section, tile),
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

  Item whole_item(std::int64_t s, std::int64_t head, std::int64_t tile,
                  std::int64_t num_tiles) const {
    const Section& section = schedule_.sections[s];
    const KeyRange range = spans(section, tile, num_tiles);
    Item item{};
    item.kind = ItemKind::kTiles;
    item.section = static_cast<std::int32_t>(s);
    item.first_head = static_cast<std::int32_t>(head);
    item.num_heads = 1;
    item.first_tile = static_cast<std::int32_t>(tile);
    item.num_tiles = static_cast<std::int32_t>(num_tiles);
    item.first_span = static_cast<std::int32_t>(range.begin);
    item.num_spans = static_cast<std::int32_t>(range.end - range.begin);
    item.slot = -1;
    item.is_first_part = true;
    item.cost = section.cost;
    if (num_tiles == section.num_tiles) return item;
    item.cost = 0;
    for (std::int64_t i = 0; i < num_tiles; ++i) item.cost += cost(section, tile + i);
    return item;
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
        cuts.add(whole);
      }
    }
  }

  // Items of all heads and some of the spans, so that memory is read as it lies; of some heads too
  // where there are not enough spans.
  void cut_at_once(std::int64_t s, float target, Cuts& cuts) const {
    Item whole = whole_item(s, 0, 0, 1);
    whole.kind = ItemKind::kHeads;
    const bool is_alone = schedule_.shape.num_workers == 1;
    const std::int64_t pieces =
        is_alone ? 1
                 : static_cast<std::int64_t>(
                       std::ceil(whole.cost * static_cast<float>(num_heads_) / target));
    const std::int64_t parts = std::clamp<std::int64_t>(pieces, 1, std::max(1, whole.num_spans));
    const std::int64_t groups =
        std::clamp(ceil_div(pieces, parts), ceil_div(num_heads_, kHeadsAtOnce), num_heads_);
    for (std::int64_t group = 0; group < groups; ++group) {
      Item some = whole;
      some.first_head = static_cast<std::int32_t>(num_heads_ * group / groups);
      some.num_heads =
          static_cast<std::int32_t>(num_heads_ * (group + 1) / groups) - some.first_head;
      some.cost *= static_cast<float>(some.num_heads);
      if (parts > 1 || schedule_.shape.defers_results) {
        cut_spans(some, parts, cuts);
      } else {
        cuts.add(some);
      }
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
      cuts.add(whole_item(s, head, tile, tiles));
      tile += tiles;
    }
  }

  // Parts of an item of one tile a head, and the merges of its heads' states.
  void cut_spans(const Item& whole, std::int64_t parts, Cuts& cuts) const {
    const std::int32_t depth =
        most_waiting_states(1, ceil_div(whole.num_spans, parts));  // of the longest part
    const std::int64_t part_slots = static_cast<std::int64_t>(whole.num_heads) * depth;
    for (std::int64_t part = 0; part < parts; ++part) {
      const std::int64_t begin = part_begin(whole.num_spans, part, parts);
      Item piece = whole;
      piece.first_span += static_cast<std::int32_t>(begin);
      piece.num_spans =
          static_cast<std::int32_t>(part_begin(whole.num_spans, part + 1, parts) - begin);
      if (parts > 1)
        piece.cost *= static_cast<float>(piece.num_spans) / static_cast<float>(whole.num_spans);
      piece.slot = cuts.num_slots + part * part_slots;
      piece.slots_per_head = depth;
      piece.is_first_part = part == 0;
      cuts.add(piece);
    }
    const Section& section = schedule_.sections[whole.section];
    const float state_cost =
        kStateCost + kStateRowCost * static_cast<float>(rows(section, whole.first_tile));
    for (std::int32_t head = 0; head < whole.num_heads; ++head) {
      cuts.add(Merge{whole.section, whole.first_head + head, whole.first_tile, whole.first_span,
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
  std::sort(schedule.sections, end_shared, [](const Section& a, const Section& b) {
    return a.stage != b.stage ? a.stage < b.stage : a.first_request < b.first_request;
  });
  schedule.num_stages = num_shared == 0 ? 1 : end_shared[-1].stage + 2;
  schedule.num_sections = num_shared + schedule.num_requests;
  Section* own = end_shared;
  for (std::int64_t r = 0; r < schedule.num_requests; ++r) {
    const Request& request = schedule.requests[r];
    const std::int64_t rows = request.mask.query_len * schedule.shape.group_size;
    Section section{};
    section.first_request = r;
    section.num_requests = 1;
    section.keys = {std::max(request.shared_end, request.keys.begin), request.keys.end};
    section.stage = schedule.num_stages - 1;
    section.num_rows = rows;
    section.first_state = request.shared_end > 0 ? schedule.num_handed : -1;
    if (request.shared_end > 0) schedule.num_handed += rows;
    *own++ = section;
  }
  for (Section* shared = schedule.sections; shared < end_shared; ++shared) {
    const Section* members = end_shared + shared->first_request;
    shared->first_state = members->first_state;
    for (std::int64_t i = 0; i < shared->num_requests; ++i) shared->num_rows += members[i].num_rows;
  }
  for (std::int64_t s = 0; s < schedule.num_sections; ++s) {
    Stage& stage = schedule.stages[schedule.sections[s].stage];
    if (stage.num_sections++ == 0) stage.first_section = s;
  }
}

// The most states that wait at a time, in tiles and where they are handed over.
void count_states(Schedule& schedule) {
  for (std::int64_t s = 0; s < schedule.num_sections; ++s) {
    const Section& section = schedule.sections[s];
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
}

// Cuts all stages; the costliest items come first.
void cut_stages(Schedule& schedule, Cuts& cuts) {
  const Cutter cutter(schedule);
  for (std::int32_t i = 0; i < schedule.num_stages; ++i) {
    Stage& stage = schedule.stages[i];
    stage.first_item = cuts.num_items;
    stage.first_merge = cuts.num_merges;
    cutter.cut(stage, cuts);
    stage.num_items = cuts.num_items - stage.first_item;
    stage.num_merges = cuts.num_merges - stage.first_merge;
    if (cuts.items == nullptr || schedule.shape.num_workers == 1) continue;
    std::sort(cuts.items + stage.first_item, cuts.items + cuts.num_items,
              [](const Item& a, const Item& b) { return a.cost > b.cost; });
  }
}

// count objects at memory, which moves on behind them.
template <class T>
T* take(char*& memory, std::int64_t count) {
  T* const first = reinterpret_cast<T*>(memory);
  memory += count * static_cast<std::int64_t>(sizeof(T));
  return first;
}

template <class T>
std::int64_t bytes_of(std::int64_t count) {
  return count * static_cast<std::int64_t>(sizeof(T));
}

char* allocate(const intflash_context& context, std::int64_t bytes) {
  return static_cast<char*>(
      context.allocate(context.allocator_user, static_cast<std::size_t>(bytes), 64));
}

void make_requests(const Batch& batch, Schedule& schedule) {
  for (std::int64_t r = 0; r < batch.num_requests; ++r) {
    Request* const request = new (schedule.requests + r) Request{};
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

  // Requests and sections first, since they are cut twice: to count, then to fill.
  const std::int64_t most_sections = batch.num_shared_prefixes + batch.num_requests;
  char* const scratch = allocate(
      context, 1 + bytes_of<Request>(batch.num_requests) + bytes_of<Section>(most_sections));
  if (scratch == nullptr) return false;
  char* free_scratch = scratch;
  schedule.requests = take<Request>(free_scratch, batch.num_requests);
  schedule.sections = take<Section>(free_scratch, most_sections);
  make_requests(batch, schedule);
  make_sections(batch, schedule);

  std::int64_t most_rows = 1;
  for (std::int64_t s = 0; s < schedule.num_sections; ++s)
    most_rows = std::max(most_rows, schedule.sections[s].num_rows);
  schedule.tile_rows = std::min(batch.shape.tile_rows, most_rows);
  const Cutter cutter(schedule);
  for (std::int64_t s = 0; s < schedule.num_sections; ++s) cutter.measure(schedule.sections[s]);
  schedule.most_states = 1;
  count_states(schedule);
  Cuts counted;
  cut_stages(schedule, counted);
  schedule.num_items = counted.num_items;
  schedule.num_merges = counted.num_merges;
  schedule.num_slots = counted.num_slots;
  schedule.most_tiles = counted.most_tiles;
  schedule.most_heads = counted.most_heads;

  char* memory = allocate(context, 1 + bytes_of<Request>(schedule.num_requests) +
                                       bytes_of<Section>(schedule.num_sections) +
                                       bytes_of<Item>(schedule.num_items) +
                                       bytes_of<Merge>(schedule.num_merges));
  if (memory != nullptr) {
    const Request* const requests = schedule.requests;
    const Section* const sections = schedule.sections;
    schedule.requests = take<Request>(memory, schedule.num_requests);
    schedule.sections = take<Section>(memory, schedule.num_sections);
    schedule.items = take<Item>(memory, schedule.num_items);
    schedule.merges = take<Merge>(memory, schedule.num_merges);
    std::copy_n(requests, schedule.num_requests, schedule.requests);
    std::copy_n(sections, schedule.num_sections, schedule.sections);
    Cuts cuts{schedule.items, schedule.merges};
    cut_stages(schedule, cuts);
  }
  context.deallocate(context.allocator_user, scratch);
  if (memory == nullptr) schedule = {};
  return memory != nullptr;
}

void free_schedule(const intflash_context& context, Schedule& schedule) {
  if (schedule.requests != nullptr) context.deallocate(context.allocator_user, schedule.requests);
  schedule.requests = nullptr;
}

}  // namespace intflash::internal
