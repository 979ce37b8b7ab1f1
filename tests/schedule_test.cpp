// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Schedules: items cover what every row sees once, slots belong to one part each, and workers are
// kept equally busy. States are merged by one tree, whoever has which spans.
#include "engine/schedule.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "balance.h"
#include "counting_allocator.h"
#include "intflash/intflash.h"
#include "states/span_tree.h"

namespace intflash::internal {
namespace {

// ---- The tree ----

// The merges of the present spans below a node, from the definition: halves in brackets.
std::string tree_of(const std::set<std::int64_t>& present, std::int32_t level, std::int64_t index) {
  if (level == 0) return present.count(index) > 0 ? std::to_string(index) : "";
  const std::string left = tree_of(present, level - 1, 2 * index);
  const std::string right = tree_of(present, level - 1, 2 * index + 1);
  return left.empty() || right.empty() ? left + right : "(" + left + " " + right + ")";
}

// States as the merges that they come from.
struct NamedStates {
  SpanTree tree;
  std::vector<std::string> names;

  void merge(std::int32_t left) {
    const auto at = static_cast<std::size_t>(left);
    ASSERT_EQ(names.size(), at + 2);
    names[at] = "(" + names[at] + " " + names[at + 1] + ")";
    names.pop_back();
  }
  void push(std::int64_t span, const std::string& name) {
    tree.push(span, [this](std::int32_t left) { merge(left); });
    names.push_back(name);
    ASSERT_EQ(static_cast<std::size_t>(tree.size()), names.size());
  }
  void complete(std::int64_t span) {
    const bool completes = tree.completes(span);
    const std::size_t before = names.size();
    tree.complete(span, [this](std::int32_t left) { merge(left); });
    EXPECT_EQ(completes, names.size() < before);
  }
  std::string finish() {
    tree.finish([this](std::int32_t left) { merge(left); });
    EXPECT_LE(names.size(), 1u);
    return names.empty() ? "" : names[0];
  }
};

constexpr std::int32_t kTopLevel = 6;
constexpr std::int64_t kSpans = 1 << kTopLevel;

TEST(SpanTree, PartsOfAnyCutMergeToTheTreeOfTheDefinition) {
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    std::int64_t begin = static_cast<std::int64_t>(random() % kSpans);
    std::int64_t end = static_cast<std::int64_t>(random() % kSpans) + 1;
    if (begin >= end) std::swap(begin, end);
    std::set<std::int64_t> present;
    for (std::int64_t span = begin; span < end; ++span) present.insert(span);

    NamedStates whole;
    for (std::int64_t first = begin; first < end;) {
      const std::int64_t last = first + static_cast<std::int64_t>(random() % 13);
      NamedStates part{first == begin ? SpanTree() : SpanTree(first - 1), {}};
      for (; first <= last && first < end; ++first) {
        part.push(first, std::to_string(first));
        if (random() % 2 == 0) part.complete(first);
      }
      for (std::int32_t i = 0; i < part.tree.size(); ++i)
        whole.push(part.tree.span(i), part.names[static_cast<std::size_t>(i)]);
    }
    EXPECT_EQ(whole.finish(), tree_of(present, kTopLevel, 0)) << begin << " ... " << end;
  }
}

TEST(SpanTree, AbsentSpansLeaveNoTrace) {
  std::mt19937 random(2);
  for (int round = 0; round < 2000; ++round) {
    std::set<std::int64_t> present;
    NamedStates whole;
    for (std::int64_t span = 0; span < kSpans; ++span) {
      if (random() % 3 == 0) continue;
      present.insert(span);
      whole.push(span, std::to_string(span));
    }
    EXPECT_EQ(whole.finish(), tree_of(present, kTopLevel, 0));
  }
}

TEST(SpanTree, NoMoreStatesWaitThanThereIsRoomFor) {
  for (std::int64_t begin = 0; begin < 70; ++begin) {
    for (std::int64_t count = 1; count < 200; ++count) {
      for (const bool is_first : {true, false}) {
        SpanTree tree = is_first ? SpanTree() : SpanTree(begin - 1);
        for (std::int64_t span = begin; span < begin + count; ++span) {
          tree.push(span, [](std::int32_t) {});
          const bool from_zero = begin == 0;
          ASSERT_LE(tree.size(), most_waiting_states(from_zero ? 0 : 1, span + 1 - begin))
              << begin << " " << span;
        }
      }
    }
  }
}

// ---- Schedules ----

struct Shape {
  std::int64_t num_kv_heads = 8;
  std::int64_t group_size = 4;
  std::int64_t tile_rows = 32;
  std::int64_t rows_at_once = kFewRows;
  std::int32_t num_workers = 1;
  bool defers_results = false;
  bool parts_spans = false;
};

MaskRule rule(std::int64_t query_len, std::int64_t kv_len, std::int64_t window_left = -1,
              std::int64_t window_right = 0, std::int64_t kv_begin = 0) {
  MaskRule mask{};
  mask.query_len = query_len;
  mask.kv_len = kv_len;
  mask.kv_begin = kv_begin;
  mask.window_left = window_left;
  mask.window_right = window_right;
  return mask;
}
MaskRule unmasked(std::int64_t query_len, std::int64_t kv_len) {
  return rule(query_len, kv_len, -1, -1);
}

// What a schedule is made from; masks must outlive it.
Batch batch_of(const Shape& shape, const std::vector<MaskRule>& masks,
               const std::vector<intflash_shared_prefix>& prefixes = {}) {
  Batch batch{};
  batch.shape = {shape.num_kv_heads, shape.group_size,     shape.tile_rows,  shape.rows_at_once,
                 shape.num_workers,  shape.defers_results, shape.parts_spans};
  batch.num_requests = static_cast<std::int64_t>(masks.size());
  batch.make_request = [](const void* user, std::int64_t index, Request& request) {
    request.mask =
        (*static_cast<const std::vector<MaskRule>*>(user))[static_cast<std::size_t>(index)];
  };
  batch.user = &masks;
  batch.shared_prefixes = prefixes.data();
  batch.shared_prefix_size = sizeof(intflash_shared_prefix);
  batch.num_shared_prefixes = static_cast<std::int64_t>(prefixes.size());
  batch.page_size = kBlockTokens;
  return batch;
}

// A schedule and what it is made with.
class Made {
 public:
  Made(const Shape& shape, const std::vector<MaskRule>& masks,
       const std::vector<intflash_shared_prefix>& prefixes = {}) {
    intflash_context_options options{};
    options.struct_size = sizeof options;
    options.num_threads = 1;
    EXPECT_EQ(intflash_context_create(&options, &context_), INTFLASH_OK);
    EXPECT_TRUE(make_schedule(*context_, batch_of(shape, masks, prefixes), schedule_));
  }
  ~Made() {
    free_schedule(*context_, schedule_);
    intflash_context_destroy(context_);
  }
  Made(const Made&) = delete;
  Made& operator=(const Made&) = delete;

