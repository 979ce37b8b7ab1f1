// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "batch_plan.h"

#include <algorithm>
#include <cmath>
#include <new>

#include "batch_run.h"
#include "checks.h"
#include "float_state.h"

namespace intflash {
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

class Cutter {
 public:
  Cutter(const intflash_batch_plan& plan, std::int64_t tile_rows)
      : plan_(plan), tile_rows_(tile_rows) {}

  std::int64_t rows(const BatchRequest& request) const {
    return plan_.group_size * request.mask.query_len;
  }
  // Keys that some row of a tile sees.
  KeyRange keys(const BatchRequest& request, std::int64_t tile) const {
    const std::int64_t first = tile * tile_rows_ / plan_.group_size;
    const std::int64_t last_row = std::min((tile + 1) * tile_rows_, rows(request)) - 1;
    const KeyRange from = visible_keys(request.mask, first);
    const KeyRange to = visible_keys(request.mask, last_row / plan_.group_size);
    if (to.begin == to.end) return {to.begin, to.end};
    // Ranges only move on with the query: those in between lie between these two.
    return {from.begin == from.end ? to.begin : std::min(from.begin, to.begin), to.end};
  }
  float cost(const BatchRequest& request, std::int64_t tile) const {
    const KeyRange seen = keys(request, tile);
    const std::int64_t tile_rows = std::min(tile_rows_, rows(request) - tile * tile_rows_);
    const float blocks = static_cast<float>(ceil_div(seen.end - seen.begin, kScoreBlock));
    return (kTileCost + kRowCost * static_cast<float>(tile_rows)) * (blocks + 1);
  }
  float cost(const BatchRequest& request) const {
    float sum = 0;
    for (std::int64_t tile = 0; tile < request.num_tiles; ++tile) sum += cost(request, tile);
    return sum;
  }

  // Calls item(BatchItem) and merge(BatchMerge) for all of the batch.
  template <class OnItem, class OnMerge>
  void cut(OnItem item, OnMerge merge) const {
    float total = 0;
    for (std::int64_t r = 0; r < plan_.num_requests; ++r)
      total += plan_.requests[r].cost * static_cast<float>(plan_.num_kv_heads);
    const float target =
        std::max(total / static_cast<float>(plan_.num_workers * kItemsPerWorker), kLeastCost);
    std::int64_t slots = 0;
    for (std::int64_t r = 0; r < plan_.num_requests; ++r) {
      const BatchRequest& request = plan_.requests[r];
      if (request.num_tiles == 0) continue;
      if (request.cost <= target || plan_.num_workers == 1) {
        cut_heads(r, target, item);
      } else {
        for (std::int64_t head = 0; head < plan_.num_kv_heads; ++head)
          cut_head(r, head, target, slots, item, merge);
      }
    }
  }

 private:
  BatchItem whole_item(std::int64_t r, std::int64_t head, std::int64_t tile,
                       std::int64_t num_tiles) const {
    const BatchRequest& request = plan_.requests[r];
    const KeyRange first = keys(request, tile);
    const KeyRange last = keys(request, tile + num_tiles - 1);
    const std::int64_t begin = std::min(first.begin, last.begin) / kSpanTokens;
    const std::int64_t end = ceil_div(std::max(first.end, last.end), kSpanTokens);
    float item_cost = request.cost;
    if (num_tiles < request.num_tiles) {
      item_cost = 0;
      for (std::int64_t i = 0; i < num_tiles; ++i) item_cost += cost(request, tile + i);
    }
    return {static_cast<std::int32_t>(r),
            static_cast<std::int32_t>(head),
            1,
            static_cast<std::int32_t>(tile),
            static_cast<std::int32_t>(num_tiles),
            static_cast<std::int32_t>(begin),
            static_cast<std::int32_t>(end - begin),
            -1,
            item_cost};
  }

  // Items of whole heads, several together where one is little work.
  template <class OnItem>
  void cut_heads(std::int64_t r, float target, OnItem& item) const {
    const BatchRequest& request = plan_.requests[r];
    const std::int64_t heads = std::clamp<std::int64_t>(
        static_cast<std::int64_t>(target / request.cost), 1, plan_.num_kv_heads);
    for (std::int64_t head = 0; head < plan_.num_kv_heads; head += heads) {
      for (std::int64_t tile = 0; tile < request.num_tiles; tile += kTilesPerItem) {
        BatchItem whole =
            whole_item(r, head, tile, std::min(kTilesPerItem, request.num_tiles - tile));
        whole.num_heads = static_cast<std::int32_t>(std::min(heads, plan_.num_kv_heads - head));
        whole.cost *= static_cast<float>(whole.num_heads);
        item(whole);
      }
    }
  }

