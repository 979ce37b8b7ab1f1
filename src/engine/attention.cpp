// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A work item: quantize its rows, then gather blocks -> keep words -> attend_tile -> merge ->
// write.
#include "engine/attention.h"

#include <algorithm>

#include "core/structs.h"
#include "engine/section_keys.h"
#include "inputs/rope.h"

namespace intflash::internal {
namespace {

const Section& section_of(const Attention& attention, std::int32_t index) {
  return attention.schedule->sections[index];
}

// The rows of one kv head of a request.
RowGroup row_group(const Attention& attention, const Request& request, std::int64_t kv_head) {
  const std::int64_t index = &request - attention.schedule->requests;
  const std::int64_t group_size = attention.schedule->shape.group_size;
  const std::int64_t query_heads = group_size * attention.schedule->shape.num_kv_heads;
  RowGroup group{};
  group.kernels = attention.kernels;
  group.query = attention.query;
  group.out = attention.out;
  group.query_dtype = attention.query_dtype;
  group.out_dtype = attention.out_dtype;
  group.batch = attention.requests_are_batches ? index : 0;
  group.first_head = kv_head * group_size;
  group.first_token = attention.requests_are_batches ? 0 : request.first_query;
  if (attention.lse != nullptr)
    group.lse = attention.lse +
                request.first_query * (attention.requests_are_batches ? query_heads : 1) +
                group.first_head * attention.lse_stride_head;
  group.lse_stride_head = attention.lse_stride_head;
  group.lse_stride_token = attention.lse_stride_token;
  group.leaves_states = attention.states != nullptr;
  group.group_size = group_size;
  group.num_rows = group_size * request.mask.query_len;
  group.head_dim = attention.head_dim;
  group.head_dim_v = attention.head_dim_v;
  group.mask = request.mask;
  group.window = attention.pages.window;
  group.has_f16_values = attention.has_f16_values;
  group.softmax_scale = request.softmax_scale;
  group.score_cap = attention.score_cap;
  if (attention.sinks != nullptr) group.sinks = attention.sinks + group.first_head;
  group.bias = score_bias(attention, index);
  if (attention.plain_keys != nullptr)
    group.plain_keys = attention.plain_keys + index * attention.plain_keys_stride;
  group.rotation = attention.rotation;
  group.rope = rope_rows(attention.rope, first_position(request));
  group.key_center = attention.key_center.of(index, kv_head);
  group.value_center = attention.value_center.of(index, kv_head);
  return group;
}

// ---- States ----

StateStack slot_stack(const Attention& attention, std::int64_t slot) {
  return state_stack(attention.tile, attention.slots + slot * attention.state_bytes());
}

// Of a section's row and the rows behind it, the states that are handed over.
StateStack handed_stack(const Attention& attention, const Section& section, std::int64_t kv_head,
                        std::int64_t row) {
  const Schedule& schedule = *attention.schedule;
  const std::int64_t stride = attention.tile.accumulator_stride;
  const std::int64_t index = section.first_state + row;
  const std::int64_t padded_rows = round_up(schedule.num_handed, 16);
  float* reference = reinterpret_cast<float*>(
      attention.handed + kv_head * Attention::handed_bytes(schedule, attention.tile));
  return {{reference + index, reference + padded_rows + index,
           reference + 2 * padded_rows + index * stride, stride},
          attention.handed_floats()};
}

void copy_state(const AttentionState& from, const AttentionState& to, std::int64_t rows) {
  if (from.reference == to.reference) return;
  std::copy_n(from.reference, rows, to.reference);
  std::copy_n(from.row_sum, rows, to.row_sum);
  std::copy_n(from.accumulators, rows * from.accumulator_stride, to.accumulators);
}

void merge_nothing(std::int32_t) {}

// The states of a tile, in the order of their spans, as they are put together.
struct MergedStates {
  const RowGroup& group;
  std::int64_t rows;
  SpanTree tree;
  AttentionState states[kMaxWaitingStates];  // [tree.size()]

  MergedStates(const RowGroup& rows_of, std::int64_t num_rows, const SpanTree& before)
      : group(rows_of), rows(num_rows), tree(before) {}

