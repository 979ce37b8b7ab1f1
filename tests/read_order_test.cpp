// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// In which order the workers of a decoding request read its pages.
#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "cpu/batch.h"
#include "host/host_pages.h"
#include "serving.h"
#include "test_ports.h"

namespace intflash::internal::serving {
namespace {

// A score block that was attended: its keys, and those that the kernel was told to be next.
struct Read {
  const std::int8_t* keys;
  const std::int8_t* next;

  bool operator==(const Read&) const = default;
};

// By thread, in its order.
std::mutex reads_mutex;
std::map<std::thread::id, std::vector<Read>> reads;

void record_and_attend(const TileTask& task) {
  {
    const std::lock_guard lock(reads_mutex);
    for (std::int32_t b = 0; b < task.num_blocks; ++b) {
      const bool is_last = b + 1 == task.num_blocks;
      const KvBlock* const next = is_last ? task.after : task.blocks[b + 1].half;
      reads[std::this_thread::get_id()].push_back(
          {task.blocks[b].half[0].key_codes, next == nullptr ? nullptr : next[0].key_codes});
    }
  }
  scalar_port().kernels->attend_tile(task);
}

const PortEntry& recording_port() {
  static const KernelTable kernels = [] {
    KernelTable table = *scalar_port().kernels;
    table.attend_tile = record_and_attend;
    return table;
  }();
  static const PortEntry port = {"recording", &kernels, true, ""};
  return port;
}

// One decoding request of 8 kv heads whose pages follow one another in memory.
struct Decode {
  Decode(std::int64_t num_keys, std::int32_t num_threads)
      : shape(shape_of(num_keys, num_threads)),
        server(shape),
        tokens(random_tokens(shape, num_keys, 1)) {
    request.kv_len = num_keys;
    request.pages = page_range(0, shape.num_pages);
    request.query = tokens.query.data() + (num_keys - 1) * shape.num_query_heads() * shape.head_dim;
    server.append(tokens, 0, num_keys, request.pages);
  }
  static Shape shape_of(std::int64_t num_keys, std::int32_t num_threads) {
    Shape shape;
    shape.num_kv_heads = 8;
    shape.group_size = 1;
    shape.num_pages = (num_keys + shape.page_size - 1) / shape.page_size;
    shape.num_threads = num_threads;
    shape.port = &recording_port();
    return shape;
  }

  // What an item reads if it goes block by block, heads inside.
  std::vector<Read> in_turn(const Item& item) const {
    const HostPages& pages = host_pages(*server.cache());
    const std::int64_t end =
        std::min<std::int64_t>(request.kv_len, (item.first_span + item.num_spans) * kSpanTokens);
    std::vector<Read> order;
    for (std::int64_t key = item.first_span * std::int64_t{kSpanTokens}; key < end;
         key += kScoreBlock) {
      for (std::int64_t h = item.first_head; h < item.first_head + item.num_heads; ++h)
        order.push_back(
            {pages.layout.block(pages.page(0, key / kBlockTokens, h), 0).key_codes, nullptr});
    }
    for (std::size_t i = 0; i + 1 < order.size(); ++i) order[i].next = order[i + 1].keys;
    return order;
  }

  Shape shape;
  Server server;
  Tokens tokens;
  Request request;
};

// That a worker has read whole items, each in its order; takes these from items. The last block of
// an item may have any other behind it.
void expect_in_turn(const std::vector<Read>& read, std::vector<std::vector<Read>>& items) {
  for (std::size_t at = 0; at < read.size();) {
    const auto item = std::find_if(items.begin(), items.end(), [&](const std::vector<Read>& order) {
      return order[0].keys == read[at].keys;
    });
    ASSERT_NE(item, items.end()) << "read " << at << " begins no item";
    ASSERT_LE(at + item->size(), read.size());
    item->back().next = read[at + item->size() - 1].next;
    EXPECT_TRUE(std::equal(item->begin(), item->end(), read.begin() + static_cast<long>(at)));
    at += item->size();
    items.erase(item);
  }
}

TEST(ReadOrder, OfEachWorkerIsBlockByBlockWithSeveralHeadsInside) {
  for (const std::int32_t threads : {1, 2, 3, 8}) {
    const Decode decode(threads == 3 ? 12000 : 4500, threads);
    BatchCall call(decode.shape, {decode.request});
    ASSERT_EQ(call.make_plan(decode.server.context(), decode.server.cache()), INTFLASH_OK);
    const Schedule& schedule = call.plan->schedule;
    std::vector<std::vector<Read>> items;
    for (std::int64_t i = 0; i < schedule.num_items; ++i) {
      EXPECT_GE(schedule.items[i].num_heads, threads < 8 ? 4 : 1) << threads << " threads";
      items.push_back(decode.in_turn(schedule.items[i]));
    }
    reads.clear();
    ASSERT_EQ(call.run(decode.server.cache()), INTFLASH_OK);
    for (const auto& [thread, read] : reads) expect_in_turn(read, items);
    EXPECT_TRUE(items.empty()) << items.size() << " items were not read";
    EXPECT_EQ(call.results()[0], decode.server.attend_dense(decode.tokens, decode.request))
        << threads << " threads";
  }
}

}  // namespace
}  // namespace intflash::internal::serving