  // Items of some tiles of one head; where one tile is too much, of some of its spans.
  template <class OnItem, class OnMerge>
  void cut_head(std::int64_t r, std::int64_t head, float target, std::int64_t& slots, OnItem& item,
                OnMerge& merge) const {
    const BatchRequest& request = plan_.requests[r];
    for (std::int64_t tile = 0; tile < request.num_tiles;) {
      const float tile_cost = cost(request, tile);
      const BatchItem whole = whole_item(r, head, tile, 1);
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
          slots += part == 0 ? 1 : end - begin;
          item(piece);
        }
        merge(BatchMerge{whole.request, static_cast<std::int32_t>(head),
                         static_cast<std::int32_t>(tile), static_cast<std::int32_t>(first_slot),
                         static_cast<std::int32_t>(slots - first_slot)});
        ++tile;
        continue;
      }
      std::int64_t tiles = 1;
      float sum = tile_cost;
      while (tiles < kTilesPerItem && tile + tiles < request.num_tiles && sum < target)
        sum += cost(request, tile + tiles++);
      item(whole_item(r, head, tile, tiles));
      tile += tiles;
    }
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
  const FloatState float_state;  // the caller may round otherwise
  request.softmax_scale = given.softmax_scale > 0
                              ? given.softmax_scale
                              : 1.0f / std::sqrt(static_cast<float>(plan.page.head_dim));
  return request;
}

void lay_out(intflash_batch_plan& plan, const KernelTable& kernels, const TileShape& tile) {
  BatchLayout& layout = plan.layout;
  layout.worker =
      worker_layout(kernels, tile, kTilesPerItem, plan.page.head_dim, plan.page.head_dim_v);
  layout.slot_bytes = state_bytes(tile);
  layout.page_set_offset = round_up(sizeof(BatchRun), 64);
  layout.slots_offset = layout.page_set_offset + round_up(PageSet::bytes(plan.num_pages), 64);
  layout.workers_offset = layout.slots_offset + plan.num_slots * layout.slot_bytes;
  layout.total_bytes = layout.workers_offset + plan.num_workers * layout.worker.bytes;
}

}  // namespace

intflash_batch_plan* make_batch_plan(const intflash_context& context, const intflash_cache& cache,
                                     const intflash_batch_desc& desc) {
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

  std::int64_t most_rows = 1;
  for (std::int64_t r = 0; r < desc.num_requests; ++r)
    most_rows = std::max(most_rows, desc.requests[r].query_len * shape.group_size);
  const TileShape tile = tile_shape(std::min<std::int64_t>(kernels.tile_rows, most_rows),
                                    shape.page.head_dim, shape.page.head_dim_v);
  const Cutter cutter(shape, tile.rows);

  // Requests first, since they are cut twice: to count, then to fill.
  const std::size_t request_bytes =
      static_cast<std::size_t>(desc.num_requests) * sizeof(BatchRequest);
  void* scratch =
      context.allocate(context.allocator_user, std::max<std::size_t>(request_bytes, 1), 64);
  if (scratch == nullptr) return nullptr;
  shape.requests = static_cast<BatchRequest*>(scratch);
  for (std::int64_t r = 0; r < desc.num_requests; ++r) {
    BatchRequest request = make_request(desc.requests[r], shape, shape.num_queries);
    request.num_tiles = ceil_div(cutter.rows(request), tile.rows);
    request.cost = cutter.cost(request);
    new (shape.requests + r) BatchRequest(request);
    shape.num_queries += desc.requests[r].query_len;
    shape.largest_softmax_scale = std::max(shape.largest_softmax_scale, request.softmax_scale);
  }
  cutter.cut([&](const BatchItem&) { ++shape.num_items; },
             [&](const BatchMerge& merge) {
               ++shape.num_merges;
               shape.num_slots += merge.num_slots;
             });
  lay_out(shape, kernels, tile);

  const std::size_t item_bytes = static_cast<std::size_t>(shape.num_items) * sizeof(BatchItem);
  const std::size_t merge_bytes = static_cast<std::size_t>(shape.num_merges) * sizeof(BatchMerge);
  char* memory = static_cast<char*>(context.allocate(
      context.allocator_user, sizeof shape + request_bytes + item_bytes + merge_bytes, 64));
  if (memory != nullptr) {
    intflash_batch_plan* plan = new (memory) intflash_batch_plan(shape);
    plan->requests = reinterpret_cast<BatchRequest*>(memory + sizeof shape);
    std::copy_n(shape.requests, desc.num_requests, plan->requests);
    plan->items = reinterpret_cast<BatchItem*>(memory + sizeof shape + request_bytes);
    plan->merges =
        reinterpret_cast<BatchMerge*>(memory + sizeof shape + request_bytes + item_bytes);
    std::int64_t items = 0;
    std::int64_t merges = 0;
    Cutter(*plan, tile.rows)
        .cut([&](const BatchItem& item) { new (plan->items + items++) BatchItem(item); },
             [&](const BatchMerge& merge) { new (plan->merges + merges++) BatchMerge(merge); });
    if (plan->num_workers > 1) {
      std::sort(plan->items, plan->items + items,
                [](const BatchItem& a, const BatchItem& b) { return a.cost > b.cost; });
    }
  }
  context.deallocate(context.allocator_user, scratch);
  return reinterpret_cast<intflash_batch_plan*>(memory);
}

}  // namespace intflash