  void merge(std::int32_t left) {
    group.kernels->rows->merge_states(states[left + 1], states[left],
                                      static_cast<std::int32_t>(rows),
                                      static_cast<std::int32_t>(group.head_dim_v));
  }
  void push(std::int64_t span, const AttentionState& state) {
    tree.push(span, [this](std::int32_t left) { merge(left); });
    states[tree.size() - 1] = state;
  }
  void finish() {
    tree.finish([this](std::int32_t left) { merge(left); });
  }
  // To the caller's states, each of which has those of a run of spans.
  void leave(const Attention& attention, const Request& request, std::int64_t first_row,
             const Tile& tile) {
    std::int64_t index = request.first_state;
    std::int32_t begin = 0;
    const KeyRange spans = attended_spans(request);
    for_each_node(spans.begin, spans.end, [&](std::int64_t first, std::int64_t count) {
      std::int32_t end = begin;
      while (end < tree.size() && tree.span(end) < first + count) ++end;
      for (std::int32_t left = end - 2; left >= begin; --left) merge(left);
      leave_state(group, first_row, tile, end > begin ? states[begin] : AttentionState{},
                  element_of(attention.states, attention.state_size, index++));
      begin = end;
    });
  }
};

// Of rows whose states are all there: their results, or what the caller has asked for in place of
// these.
void finish_rows(const Attention& attention, const Section& section, const RowGroup& group,
                 std::int64_t first_row, Tile& tile) {
  if (attention.states == nullptr) {
    merge_all(group, tile);
    return finish_tile(group, first_row, tile);
  }
  MergedStates merged(group, tile.query.rows, tile.tree);
  for (std::int32_t i = 0; i < tile.tree.size(); ++i) merged.states[i] = tile.states[i];
  merged.leave(attention, attention.schedule->requests[section.first_request], first_row, tile);
}

// What the sections before have left of their spans, for each row of a section that takes it on.
SpanTree handed_tree(const Attention& attention, const Section& section) {
  const Request& request = attention.schedule->requests[section.first_request];
  // Where states are left, others have what goes before the request's first span.
  SpanTree tree =
      attention.states == nullptr ? SpanTree() : SpanTree(attended_spans(request).begin - 1);
  if (!section.hands_over()) return tree;
  const MaskRule& mask = request.mask;
  for (std::int64_t span = mask.kv_begin / kSpanTokens; span * kSpanTokens < section.keys.begin;
       ++span)
    tree.push(span, merge_nothing);
  return tree;
}

// Of a part of a section's spans, before its first: what lies before them is elsewhere, and so is a
// first span that is open.
SpanTree tree_of_part(bool is_first_part, const Section& section, const SpanTree& handed,
                      std::int64_t first_span) {
  if (!is_first_part) return SpanTree(first_span - 1);
  if (!section.hands_over()) return handed;
  return SpanTree(handed.has_open(first_span) ? first_span : first_span - 1);
}

// ---- Items ----

void add_section_rows(const Attention& attention, const Section& section, std::int64_t kv_head,
                      std::int64_t index, Tile& tile) {
  const Schedule& schedule = *attention.schedule;
  const std::int64_t first_row = index * schedule.tile_rows;
  for_each_run(
      schedule, section, first_row, std::min(schedule.tile_rows, section.num_rows - first_row),
      [&](const Request& request, std::int64_t row, std::int64_t num_rows) {
        add_rows(row_group(attention, request, kv_head), attention.tile, row, num_rows, tile);
      });
  tile.seen.clip(section.keys);
}

// One kv head of an item, at work. group: of the section's first request.
struct ItemHead {
  const Attention& attention;
  const Item& item;
  const Section& section;
  const RowGroup group;
  const SectionKeys keys;
  std::int64_t kv_head;
  const Worker& worker;
  const SpanTree handed;

  ItemHead(const Attention& run, const Item& cut, std::int64_t head, const Worker& at)
      : attention(run),
        item(cut),
        section(section_of(run, cut.section)),
        group(row_group(run, run.schedule->requests[section.first_request], head)),
        keys(run, section, cut, head),
        kv_head(head),
        worker(at),
        handed(handed_tree(run, section)) {}

  bool is_cancelled() const { return attention.is_cancelled(attention.cancel_user); }
  bool is_cut() const { return item.slot >= 0; }
  // Whether every span has its state, seen or not, since others count on it.
  bool enters_all() const { return is_cut() || section.hands_over(); }

