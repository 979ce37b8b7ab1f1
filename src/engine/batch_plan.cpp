// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "engine/batch_plan.h"

#include <algorithm>
#include <cmath>
#include <new>

#include "core/checks.h"
#include "core/float_state.h"
#include "core/structs.h"
#include "engine/batch_run.h"
#include "engine/shared_prefix.h"

namespace intflash::internal {
namespace {

// The cost of a row, and of a tile whatever its rows, against 128 keys of 128 channels: shares of
// what reading the keys takes. A tile of few rows waits for memory, one of many multiplies.
constexpr float kRowCost = 0.05f;
constexpr float kTileCost = 1.0f;
// Items per worker that the batch is cut for, so that the last ones end together.
constexpr std::int64_t kItemsPerWorker = 8;
// An item of less is not worth cutting, in the same unit.
constexpr float kLeastCost = 16.0f;
// Tiles that pass over a span while it is in L2.
constexpr std::int64_t kTilesPerItem = 16;

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

class Cutter {
 public:
  Cutter(const intflash_batch_plan& plan, std::int64_t tile_rows)
      : plan_(plan), tile_rows_(tile_rows) {}

  // What a section that has its rows and keys costs, tile by tile.
  void measure(BatchSection& section) const {
    section.num_tiles = ceil_div(section.num_rows, tile_rows_);
    if (section.num_tiles > 0) section.first_tile_keys = tile_keys(section, 0);
    section.cost = cost(section);
  }
  float cost(const BatchSection& section) const {
    float sum = 0;
    for (std::int64_t tile = 0; tile < section.num_tiles; ++tile) sum += cost(section, tile);
    return sum;
  }

  // Calls item(BatchItem) and merge(BatchMerge) for all of a stage, with slots from slots on.
  template <class OnItem, class OnMerge>
  void cut(const BatchStage& stage, std::int64_t& slots, OnItem item, OnMerge merge) const {
    const std::int64_t end = stage.first_section + stage.num_sections;
    float total = 0;
    for (std::int64_t s = stage.first_section; s < end; ++s)
      total += plan_.sections[s].cost * static_cast<float>(plan_.num_kv_heads);
    const float target =
        std::max(total / static_cast<float>(plan_.num_workers * kItemsPerWorker), kLeastCost);
    for (std::int64_t s = stage.first_section; s < end; ++s) {
      const BatchSection& section = plan_.sections[s];
      if (section.num_tiles == 0) continue;
      if (section.cost <= target || plan_.num_workers == 1) {
        cut_heads(s, target, item);
      } else {
        for (std::int64_t head = 0; head < plan_.num_kv_heads; ++head)
          cut_head(s, head, target, slots, item, merge);
      }
    }
  }

 private:
  // Keys that some of a request's rows [first_row, first_row + num_rows) see.
  KeyRange keys(const BatchRequest& request, std::int64_t first_row, std::int64_t num_rows) const {
    // Ranges only move on with the query: those in between lie between these two.
    const std::int64_t last_row = first_row + num_rows - 1;
    return hull(visible_keys(request.mask, first_row / plan_.group_size),
                visible_keys(request.mask, last_row / plan_.group_size));
  }
  std::int64_t rows(const BatchSection& section, std::int64_t tile) const {
    return std::min(tile_rows_, section.num_rows - tile * tile_rows_);
  }
  // Keys of the section that some row of a tile sees.
  KeyRange keys(const BatchSection& section, std::int64_t tile) const {
    return tile == 0 ? section.first_tile_keys : tile_keys(section, tile);
  }
  KeyRange tile_keys(const BatchSection& section, std::int64_t tile) const {
    KeyRange seen{};
    for_each_run(plan_, section, tile * tile_rows_, rows(section, tile),
                 [&](const BatchRequest& request, std::int64_t first_row, std::int64_t num_rows) {
                   seen = hull(seen, keys(request, first_row, num_rows));
                 });
    return intersection(seen, section.keys);
  }
  float cost(const BatchSection& section, std::int64_t tile) const {
    const KeyRange seen = keys(section, tile);
    const float blocks = static_cast<float>(ceil_div(seen.end - seen.begin, kScoreBlock));
    return (kTileCost + kRowCost * static_cast<float>(rows(section, tile))) * (blocks + 1);
  }