  const Schedule& operator*() const { return schedule_; }
  const Schedule* operator->() const { return &schedule_; }

 private:
  intflash_context* context_ = nullptr;
  Schedule schedule_{};
};

using TilePlace = std::tuple<std::int32_t, std::int64_t, std::int64_t>;  // section, head, tile

// How often items have each span of each tile.
std::map<TilePlace, std::map<std::int64_t, int>> covered_spans(const Schedule& schedule) {
  std::map<TilePlace, std::map<std::int64_t, int>> covered;
  for (std::int64_t i = 0; i < schedule.num_items; ++i) {
    const Item& item = schedule.items[i];
    for (std::int64_t head = 0; head < item.num_heads; ++head) {
      for (std::int64_t tile = 0; tile < item.num_tiles; ++tile) {
        auto& spans = covered[{item.section, item.first_head + head, item.first_tile + tile}];
        for (std::int64_t s = 0; s < item.num_spans; ++s) ++spans[item.first_span + s];
      }
    }
  }
  return covered;
}

// That items have every span that a row sees once, and no span twice.
void expect_covered(const Schedule& schedule) {
  const auto covered = covered_spans(schedule);
  for (std::int64_t s = 0; s < schedule.num_sections; ++s) {
    const Section& section = schedule.sections[s];
    for (std::int64_t head = 0; head < schedule.shape.num_kv_heads; ++head) {
      for (std::int64_t tile = 0; tile < section.num_tiles; ++tile) {
        const auto spans = covered.find({static_cast<std::int32_t>(s), head, tile});
        ASSERT_NE(spans, covered.end()) << "section " << s << ", tile " << tile;
        for (const auto& [span, times] : spans->second) ASSERT_EQ(times, 1) << "span " << span;
        const std::int64_t first = tile * schedule.tile_rows;
        for_each_run(
            schedule, section, first, std::min(schedule.tile_rows, section.num_rows - first),
            [&](const Request& request, std::int64_t row, std::int64_t num_rows) {
              for (std::int64_t r = row; r < row + num_rows; ++r) {
                const KeyRange seen = visible_keys(request.mask, r / schedule.shape.group_size);
                const std::int64_t begin = std::max(seen.begin, section.keys.begin);
                const std::int64_t end = std::min(seen.end, section.keys.end);
                for (std::int64_t key = begin; key < end; key += kBlockTokens)
                  ASSERT_EQ(spans->second.count(key / kSpanTokens), 1u) << "key " << key;
              }
            });
      }
    }
  }
}

// That slots belong to one head's part each, and that merges take in each of them once.
void expect_slots_apart(const Schedule& schedule) {
  std::set<std::int64_t> written;
  std::multiset<std::tuple<std::int64_t, std::int64_t, std::int64_t>> parts;  // slot, first, spans
  for (std::int64_t i = 0; i < schedule.num_items; ++i) {
    const Item& item = schedule.items[i];
    if (item.slot < 0) continue;
    EXPECT_EQ(item.num_tiles, 1);
    EXPECT_LE(item.num_spans == 0 ? 0 : most_waiting_states(1, item.num_spans),
              item.slots_per_head);
    for (std::int64_t head = 0; head < item.num_heads; ++head) {
      const std::int64_t first = item.slot + head * item.slots_per_head;
      parts.insert({first, item.first_span, item.num_spans});
      for (std::int64_t slot = first; slot < first + item.slots_per_head; ++slot) {
        EXPECT_TRUE(written.insert(slot).second) << "slot " << slot;
        EXPECT_LT(slot, schedule.num_slots);
      }
    }
  }
  for (std::int64_t i = 0; i < schedule.num_merges; ++i) {
    const Merge& merge = schedule.merges[i];
    for (std::int64_t part = 0; part < merge.num_parts; ++part) {
      const std::int64_t begin = part_begin(merge.num_spans, part, merge.num_parts);
      const std::int64_t end = part_begin(merge.num_spans, part + 1, merge.num_parts);
      const auto found = parts.find(
          {merge.first_slot + part * merge.part_slots, merge.first_span + begin, end - begin});
      ASSERT_NE(found, parts.end());
      parts.erase(found);
    }
  }
  EXPECT_TRUE(parts.empty());
}

std::vector<std::vector<MaskRule>> batches() {
  return {{rule(1, 1)},
          {rule(0, 0), rule(1, 0), rule(3, 3)},
          {rule(1, 5000)},
          {rule(1, 131072)},
          {rule(1, 5000, 700), rule(2, 70000), rule(1, 64), rule(300, 3000)},
          {rule(1, 9000, -1, 0, 4096), rule(40, 9000, 2000, 0, 64)},
          {unmasked(200, 4097), rule(4097, 4097), rule(513, 20000, 1000)},
          {unmasked(16, 5000), unmasked(16, 5000)}};
}

TEST(Schedule, ItemsHaveEverySpanThatARowSeesOnce) {
  for (const auto& masks : batches()) {
    for (const std::int32_t workers : {1, 2, 7, 64}) {
      for (const bool defers : {false, true}) {
        Shape shape;
        shape.num_workers = workers;
        shape.defers_results = defers;
        if (defers) shape.rows_at_once = shape.tile_rows;
        const Made schedule(shape, masks);
        expect_covered(*schedule);
        expect_slots_apart(*schedule);
      }
    }
  }
}

TEST(Schedule, ItemsOfFewRowsHaveOneSpanWhereSpansArePartedAndStayBalanced) {
  for (const auto& masks : batches()) {
    for (const std::int32_t workers : {2, 7, 64}) {
      Shape shape;
      shape.num_workers = workers;
      const double busiest = balance_of(*Made(shape, masks)).busiest_over_mean;
      shape.parts_spans = true;
      const Made schedule(shape, masks);
      expect_covered(*schedule);
      expect_slots_apart(*schedule);
      for (std::int64_t i = 0; i < schedule->num_items; ++i) {
        const Item& item = schedule->items[i];
        EXPECT_TRUE(item.kind == ItemKind::kTiles || item.num_spans <= 1) << item.num_spans;
      }
      EXPECT_LE(balance_of(*schedule).busiest_over_mean, busiest + 1e-6);
    }
  }
}

TEST(Schedule, KeysOfADecodingBatchAreReadWhereTheyLie) {
  NumaNodes nodes;
  for (std::int32_t i = 0; i < 4; ++i) nodes.add(i, CpuSet().set(static_cast<std::size_t>(i)));
  Shape shape;
  shape.num_workers = 8;
  const std::vector<MaskRule> masks(64, rule(1, 4096));
  EXPECT_LE(local_share(*Made(shape, masks), nodes), 0.6) << "two spans an item";
  shape.parts_spans = true;
  const Made schedule(shape, masks);
  EXPECT_GE(local_share(*schedule, nodes), 0.97);
}

TEST(Schedule, SectionsOfSharedPrefixesAreCoveredToo) {
  const std::vector<MaskRule> masks = {rule(1, 9000), rule(5, 7000), rule(300, 8000), rule(1, 6001),
                                       rule(2, 3000)};
  const std::vector<intflash_shared_prefix> prefixes = {{0, 5, 2500}, {0, 3, 5300}};
  for (const std::int32_t workers : {1, 3, 64}) {
    Shape shape;
    shape.num_workers = workers;
    const Made schedule(shape, masks, prefixes);
    ASSERT_EQ(schedule->num_stages, 3);
    expect_covered(*schedule);
    expect_slots_apart(*schedule);
  }
}

TEST(Schedule, CostlierItemsComeFirst) {
  for (const auto& masks : batches()) {
    Shape shape;
    shape.num_workers = 5;
    const Made schedule(shape, masks);
    for (std::int64_t i = 1; i < schedule->num_items; ++i)
      EXPECT_GE(schedule->items[i - 1].cost, schedule->items[i].cost);
  }
}

TEST(Schedule, EveryAllocationMayFail) {
  const std::vector<MaskRule> masks(20, rule(1, 90000));
  Shape shape;
  shape.num_workers = 64;
  bool succeeds = false;
  int n = 0;
  for (; !succeeds; ++n) {
    CountingAllocator allocator(-1);
    CountingAllocator failing(n);
    intflash_context_options options = allocator.options();
    intflash_context* context = nullptr;
    ASSERT_EQ(intflash_context_create(&options, &context), INTFLASH_OK);
    context->allocator_user = &failing;
    Schedule schedule{};
    succeeds = make_schedule(*context, batch_of(shape, masks), schedule);
    if (succeeds) free_schedule(*context, schedule);
    EXPECT_EQ(failing.held(), 0u);
    if (!succeeds) {
      EXPECT_EQ(failing.calls(), n + 1) << "nothing is tried after a failure";
    }
    context->allocator_user = &allocator;
    intflash_context_destroy(context);
    EXPECT_EQ(allocator.held(), 0u);
  }
  EXPECT_GT(n, 4) << "items and merges have grown";
}

TEST(Schedule, FewRowsOfAllHeadsReadKeysTogether) {
  Shape shape;
  shape.num_workers = 8;
  const Made schedule(shape, {rule(1, 131072)});
  for (std::int64_t i = 0; i < schedule->num_items; ++i) {
    EXPECT_EQ(schedule->items[i].kind, ItemKind::kHeads);
    EXPECT_EQ(schedule->items[i].num_heads, shape.num_kv_heads);
  }
  EXPECT_EQ(schedule->num_merges, shape.num_kv_heads);
}

TEST(Schedule, HeadsArePartedNoMoreThanWorkersNeed) {
  struct Case {
    std::int32_t workers;
    std::int64_t spans;
    std::size_t batch;
    std::int64_t most_heads;  // of an item
  };
  // Eight heads. Where all workers have 4 items of several heads they are equally busy, or cannot
  // be by items of one head either.
  for (const Case& c : {Case{2, 4, 1, 4},
                        {2, 8, 1, 8},
                        {2, 2, 4, 8},
                        {3, 4, 1, 1},
                        {4, 8, 1, 4},
                        {8, 4, 1, 1},
                        {64, 8, 1, 1},
                        {64, 128, 1, 4},
                        {192, 128, 1, 3}}) {
    Shape shape;
    shape.num_workers = c.workers;
    const Made schedule(shape, std::vector<MaskRule>(c.batch, rule(1, c.spans * kSpanTokens)));
    expect_covered(*schedule);
    std::int64_t most = 0;
    for (std::int64_t i = 0; i < schedule->num_items; ++i)
      most = std::max<std::int64_t>(most, schedule->items[i].num_heads);
    EXPECT_EQ(most, c.most_heads) << c.workers << " workers, " << c.spans << " spans";
  }
}

// ---- Balance ----

// Of all tiles and heads.
std::int64_t spans_of(const Schedule& schedule) {
  std::int64_t spans = 0;
  for (std::int64_t i = 0; i < schedule.num_items; ++i) {
    const Item& item = schedule.items[i];
    spans += std::int64_t{item.num_spans} * item.num_tiles * item.num_heads;
  }
  return spans;
}

// The busiest worker of a call that has at least 8 spans per worker does at most a tenth more than
// the mean, or what whole spans of equal cost allow.
void expect_balanced(const Shape& shape, const std::vector<MaskRule>& masks, const char* name) {
  const Made schedule(shape, masks);
  const std::int64_t spans = spans_of(*schedule);
  if (spans < 8 * shape.num_workers) return;
  const double share = static_cast<double>(spans) / shape.num_workers;
  const double whole_spans = std::ceil(share) / share;
  const Balance balance = balance_of(*schedule);
  EXPECT_LE(balance.busiest_over_mean, std::max(1.10, whole_spans + 0.005))
      << name << ", " << shape.num_kv_heads << " kv heads, " << shape.num_workers << " workers";
  EXPECT_LE(balance.merge_share, 0.03) << name;
}

TEST(Schedule, WorkersAreEquallyBusyInDecoding) {
  for (const std::int64_t kv_heads : {1, 2, 4, 8, 32}) {
    for (std::int64_t kv_len = 1024; kv_len <= 1 << 20; kv_len *= 4) {
      for (const std::size_t batch : {1, 3, 64}) {
        for (std::int32_t workers = 1; workers <= 192; workers += workers < 16 ? 1 : 11) {
          Shape shape;
          shape.num_kv_heads = kv_heads;
          shape.num_workers = workers;
          expect_balanced(shape, std::vector<MaskRule>(batch, rule(1, kv_len)),
                          ("decode of " + std::to_string(kv_len)).c_str());
        }
      }
    }
  }
}

TEST(Schedule, WorkersAreEquallyBusyInPrefillAndRaggedMixes) {
  std::vector<MaskRule> ragged;
  for (std::int64_t i = 0; i < 40; ++i)
    ragged.push_back(i % 5 == 0 ? rule(100 + i * 13, 2000 + i * 777) : rule(1, 100 + i * i * 40));
  const std::vector<std::pair<const char*, std::vector<MaskRule>>> cases = {
      {"full", {unmasked(4096, 4096)}},       {"causal", {rule(4096, 4096)}},
      {"causal 16384", {rule(16384, 16384)}}, {"windowed", {rule(16384, 16384, 4096)}},
      {"chunk", {rule(512, 65536)}},          {"ragged", ragged}};
  for (const auto& [name, masks] : cases) {
    for (const std::int64_t kv_heads : {1, 8, 32}) {
      for (std::int32_t workers = 1; workers <= 192; workers += workers < 16 ? 1 : 11) {
        Shape shape;
        shape.num_kv_heads = kv_heads;
        shape.num_workers = workers;
        expect_balanced(shape, masks, name);
      }
    }
  }
}

}  // namespace
}  // namespace intflash::internal