  // Tile i of the item, at place `at` of the worker's.
  Tile& begin(std::int64_t i, std::int64_t at) const {
    Tile& tile = *worker.tile(at);
    const std::int64_t index = item.first_tile + i;
    if (is_cut()) {
      const std::int64_t head = kv_head - item.first_head;
      begin_tile(attention.tile, slot_stack(attention, item.slot + head * item.slots_per_head),
                 tile);
      tile.tree = tree_of_part(item.is_first_part, section, handed, item.first_span);
    } else if (section.hands_over()) {
      begin_tile(attention.tile,
                 handed_stack(attention, section, kv_head, index * attention.schedule->tile_rows),
                 tile);
      tile.tree = handed;
    } else {
      const TileShape shape = attention.tile_of(item.kind);
      const std::int64_t bytes = attention.schedule->most_states * shape.state_floats() * 4;
      begin_tile(attention.tile, state_stack(shape, worker.states + at * bytes), tile);
      if (attention.states != nullptr) tile.tree = handed;
    }
    add_section_rows(attention, section, kv_head, index, tile);
    return tile;
  }

  // Where no section goes on with a span that this one leaves, states are merged as they are done.
  bool merges_at_once() const { return !section.hands_over(); }

  // The state that takes a span's keys. A span that sections divide goes on from what the one
  // before has left.
  AttentionState enter(std::int64_t span, std::int64_t i, const AttentionState& part,
                       Tile& tile) const {
    if (is_cut() && item.is_first_part && handed.has_open(span)) {
      const std::int64_t row = (item.first_tile + i) * attention.schedule->tile_rows;
      return handed_stack(attention, section, kv_head, row)[handed.size() - 1];
    }
    return enter_span(group, span, merges_at_once() ? &part : nullptr, tile);
  }
  void leave(std::int64_t span, const AttentionState& part, Tile& tile) const {
    if (merges_at_once()) leave_span(group, span, &part, tile);
  }

