// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Attention over pages: the bits of the dense call, whatever the pages, the batch and the threads.
#include <algorithm>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "pages/codec.h"
#include "serving.h"
#include "test_ports.h"

namespace intflash::internal::serving {
namespace {

const float* query_of(const Shape& shape, const Tokens& tokens, std::int64_t first) {
  return tokens.query.data() + first * shape.num_query_heads() * shape.head_dim;
}

// The last query_len rows of tokens over pages that hold all of them.
Request last_rows(const Shape& shape, const Tokens& tokens, std::int64_t query_len,
                  std::vector<std::int32_t> pages) {
  Request request;
  request.query_len = query_len;
  request.kv_len = tokens.count;
  request.pages = std::move(pages);
  request.query = query_of(shape, tokens, tokens.count - query_len);
  return request;
}

std::int64_t pages_for(const Shape& shape, std::int64_t tokens) {
  return (tokens + shape.page_size - 1) / shape.page_size;
}

struct Variant {
  const char* name;
  Shape shape;
};
std::vector<Variant> variants() {
  Shape plain;
  Shape centered = plain;
  centered.centered = true;
  Shape rotated = centered;
  rotated.rotate = true;
  rotated.head_dim = 64;
  Shape uneven = plain;
  uneven.head_dim = 40;
  uneven.head_dim_v = 72;
  uneven.group_size = 3;
  Shape wide = uneven;
  wide.codec = &kInt8WideCodec;
  wide.score_digits = 2;
  return {{"plain", plain},
          {"centered", centered},
          {"rotated", rotated},
          {"uneven", uneven},
          {"wide", wide}};
}

TEST(Batch, PagesOfAnySizeAndOrderGiveTheDenseCallsBits) {
  std::mt19937 random(1);
  for (const Variant& variant : variants()) {
    for (const std::int64_t page_size : {64, 128, 256}) {
      for (const std::int64_t tokens_count : {1, 63, 65, 200, 1100}) {
        Shape shape = variant.shape;
        shape.page_size = page_size;
        Server server(shape);
        const Tokens tokens = random_tokens(shape, tokens_count, 7);
        std::vector<std::int32_t> pages = page_range(0, shape.num_pages);
        std::shuffle(pages.begin(), pages.end(), random);
        pages.resize(static_cast<std::size_t>(pages_for(shape, tokens_count)));
        server.append(tokens, 0, tokens_count, pages);
        for (const std::int64_t query_len :
             {std::int64_t{1}, std::min<std::int64_t>(tokens_count, 30)}) {
          const Request request = last_rows(shape, tokens, query_len, pages);
          EXPECT_EQ(server.attend({request})[0], server.attend_dense(tokens, request))
              << variant.name << " page_size " << page_size << " tokens " << tokens_count
              << " query_len " << query_len;
        }
      }
    }
  }
}

TEST(Batch, TokensAppendedOneByOneOrAtOnceGiveTheSameBytes) {
  for (const Variant& variant : variants()) {
    const Shape& shape = variant.shape;
    const Tokens tokens = random_tokens(shape, 150, 3);
    Server at_once(shape);
    Server one_by_one(shape);
    Server in_pieces(shape);
    const std::vector<std::int32_t> pages = page_range(0, 3);
    at_once.append(tokens, 0, 150, pages);
    for (std::int64_t t = 0; t < 150; ++t) one_by_one.append(tokens, t, t + 1, pages);
    for (const auto& [begin, end] : {std::pair{0, 5}, {5, 70}, {70, 128}, {128, 150}})
      in_pieces.append(tokens, begin, end, pages);
    const Request request = last_rows(shape, tokens, 40, pages);
    const std::vector<Result> whole = at_once.attend({request});
    EXPECT_EQ(one_by_one.attend({request}), whole) << variant.name;
    EXPECT_EQ(in_pieces.attend({request}), whole) << variant.name;
  }
}

TEST(Batch, NeitherThreadsNorCompanyNorOrderChangeARequestsBits) {
  Shape shape;
  shape.num_pages = 200;
  const std::int64_t longest = quick_length(5000, 3100);
  const std::int64_t lengths[] = {longest, 1, 64, 129, quick_length(2000, 1300), 700};
  const std::int64_t query_lens[] = {1, 1, 64, 7, 130, 3};
  std::vector<Tokens> tokens;
  for (std::uint32_t r = 0; r < 6; ++r) tokens.push_back(random_tokens(shape, lengths[r], r));
  std::vector<Result> expected;
  for (const std::int32_t threads : {1, 2, 3, 8}) {
    shape.num_threads = threads;
    Server server(shape);
    std::vector<Request> requests;
    std::int32_t next_page = 0;
    for (std::size_t r = 0; r < 6; ++r) {
      const std::vector<std::int32_t> pages = page_range(next_page, pages_for(shape, lengths[r]));
      next_page += static_cast<std::int32_t>(pages.size());
      server.append(tokens[r], 0, lengths[r], pages);
      requests.push_back(last_rows(shape, tokens[r], query_lens[r], pages));
      if (threads == 1) expected.push_back(server.attend_dense(tokens[r], requests[r]));
    }
    const std::vector<Result> together = server.attend(requests);
    const std::vector<Result> by_tasks = server.attend_by_tasks(requests, 5);
    for (std::size_t r = 0; r < 6; ++r) {
      EXPECT_EQ(together[r], expected[r]) << "request " << r << " threads " << threads;
      EXPECT_EQ(by_tasks[r], expected[r]) << "request " << r << " threads " << threads;
      EXPECT_EQ(server.attend({requests[r]})[0], expected[r]) << "request " << r << " alone";
    }
    std::reverse(requests.begin(), requests.end());
    const std::vector<Result> reversed = server.attend(requests);
    for (std::size_t r = 0; r < 6; ++r) EXPECT_EQ(reversed[5 - r], expected[r]) << "reversed " << r;
  }
}

TEST(Batch, PrefillInChunksGivesTheBitsOfTheWhole) {
  Shape shape;
  shape.centered = true;
  const Tokens tokens = random_tokens(shape, 1300, 11);
  Server server(shape);
  const std::vector<std::int32_t> pages = page_range(0, pages_for(shape, 1300));
  std::vector<float> out;
  std::vector<float> lse(static_cast<std::size_t>(shape.num_query_heads() * 1300));
  for (const auto& [begin, end] : {std::pair{0, 100}, {100, 101}, {101, 640}, {640, 1300}}) {
    server.append(tokens, begin, end, pages);
    Request chunk = last_rows(shape, tokens, end - begin, pages);
    chunk.kv_len = end;
    chunk.query = query_of(shape, tokens, begin);
    const Result result = server.attend({chunk})[0];
    out.insert(out.end(), result.out.begin(), result.out.end());
    for (std::int64_t i = 0; i < (end - begin) * shape.num_query_heads(); ++i)
      lse[static_cast<std::size_t>(i / (end - begin) * 1300 + begin + i % (end - begin))] =
          result.lse[static_cast<std::size_t>(i)];
  }
  const Result whole = server.attend_dense(tokens, last_rows(shape, tokens, 1300, pages));
  EXPECT_EQ(out, whole.out);
  EXPECT_EQ(lse, whole.lse);
}

TEST(Batch, DroppedPagesOutOfTheWindowChangeNothing) {
  Shape shape;
  Server server(shape);
  const Tokens tokens = random_tokens(shape, 700, 13);
  std::int32_t sequence = -1;
  ASSERT_EQ(intflash_sequence_create(server.cache(), &sequence), INTFLASH_OK);
  ASSERT_EQ(server.append(sequence, tokens, 0, 700), INTFLASH_OK) << intflash_last_error();
  Request request = server.request_of(sequence);
  request.query_len = 20;
  request.query = query_of(shape, tokens, 680);
  request.mask = INTFLASH_MASK_WINDOW;
  request.window_left = 300;
  const std::vector<Result> before = server.attend({request});
  EXPECT_EQ(before[0], server.attend_dense(tokens, request));
  ASSERT_EQ(intflash_sequence_drop_before(server.cache(), sequence, 380), INTFLASH_OK);
  Request dropped = server.request_of(sequence);
  EXPECT_EQ(dropped.first_key_position, 320);
  EXPECT_EQ(dropped.pages.size(), 6u);
  dropped.query_len = request.query_len;
  dropped.query = request.query;
  dropped.mask = request.mask;
  dropped.window_left = request.window_left;
  EXPECT_EQ(server.attend({dropped}), before);
}

TEST(Batch, APrefixIsSeenByAllOfItsQueries) {
  Shape shape;
  Server server(shape);
  const Tokens tokens = random_tokens(shape, 200, 29);
  const std::vector<std::int32_t> pages = page_range(0, 4);
  server.append(tokens, 0, 200, pages);
  Request request = last_rows(shape, tokens, 200, pages);
  request.mask = INTFLASH_MASK_PREFIX;
  request.prefix_len = 150;
  const Result found = server.attend({request})[0];
  EXPECT_EQ(found, server.attend_dense(tokens, request));
  // The first query sees the whole prefix, and nothing else.
  Request first = request;
  first.query_len = 1;
  first.kv_len = 150;
  first.mask = INTFLASH_MASK_NONE;
  const Result alone = server.attend_dense(tokens, first);
  EXPECT_TRUE(std::equal(alone.out.begin(), alone.out.end(), found.out.begin()));
}

TEST(Batch, ATopLeftCausalMaskIsTheCausalOneOfAsManyKeysAsQueries) {
  Shape shape;
  Server server(shape);
  const Tokens tokens = random_tokens(shape, 300, 31);
  const std::vector<std::int32_t> pages = page_range(0, 5);
  server.append(tokens, 0, 300, pages);
  Request request;
  request.query_len = 200;
  request.kv_len = 300;
  request.pages = pages;
  request.query = tokens.query.data();
  request.mask = INTFLASH_MASK_CAUSAL_TOP_LEFT;
  Request square = request;
  square.kv_len = 200;
  square.mask = INTFLASH_MASK_CAUSAL;
  const Result expected = server.attend({square})[0];
  EXPECT_EQ(server.attend({request})[0], expected);
  EXPECT_EQ(server.attend_dense(tokens, request), expected);
  const Result exact = server.attend_dense(tokens, request, 0, INTFLASH_MODE_EXACT);
  EXPECT_EQ(exact, server.attend_dense(tokens, square, 0, INTFLASH_MODE_EXACT));
  // Queries behind the last key see all.
  request.kv_len = 150;
  Request open = request;
  open.query_len = 50;
  open.query = tokens.query.data() + 150 * shape.num_query_heads() * shape.head_dim;
  open.mask = INTFLASH_MASK_NONE;
  const Result late = server.attend({request})[0];
  const Result all = server.attend({open})[0];
  EXPECT_TRUE(std::equal(all.out.rbegin(), all.out.rend(), late.out.rbegin()));
}

TEST(Batch, AScoreCapAndOwnScalesGiveTheDenseCallsBits) {
  Shape shape;
  shape.centered = true;
  Server server(shape);
  const Tokens tokens = random_tokens(shape, 300, 17);
  const std::vector<std::int32_t> pages = page_range(0, 5);
  server.append(tokens, 0, 300, pages);
  Request request = last_rows(shape, tokens, 9, pages);
  request.softmax_scale = 0.4f;
  EXPECT_EQ(server.attend({request}, 3.0f)[0], server.attend_dense(tokens, request, 3.0f));
}

// Appends tokens to pages and attends to them: a step of decode, rows of prefill, and a window, in
// both score forms.
std::vector<Result> serve(const Shape& shape, const Tokens& tokens) {
  Server server(shape);
  const std::vector<std::int32_t> pages = page_range(0, pages_for(shape, tokens.count));
  server.append(tokens, 0, tokens.count, pages);
  std::vector<Request> requests;
  for (const std::int64_t query_len : {1, 50, 130})
    requests.push_back(last_rows(shape, tokens, query_len, pages));
  requests[1].mask = INTFLASH_MASK_WINDOW;
  requests[1].window_left = 300;
  std::vector<Result> results = server.attend(requests);
  const std::vector<Result> capped = server.attend(requests, 5.0f);
  results.insert(results.end(), capped.begin(), capped.end());
  return results;
}

TEST(Batch, EveryPortGivesTheBitsOfScalar) {
  for (Variant& variant : variants()) {
    variant.shape.num_threads = 2;
    const Tokens tokens = random_tokens(variant.shape, 1100, 19);
    variant.shape.port = &scalar_port();
    const std::vector<Result> expected = serve(variant.shape, tokens);
    for (const PortEntry& port : ports_under_test()) {
      variant.shape.port = &port;
      EXPECT_EQ(serve(variant.shape, tokens), expected) << port.name << " " << variant.name;
    }
  }
}

TEST(Batch, TokensBeforeTheFirstPageAreRefused) {
  Shape shape;
  Server server(shape);
  const Tokens tokens = random_tokens(shape, 10, 3);
  const std::int64_t token_indptr[] = {0, 10};
  const std::int64_t page_indptr[] = {0, 1};
  const std::int32_t page_ids[] = {0};
  intflash_append_args args = server.append_args(tokens, 0);
  args.token_indptr = token_indptr;
  args.pages = {page_indptr, page_ids};
  for (const std::int64_t bad : {std::int64_t{-1}, INT64_MAX}) {
    args.kv_lens = &bad;
    EXPECT_EQ(intflash_cache_append(server.cache(), &args), INTFLASH_BAD_SHAPE);
    EXPECT_NE(std::string(intflash_last_error()).find("kv_lens[0]"), std::string::npos)
        << intflash_last_error();
  }
}

TEST(Batch, OnePlanRunsOnSeveralThreadsAtOnce) {
  Shape shape;
  shape.num_threads = 2;
  Server server(shape);
  const Tokens tokens = random_tokens(shape, 1200, 37);
  const std::vector<std::int32_t> pages = page_range(0, pages_for(shape, 1200));
  server.append(tokens, 0, 1200, pages);
  const std::vector<Request> requests = {last_rows(shape, tokens, 1, pages),
                                         last_rows(shape, tokens, 40, pages)};
  const std::vector<Result> expected = server.attend(requests);
  BatchCall planned(shape, requests);
  ASSERT_EQ(planned.make_plan(server.context(), server.cache()), INTFLASH_OK);
  std::vector<std::unique_ptr<BatchCall>> calls;
  for (int i = 0; i < 4; ++i) {
    calls.push_back(std::make_unique<BatchCall>(shape, requests));
    ASSERT_EQ(calls.back()->make_plan(server.context(), server.cache()), INTFLASH_OK);
  }
  std::vector<std::thread> threads;
  for (const std::unique_ptr<BatchCall>& call : calls) {
    threads.emplace_back([&planned, &server, &call] {
      EXPECT_EQ(intflash_run_batch(planned.plan, server.cache(), &call->args, call->workspace.get(),
                                   call->workspace_bytes),
                INTFLASH_OK);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::unique_ptr<BatchCall>& call : calls) EXPECT_EQ(call->results(), expected);
}

TEST(Batch, SupportIsWhatThePlanThenSays) {
  Shape shape;
  Server server(shape);
  const Tokens tokens = random_tokens(shape, 100, 1);
  const std::vector<Request> requests = {last_rows(shape, tokens, 5, page_range(0, 2))};
  for (const float score_cap : {0.0f, 30.0f}) {
    BatchCall call(shape, requests, score_cap);
    intflash_plan_info before{};
    intflash_plan_info after{};
    before.struct_size = after.struct_size = sizeof before;
    ASSERT_EQ(intflash_query_batch_support(server.context(), server.cache(), &call.desc, &before),
              INTFLASH_OK)
        << intflash_last_error();
    ASSERT_EQ(call.make_plan(server.context(), server.cache()), INTFLASH_OK);
    ASSERT_EQ(intflash_plan_get_info(call.plan, &after), INTFLASH_OK);
    EXPECT_STREQ(before.kernel, after.kernel);
    EXPECT_STREQ(before.mode, "int8");
    EXPECT_STREQ(before.port, intflash_context_port(server.context()));
    EXPECT_EQ(before.num_threads, after.num_threads);
    EXPECT_EQ(before.workspace_bytes, intflash_plan_workspace_bytes(call.plan));
  }
}

TEST(Batch, ACancelledRunSaysSoAndLeavesAllUsable) {
  Shape shape;
  Server server(shape);
  const Tokens tokens = random_tokens(shape, 600, 47);
  const std::vector<std::int32_t> pages = page_range(0, pages_for(shape, 600));
  server.append(tokens, 0, 600, pages);
  const std::vector<Request> requests = {last_rows(shape, tokens, 200, pages)};
  BatchCall call(shape, requests);
  ASSERT_EQ(call.make_plan(server.context(), server.cache()), INTFLASH_OK);
  int asked = 0;
  call.args.should_cancel = [](void* user) { return ++*static_cast<int*>(user) > 2 ? 1 : 0; };
  call.args.cancel_user = &asked;
  EXPECT_EQ(call.run(server.cache()), INTFLASH_CANCELLED);
  EXPECT_EQ(asked, 3);
  call.args.should_cancel = nullptr;
  EXPECT_EQ(call.run(server.cache()), INTFLASH_OK);
  EXPECT_EQ(call.results(), server.attend(requests));
}

TEST(Batch, RequestsWithoutQueriesOrKeysAreServed) {
  Shape shape;
  Server server(shape);
  const Tokens tokens = random_tokens(shape, 10, 23);
  Request no_keys;
  no_keys.query = tokens.query.data();
  Request no_queries;
  no_queries.query_len = 0;
  no_queries.query = tokens.query.data();
  const std::vector<Result> results = server.attend({no_keys, no_queries});
  for (const float x : results[0].out) EXPECT_EQ(x, 0.0f);
  for (const float x : results[0].lse) EXPECT_EQ(x, -INFINITY);
  EXPECT_TRUE(results[1].out.empty());
  EXPECT_TRUE(server.attend({}).empty());
}

}  // namespace
}  // namespace intflash::internal::serving