  BatchItem whole_item(std::int64_t s, std::int64_t head, std::int64_t tile,
                       std::int64_t num_tiles) const {
    const BatchSection& section = plan_.sections[s];
    KeyRange seen{};
    for (std::int64_t i = 0; i < num_tiles; ++i) seen = hull(seen, keys(section, tile + i));
    // A state that is handed over in the middle of a span is taken on whoever sees the rest of it.
    const KeyRange shared = section.keys;
    if (section.enters(shared.begin / kSpanTokens))
      seen = hull(seen, {shared.begin, shared.begin + 1});
    if (section.leaves((shared.end - 1) / kSpanTokens))
      seen = hull(seen, {shared.end - 1, shared.end});
    const std::int64_t begin = seen.begin / kSpanTokens;
    const std::int64_t end = ceil_div(seen.end, kSpanTokens);
    float item_cost = section.cost;
    if (num_tiles < section.num_tiles) {
      item_cost = 0;
      for (std::int64_t i = 0; i < num_tiles; ++i) item_cost += cost(section, tile + i);
    }
    return {static_cast<std::int32_t>(s),
            static_cast<std::int32_t>(head),
            1,
            static_cast<std::int32_t>(tile),
            static_cast<std::int32_t>(num_tiles),
            static_cast<std::int32_t>(begin),
            static_cast<std::int32_t>(end - begin),
            -1,
            false,
            item_cost};
  }

  // Items of whole heads, several together where one is little work.
  template <class OnItem>
  void cut_heads(std::int64_t s, float target, OnItem& item) const {
    const BatchSection& section = plan_.sections[s];
    const std::int64_t heads = std::clamp<std::int64_t>(
        static_cast<std::int64_t>(target / section.cost), 1, plan_.num_kv_heads);
    for (std::int64_t head = 0; head < plan_.num_kv_heads; head += heads) {
      for (std::int64_t tile = 0; tile < section.num_tiles; tile += kTilesPerItem) {
        BatchItem whole =
            whole_item(s, head, tile, std::min(kTilesPerItem, section.num_tiles - tile));
        whole.num_heads = static_cast<std::int32_t>(std::min(heads, plan_.num_kv_heads - head));
        whole.cost *= static_cast<float>(whole.num_heads);
        item(whole);
      }
    }
  }

  // Items of some tiles of one head; where one tile is too much, of some of its spans.
  template <class OnItem, class OnMerge>
  void cut_head(std::int64_t s, std::int64_t head, float target, std::int64_t& slots, OnItem& item,
                OnMerge& merge) const {
    const BatchSection& section = plan_.sections[s];
    for (std::int64_t tile = 0; tile < section.num_tiles;) {
      const float tile_cost = cost(section, tile);
      const BatchItem whole = whole_item(s, head, tile, 1);
      if (tile_cost > 2 * target && whole.num_spans > 1) {
        const std::int64_t parts = std::min<std::int64_t>(
            whole.num_spans, static_cast<std::int64_t>(std::ceil(tile_cost / target)));
        const std::int64_t first_slot = slots;
        for (std::int64_t part = 0; part < parts; ++part) {
          const std::int64_t begin = whole.num_spans * part / parts;
          const std::int64_t end = whole.num_spans * (part + 1) / parts;
          BatchItem piece = whole;
          piece.first_span += static_cast<std::int32_t>(begin);
          piece.num_spans = static_cast<std::int32_t>(end - begin);
          piece.cost = tile_cost / static_cast<float>(parts);
          piece.slot = static_cast<std::int32_t>(slots);
          piece.is_later_part = part > 0;
          slots += num_slots(section, piece);
          item(piece);
        }
        merge(BatchMerge{whole.section, static_cast<std::int32_t>(head),
                         static_cast<std::int32_t>(tile), static_cast<std::int32_t>(first_slot),
                         static_cast<std::int32_t>(slots - first_slot)});
        ++tile;
        continue;
      }
      std::int64_t tiles = 1;
      float sum = tile_cost;
      while (tiles < kTilesPerItem && tile + tiles < section.num_tiles && sum < target)
        sum += cost(section, tile + tiles++);
      item(whole_item(s, head, tile, tiles));
      tile += tiles;
    }
  }

  // States of a part that are not handed over.
  static std::int64_t num_slots(const BatchSection& section, const BatchItem& part) {
    if (!part.is_later_part) return section.first_state < 0 ? 1 : 0;
    return part.num_spans - (section.leaves(part.first_span + part.num_spans - 1) ? 1 : 0);
  }