  void finish(std::int64_t i, Tile& tile) const {
    if (is_cut() || section.is_shared) return;
    finish_rows(attention, section, group, (item.first_tile + i) * attention.schedule->tile_rows,
                tile);
  }
};

// Takes keys in each form in which the tile's rows see them, in the order of positions: a score
// block in both forms is two. after: as in SpanKeys; packed: of those that are not in INT8.
void attend_forms(const RowGroup& group, const Worker& worker, KeyRange keys,
                  const FormBlocks& blocks, const KvBlock* after, std::int32_t packed,
                  const Tile& tile, const AttentionState& state) {
  if (group.window.is_none())
    return attend_into(group, worker, {keys, blocks.coded, after, packed}, tile, tile.seen, state);
  SeenRanges parts[kNumForms];
  std::int32_t last = 0;
  for (std::int32_t i = 0; i < kNumForms; ++i) {
    set_part(tile, i, parts[i]);
    if (parts[i].any_sees(keys)) last = i;
  }
  for (std::int32_t i = 0; i <= last; ++i) {
    if (!parts[i].any_sees(keys)) continue;
    const bool is_coded = i == kCodedForm;
    attend_into(group, worker,
                {keys, is_coded ? blocks.coded : blocks.window, i == last ? after : nullptr,
                 is_coded ? packed : 0},
                tile, parts[i], state);
  }
}

void attend_span(const ItemHead& head, std::int64_t span, std::int64_t i, const FormBlocks& blocks,
                 const KvBlock* after, Tile& tile) {
  const KeyRange keys = keys_of_span(span);
  const bool is_seen = tile.seen.any_sees(keys);
  if (!is_seen && !head.enters_all()) return;
  const AttentionState part = state_stack(head.attention.tile, head.worker.part).first;
  const AttentionState state = head.enter(span, i, part, tile);
  if (is_seen) attend_forms(head.group, head.worker, keys, blocks, after, 0, tile, state);
  head.leave(span, part, tile);
}

// One tile against span after span: each is read once, and what comes next is asked for.
void attend_tile(const ItemHead& head) {
  const Item& item = head.item;
  Tile& tile = head.begin(0, 0);
  KvBlock after[2];
  for (std::int64_t s = 0; s < item.num_spans; ++s) {
    if (head.is_cancelled()) return;
    const std::int64_t span = item.first_span + s;
    const bool is_last = s + 1 == item.num_spans;
    const bool knows_next = !is_last && head.keys.halves((span + 1) * kSpanTokens, after);
    if (knows_next) head.keys.announce_scales(span + 1);
    const bool is_seen = tile.seen.any_sees(keys_of_span(span));
    const FormBlocks blocks = is_seen ? head.keys.blocks(span, 1, head.worker) : FormBlocks{};
    attend_span(head, span, 0, blocks, knows_next ? after : nullptr, tile);
  }
  head.finish(0, tile);
}

// Tile i against spans first ... end - 1 of the item.
void attend_spans(const ItemHead& head, std::int64_t first, std::int64_t end,
                  const FormBlocks& all_blocks, std::int64_t i, Tile& tile) {
  for (std::int64_t s = first; s < end;) {
    const std::int64_t span = head.item.first_span + s;
    const FormBlocks blocks = all_blocks.from((s - first) * kBlocksPerSpan);
    const std::int64_t whole =
        count_whole_spans(head.group, tile, span, head.item.first_span + end, blocks.coded);
    if (whole > 1) {
      attend_whole_spans(head.group, head.worker, span, whole, blocks.coded, tile);
    } else {
      attend_span(head, span, i, blocks, nullptr, tile);
    }
    s += std::max<std::int64_t>(whole, 1);
  }
}

// Some spans of keys and values stay in L2 while the item's tiles pass over them; where these are
// all of them, a tile is finished before the next begins, and its states stay in L1.
void attend_tiles(const ItemHead& head) {
  const Item& item = head.item;
  const std::int64_t at_once = head.attention.spans_at_once;
  const bool is_one_pass = item.num_spans <= at_once;
  FormBlocks blocks{};
  for (std::int64_t i = 0; !is_one_pass && i < item.num_tiles; ++i) head.begin(i, i);
  for (std::int64_t first = 0; first < item.num_spans; first += at_once) {
    const std::int64_t end = std::min<std::int64_t>(first + at_once, item.num_spans);
    blocks = head.keys.blocks(item.first_span + first, end - first, head.worker);
    for (std::int64_t i = 0; !is_one_pass && i < item.num_tiles; ++i) {
      if (head.is_cancelled()) return;
      attend_spans(head, first, end, blocks, i, *head.worker.tile(i));
    }
  }
  for (std::int64_t i = 0; i < item.num_tiles; ++i) {
    if (head.is_cancelled()) return;
    Tile& tile = is_one_pass ? head.begin(i, 0) : *head.worker.tile(i);
    if (is_one_pass) attend_spans(head, 0, item.num_spans, blocks, i, tile);
    head.finish(i, tile);
  }
}

// ---- Items of heads ----

// The heads of an item and their tiles, which see the same keys. Nothing of it is cleared first.
struct ItemHeads {
  const Item* item;
  RowGroup groups[kHeadsAtOnce];
  Tile* tiles[kHeadsAtOnce];
  AttentionState states[kHeadsAtOnce];
};

void attend_block(const Attention& attention, const Section& section, const ItemHeads& heads,
                  std::int64_t first, std::int64_t h, const Worker& worker) {
  const std::int64_t kv_head = heads.item->first_head + h;
  const KeyRange keys = {first, first + kScoreBlock};
  const Tile& tile = *heads.tiles[h];
  const FormBlocks block = SectionKeys(attention, section, *heads.item, kv_head)
                               .block(first, tile.seen.max_end, tile.query, worker);
  if (block.coded == nullptr) return;
  // The next head's block lies behind this one; behind the last head's there is the next block's.
  KvBlock after[2];
  const std::int32_t packed = attention.pages.packed_for(tile.query.rows);
  const bool is_last = h + 1 == heads.item->num_heads;
  const bool knows_next =
      SectionKeys(attention, section, *heads.item, is_last ? heads.item->first_head : kv_head + 1)
          .halves(is_last ? first + kScoreBlock : first, after);
  attend_forms(heads.groups[h], worker, keys, block, knows_next ? after : nullptr, packed, tile,
               heads.states[h]);
}

// One tile of few rows for each of several heads, block by block: a page is read from its first
// head to its last, as it lies in memory, and what is fetched beyond a head is not in vain.
void attend_heads(const Attention& attention, const Item& item, const Worker& worker) {
  const Section& section = section_of(attention, item.section);
  ItemHeads heads;
  heads.item = &item;
  for (std::int64_t h = 0; h < item.num_heads; ++h) {
    const ItemHead head(attention, item, item.first_head + h, worker);
    heads.groups[h] = head.group;
    heads.tiles[h] = &head.begin(0, h);
  }
  const Tile& any = *heads.tiles[0];
  for (std::int64_t s = 0; s < item.num_spans; ++s) {
    if (attention.is_cancelled(attention.cancel_user)) return;
    const std::int64_t span = item.first_span + s;
    const KeyRange keys = keys_of_span(span);
    if (item.slot < 0 && !any.seen.any_sees(keys)) continue;
    for (std::int64_t h = 0; h < item.num_heads; ++h)
      heads.states[h] = enter_span(heads.groups[h], span, nullptr, *heads.tiles[h]);
    for (std::int64_t first = keys.begin; first < keys.end; first += kScoreBlock) {
      if (!any.seen.any_sees({first, first + kScoreBlock})) continue;
      for (std::int64_t h = 0; h < item.num_heads; ++h)
        attend_block(attention, section, heads, first, h, worker);
    }
    for (std::int64_t h = 0; h < item.num_heads; ++h)
      leave_span(heads.groups[h], span, nullptr, *heads.tiles[h]);
  }
  for (std::int64_t h = 0; item.slot < 0 && h < item.num_heads; ++h) {
    finish_rows(attention, section, heads.groups[h], 0, *heads.tiles[h]);
  }
}

// ---- Merges ----

// The spans of a part's states, as its item has left them in its slots.
SpanTree part_tree(const Merge& merge, std::int64_t part, const Section& section,
                   const SpanTree& handed) {
  const std::int64_t begin = merge.first_span + part_begin(merge.num_spans, part, merge.num_parts);
  const std::int64_t end =
      merge.first_span + part_begin(merge.num_spans, part + 1, merge.num_parts);
  SpanTree tree = tree_of_part(part == 0, section, handed, begin);
  for (std::int64_t span = begin; span < end; ++span) {
    if (part == 0 && handed.has_open(span)) continue;
    tree.push(span, merge_nothing);
    if (!section.hands_over()) tree.complete(span, merge_nothing);
  }
  return tree;
}

}  // namespace

std::int64_t spans_in_cache(const PageLayout& layout, std::int64_t l2_bytes) {
  const std::int64_t span_bytes = layout.bytes() / layout.page_size * kSpanTokens;
  return std::max<std::int64_t>(1, l2_bytes / 2 / span_bytes);
}

ScoreBias score_bias(const Attention& attention, std::int64_t request) {
  ScoreBias bias{};
  const std::int64_t index = request * attention.mask_stride;
  if (attention.additive_masks != nullptr)
    bias.additive = element_of(attention.additive_masks, attention.additive_mask_size, index);
  if (attention.bit_masks != nullptr)
    bias.bits = element_of(attention.bit_masks, attention.bit_mask_size, index);
  bias.alibi_slopes = attention.alibi_slopes;
  bias.rule = attention.schedule->requests[request].mask;
  return bias;
}

void run_item(const Attention& attention, const Item& item, const Worker& worker) {
  if (item.kind == ItemKind::kHeads) return attend_heads(attention, item, worker);
  for (std::int64_t h = 0; h < item.num_heads; ++h) {
    const ItemHead head(attention, item, item.first_head + h, worker);
    if (item.num_tiles == 1) {
      attend_tile(head);
    } else {
      attend_tiles(head);
    }
  }
}

void run_merge(const Attention& attention, const Merge& merge, const Worker& worker) {
  const Schedule& schedule = *attention.schedule;
  const Section& section = section_of(attention, merge.section);
  const RowGroup group = row_group(attention, schedule.requests[section.first_request], merge.head);
  const std::int64_t first_row = merge.tile * schedule.tile_rows;
  const std::int64_t rows = std::min(schedule.tile_rows, section.num_rows - first_row);

  MergedStates merged(group, rows, handed_tree(attention, section));
  StateStack handed{};
  if (section.hands_over()) handed = handed_stack(attention, section, merge.head, first_row);
  const SpanTree handed_before = merged.tree;
  for (std::int32_t i = 0; i < handed_before.size(); ++i) merged.states[i] = handed[i];
  for (std::int64_t part = 0; part < merge.num_parts; ++part) {
    const SpanTree tree = part_tree(merge, part, section, handed_before);
    const StateStack slots = slot_stack(attention, merge.first_slot + part * merge.part_slots);
    for (std::int32_t i = 0; i < tree.size(); ++i) merged.push(tree.span(i), slots[i]);
  }
  if (section.is_shared) {
    for (std::int32_t i = 0; i < merged.tree.size(); ++i)
      copy_state(merged.states[i], handed[i], rows);
    return;
  }
  Tile& tile = *worker.tile(0);
  begin_tile(attention.tile, state_stack(attention.tile, worker.states), tile);
  add_seen_rows(group, first_row, rows, tile);
  if (attention.states != nullptr) {
    merged.leave(attention, schedule.requests[section.first_request], first_row, tile);
    return;
  }
  merged.finish();
  if (merged.tree.size() > 0) {
    tile.states.first = merged.states[0];
    tile.tree.push(0, merge_nothing);
  }
  finish_tile(group, first_row, tile);
}

}  // namespace intflash::internal
