// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Decoding of few rows a kv head, where the heads of an item take turns at each block.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "cpu/batch.h"
#include "serving.h"
#include "test_ports.h"

namespace intflash::internal::serving {
namespace {

// A request, and the tokens that it attends.
struct Asked {
  std::int64_t query_len;
  std::int64_t kv_len;
  std::int64_t window_left = -1;  // -1: none, but causal
  bool drops_pages = false;       // that the window hides
};
// Around a block, a page and a span; windows that begin within a block, in a later span, behind
// dropped pages, and at a page's first key.
const Asked kAsked[] = {{1, 1},
                        {1, 63},
                        {1, 64},
                        {1, 65},
                        {1, 129},
                        {2, 700},
                        {1, 1024},
                        {1, 1025},
                        {1, 2500},
                        {1, 2500, 300},
                        {1, 2500, 1300},
                        {2, 900, 70, true},
                        {1, 1500, 200, true},
                        {1, 2500, 383, true}};

struct Batch {
  std::vector<Tokens> tokens;
  std::vector<Request> requests;  // without pages
};

Batch make_batch(const Shape& shape) {
  Batch batch;
  for (const Asked& asked : kAsked) {
    const auto seed = static_cast<std::uint32_t>(batch.tokens.size());
    batch.tokens.push_back(random_tokens(shape, asked.kv_len, seed));
    Request request;
    request.query_len = asked.query_len;
    request.kv_len = asked.kv_len;
    if (asked.window_left >= 0) {
      request.mask = INTFLASH_MASK_WINDOW;
      request.window_left = asked.window_left;
    }
    batch.requests.push_back(request);
  }
  for (std::size_t r = 0; r < batch.requests.size(); ++r) {
    const std::int64_t first = batch.requests[r].kv_len - batch.requests[r].query_len;
    batch.requests[r].query =
        batch.tokens[r].query.data() + first * shape.num_query_heads() * shape.head_dim;
  }
  return batch;
}

// The requests, with their tokens in pages of the server that lie apart.
std::vector<Request> serve(const Batch& batch, Server& server) {
  const std::int64_t page_size = server.shape().page_size;
  std::vector<Request> requests = batch.requests;
  std::int32_t next_page = 0;
  for (std::size_t r = 0; r < requests.size(); ++r) {
    Request& request = requests[r];
    request.pages = page_range(next_page, (request.kv_len + page_size - 1) / page_size);
    next_page += static_cast<std::int32_t>(request.pages.size());
    std::reverse(request.pages.begin(), request.pages.end());
    server.append(batch.tokens[r], 0, request.kv_len, request.pages);
    if (!kAsked[r].drops_pages) continue;
    const std::int64_t first_seen = request.kv_len - request.query_len - request.window_left;
    request.first_key_position = first_seen / page_size * page_size;
    request.pages.erase(request.pages.begin(), request.pages.begin() + first_seen / page_size);
  }
  return requests;
}

std::vector<Result> dense_results(const Batch& batch, const Shape& shape, float score_cap) {
  Shape scalar = shape;
  scalar.port = &scalar_port();
  const Server server(scalar);
  std::vector<Result> results;
  for (std::size_t r = 0; r < batch.requests.size(); ++r)
    results.push_back(server.attend_dense(batch.tokens[r], batch.requests[r], score_cap));
  return results;
}

void expect_dense_results(Shape shape, float score_cap = 0) {
  shape.num_kv_heads = 3;
  shape.num_pages = 400;
  const Batch batch = make_batch(shape);
  const std::vector<Result> expected = dense_results(batch, shape, score_cap);
  for (const PortEntry& port : quick_tests() ? ports_under_test() : all_test_ports()) {
    shape.port = &port;
    int count = 0;
    for (const std::int64_t page_size : {64, 128, 256}) {
      shape.page_size = page_size;
      for (const std::int32_t threads : {1, 2, 16}) {
        if (quick_tests() && count++ % 4 != 0) continue;  // each of both is in one that is left
        shape.num_threads = threads;
        Server server(shape);
        const std::vector<Result> found = server.attend(serve(batch, server), score_cap);
        for (std::size_t r = 0; r < expected.size(); ++r) {
          EXPECT_EQ(found[r], expected[r])
              << port.name << " page_size " << page_size << " threads " << threads << " request "
              << r << " group_size " << shape.group_size;
        }
      }
    }
  }
}

struct Planned {
  Planned(const Shape& shape, std::int64_t query_len, std::int64_t kv_len)
      : server(shape), tokens(random_tokens(shape, query_len, 1)) {
    Request request;
    request.query_len = query_len;
    request.kv_len = kv_len;
    request.query = tokens.query.data();
    call = std::make_unique<BatchCall>(shape, std::vector<Request>{request});
    EXPECT_EQ(call->make_plan(server.context(), server.cache()), INTFLASH_OK)
        << intflash_last_error();
  }
  const intflash_plan& plan() const { return *call->plan; }