  const intflash_batch_plan& plan_;
  std::int64_t tile_rows_;
};

BatchRequest make_request(const intflash_request& given, const intflash_batch_plan& plan,
                          std::int64_t first_query) {
  BatchRequest request{};
  request.mask.query_len = given.query_len;
  request.mask.kv_begin = given.first_key_position;
  request.mask.kv_len = given.kv_len;
  set_mask({given.mask, given.window_left, given.window_right, given.prefix_len}, request.mask);
  request.first_query = first_query;
  request.softmax_scale = given.softmax_scale > 0
                              ? given.softmax_scale
                              : 1.0f / std::sqrt(static_cast<float>(plan.page.head_dim));
  return request;
}

// Sections of shared prefixes, of requests' own keys after them, each stage's together; of the
// whole plan but tiles and costs.
void make_sections(const intflash_batch_desc& desc, intflash_batch_plan& plan) {
  const std::int64_t num_shared =
      make_shared_sections(desc, plan.page.page_size, plan.requests, plan.sections);
  BatchSection* const end_shared = plan.sections + num_shared;
  std::sort(plan.sections, end_shared, [](const BatchSection& a, const BatchSection& b) {
    return a.stage != b.stage ? a.stage < b.stage : a.first_request < b.first_request;
  });
  plan.num_stages = num_shared == 0 ? 1 : end_shared[-1].stage + 2;
  plan.num_sections = num_shared + plan.num_requests;
  BatchSection* own = end_shared;
  for (std::int64_t r = 0; r < plan.num_requests; ++r) {
    const BatchRequest& request = plan.requests[r];
    const std::int64_t rows = request.mask.query_len * plan.group_size;
    BatchSection section{};
    section.first_request = r;
    section.num_requests = 1;
    section.keys = {request.shared_end, request.mask.kv_len};
    section.stage = plan.num_stages - 1;
    section.level = request.shared_levels;
    section.num_rows = rows;
    section.first_state = request.shared_end > 0 ? plan.num_states : -1;
    if (request.shared_end > 0) plan.num_states += rows;
    *own++ = section;
  }
  for (BatchSection* shared = plan.sections; shared < end_shared; ++shared) {
    const BatchSection* members = end_shared + shared->first_request;
    shared->first_state = members->first_state;
    for (std::int64_t i = 0; i < shared->num_requests; ++i) shared->num_rows += members[i].num_rows;
  }
  for (std::int64_t s = 0; s < plan.num_sections; ++s) {
    BatchStage& stage = plan.stages[plan.sections[s].stage];
    if (stage.num_sections++ == 0) stage.first_section = s;
  }
}

void lay_out(intflash_batch_plan& plan, const KernelTable& kernels, const TileShape& tile) {
  BatchLayout& layout = plan.layout;
  layout.worker =
      worker_layout(kernels, tile, kTilesPerItem, 1, plan.page.head_dim, plan.page.head_dim_v);
  layout.slot_bytes = state_bytes(tile);
  layout.states_bytes = 3 * handed_state_bytes(plan.num_states, tile);
  layout.page_set_offset = round_up(sizeof(BatchRun), 64);
  layout.slots_offset = layout.page_set_offset + round_up(PageSet::bytes(plan.num_pages), 64);
  layout.states_offset = layout.slots_offset + plan.num_slots * layout.slot_bytes;
  layout.workers_offset = layout.states_offset + plan.num_kv_heads * layout.states_bytes;
  layout.total_bytes = layout.workers_offset + plan.num_workers * layout.worker.bytes;
}

// Counts a stage's items and merges, behind those of the stage before it.
void count_stage(const Cutter& cutter, intflash_batch_plan& plan, BatchStage& stage) {
  stage.first_item = plan.num_items;
  stage.first_merge = plan.num_merges;
  cutter.cut(
      stage, plan.num_slots, [&](const BatchItem&) { ++stage.num_items; },
      [&](const BatchMerge&) { ++stage.num_merges; });
  plan.num_items += stage.num_items;
  plan.num_merges += stage.num_merges;
}

void fill_stages(const Cutter& cutter, const intflash_batch_plan& plan) {
  BatchItem* item = plan.items;
  BatchMerge* merge = plan.merges;
  std::int64_t slots = 0;
  for (std::int32_t i = 0; i < plan.num_stages; ++i) {
    BatchItem* const first = item;
    cutter.cut(
        plan.stages[i], slots, [&](const BatchItem& made) { new (item++) BatchItem(made); },
        [&](const BatchMerge& made) { new (merge++) BatchMerge(made); });
    if (plan.num_workers == 1) continue;
    std::sort(first, item, [](const BatchItem& a, const BatchItem& b) { return a.cost > b.cost; });
  }
}

// count objects at memory, which moves on behind them.
template <class T>
T* take(char*& memory, std::int64_t count) {
  T* const first = reinterpret_cast<T*>(memory);
  memory += count * static_cast<std::int64_t>(sizeof(T));
  return first;
}

}  // namespace

intflash_batch_plan* make_batch_plan(const intflash_context& context, const intflash_cache& cache,
                                     const intflash_batch_desc& desc) {
  const FloatState float_state;  // the caller may round otherwise
  const KernelTable& kernels = *context.port->kernels;
  intflash_batch_plan shape{};
  shape.context = &context;
  shape.page = cache.layout;
  shape.num_kv_heads = cache.num_kv_heads;
  shape.num_pages = cache.num_pages;
  shape.rotate = cache.rotate;
  shape.num_query_heads = desc.num_query_heads;
  shape.group_size = desc.num_query_heads / cache.num_kv_heads;
  shape.query_dtype = desc.query_dtype;
  shape.out_dtype = desc.out_dtype;
  shape.score_cap = desc.score_cap;
  shape.num_requests = desc.num_requests;
  shape.num_workers = context.num_threads;

  // Requests and sections first, since they are cut twice: to count, then to fill.
  const std::int64_t most_sections = desc.num_shared_prefixes + desc.num_requests;
  const std::int64_t scratch_bytes =
      desc.num_requests * static_cast<std::int64_t>(sizeof(BatchRequest)) +
      most_sections * static_cast<std::int64_t>(sizeof(BatchSection));
  void* scratch =
      context.allocate(context.allocator_user,
                       static_cast<std::size_t>(std::max<std::int64_t>(scratch_bytes, 1)), 64);
  if (scratch == nullptr) return nullptr;
  char* free_scratch = static_cast<char*>(scratch);
  shape.requests = take<BatchRequest>(free_scratch, desc.num_requests);
  shape.sections = take<BatchSection>(free_scratch, most_sections);
  for (std::int64_t r = 0; r < desc.num_requests; ++r) {
    const BatchRequest request =
        make_request(element_of(desc.requests, desc.request_size, r), shape, shape.num_queries);
    new (shape.requests + r) BatchRequest(request);
    shape.num_queries += request.mask.query_len;
    shape.largest_softmax_scale = std::max(shape.largest_softmax_scale, request.softmax_scale);
  }
  make_sections(desc, shape);

  std::int64_t most_rows = 1;
  for (std::int64_t s = 0; s < shape.num_sections; ++s)
    most_rows = std::max(most_rows, shape.sections[s].num_rows);
  const TileShape tile = tile_shape(std::min<std::int64_t>(kernels.tile_rows, most_rows),
                                    shape.page.head_dim, shape.page.head_dim_v);
  const Cutter cutter(shape, tile.rows);
  for (std::int64_t s = 0; s < shape.num_sections; ++s) cutter.measure(shape.sections[s]);
  for (std::int32_t i = 0; i < shape.num_stages; ++i) count_stage(cutter, shape, shape.stages[i]);
  lay_out(shape, kernels, tile);

  const std::int64_t plan_bytes =
      static_cast<std::int64_t>(sizeof shape) +
      shape.num_requests * static_cast<std::int64_t>(sizeof(BatchRequest)) +
      shape.num_sections * static_cast<std::int64_t>(sizeof(BatchSection)) +
      shape.num_items * static_cast<std::int64_t>(sizeof(BatchItem)) +
      shape.num_merges * static_cast<std::int64_t>(sizeof(BatchMerge));
  void* const memory =
      context.allocate(context.allocator_user, static_cast<std::size_t>(plan_bytes), 64);
  if (memory != nullptr) {
    intflash_batch_plan* plan = new (memory) intflash_batch_plan(shape);
    char* free_memory = static_cast<char*>(memory) + sizeof shape;
    plan->requests = take<BatchRequest>(free_memory, plan->num_requests);
    plan->sections = take<BatchSection>(free_memory, plan->num_sections);
    plan->items = take<BatchItem>(free_memory, plan->num_items);
    plan->merges = take<BatchMerge>(free_memory, plan->num_merges);
    std::copy_n(shape.requests, plan->num_requests, plan->requests);
    std::copy_n(shape.sections, plan->num_sections, plan->sections);
    fill_stages(Cutter(*plan, tile.rows), *plan);
  }
  context.deallocate(context.allocator_user, scratch);
  return static_cast<intflash_batch_plan*>(memory);
}

}  // namespace intflash::internal