  Server server;
  Tokens tokens;
  std::unique_ptr<BatchCall> call;
};

TEST(HeadsInTurn, AreAllThatOneWorkerHasWhileTheirRowsAreFew) {
  for (const std::int64_t group_size : {1, 2, 5, 6, 8}) {
    for (const std::int64_t query_len : {1, 2, 3}) {
      Shape shape;
      shape.num_kv_heads = 21;
      shape.group_size = group_size;
      const Planned planned(shape, query_len, 5000);
      const Schedule& schedule = planned.plan().schedule;
      const bool are_few = group_size * query_len <= kFewRows;
      ASSERT_GE(schedule.num_items, 1);
      EXPECT_EQ(schedule.items[0].kind, are_few ? ItemKind::kHeads : ItemKind::kTiles);
      if (!are_few) continue;
      EXPECT_EQ(schedule.num_items, 1);
      EXPECT_EQ(schedule.items[0].num_heads, 21);
    }
  }
}

TEST(HeadsInTurn, StayTogetherWhereKeysAreSharedOutAmongWorkers) {
  Shape shape;
  shape.num_kv_heads = 8;
  shape.num_threads = 8;
  const Planned planned(shape, 1, 200000);
  const Schedule& schedule = planned.plan().schedule;
  EXPECT_GE(schedule.num_items, 8);
  for (std::int64_t i = 0; i < schedule.num_items; ++i) EXPECT_EQ(schedule.items[i].num_heads, 8);
}

TEST(HeadsInTurn, GiveTheDenseCallsBitsForFewRowsAndMore) {
  for (const std::int64_t group_size : {1, 2, 3, 4, 5, 6, 8}) {
    if (quick_tests() && group_size > 2 && group_size < 5) continue;
    Shape shape;
    shape.group_size = group_size;
    expect_dense_results(shape);
  }
}

TEST(HeadsInTurn, GiveTheDenseCallsBitsOfUnevenDims) {
  Shape shape;
  shape.head_dim = 40;
  shape.head_dim_v = 72;
  expect_dense_results(shape);
}

TEST(HeadsInTurn, GiveTheDenseCallsBitsWithSinksAndCenters) {
  Shape shape;
  shape.centered = true;
  shape.sinks = {0.5f, -2, 3, 4, -1, 0};
  expect_dense_results(shape);
}

TEST(HeadsInTurn, GiveTheDenseCallsBitsInTheGeneralForm) {
  Shape shape;
  expect_dense_results(shape, 3.0f);
  shape.slopes = {0.5f, 0.25f, 0, 0.125f, 1, 0.01f};
  expect_dense_results(shape);
}

TEST(HeadsInTurn, OfMoreHeadsThanAnItemTakesGiveTheDenseCallsBits) {
  Shape shape;
  shape.num_kv_heads = 21;
  shape.group_size = 1;
  Server server(shape);
  const Tokens tokens = random_tokens(shape, 1200, 3);
  Request request;
  request.kv_len = 1200;
  request.pages = page_range(0, 19);
  request.query = tokens.query.data() + 1199 * shape.num_query_heads() * shape.head_dim;
  server.append(tokens, 0, 1200, request.pages);
  EXPECT_EQ(server.attend({request})[0], server.attend_dense(tokens, request));
}

}  // namespace
}  // namespace intflash::internal::serving
