// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Sequences: shared pages, copies on write, and a pool that runs out.
#include <limits.h>
#include <pthread.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "serving.h"

namespace intflash::internal::serving {
namespace {

class Sequences : public testing::Test {
 protected:
  static Shape shape() {
    Shape shape;
    shape.num_pages = 8;
    return shape;
  }
  std::int32_t create() { return server.create_sequence(); }
  std::int32_t fork(std::int32_t sequence) {
    std::int32_t created = -1;
    EXPECT_EQ(intflash_sequence_fork(server.cache(), sequence, &created), INTFLASH_OK);
    return created;
  }
  std::int64_t free_pages() const { return server.free_pages(); }
  std::int64_t kv_len(std::int32_t sequence) const {
    std::int64_t length = -1;
    EXPECT_EQ(intflash_sequence_get_range(server.cache(), sequence, nullptr, &length), INTFLASH_OK);
    return length;
  }
  // One query row over all of a sequence, which should hold the first tokens of `tokens`.
  void expect_holds(std::int32_t sequence, const Tokens& tokens) {
    Request request = server.request_of(sequence);
    request.query = tokens.query.data();
    EXPECT_EQ(server.attend({request})[0], server.attend_dense(tokens, request));
  }

  Server server{shape()};
  Tokens a = random_tokens(shape(), 300, 1);
};

// b's tokens from position `at` on behind a's.
Tokens spliced(const Shape& shape, const Tokens& a, const Tokens& b, std::int64_t at) {
  Tokens tokens = a;
  const std::int64_t key = at * shape.num_kv_heads * shape.head_dim;
  const std::int64_t value = at * shape.num_kv_heads * shape.head_dim_v;
  std::copy(b.key.begin() + key, b.key.end(), tokens.key.begin() + key);
  std::copy(b.value.begin() + value, b.value.end(), tokens.value.begin() + value);
  return tokens;
}

TEST_F(Sequences, AForkSharesFullPagesAndCopiesThePageItWrites) {
  const std::int32_t first = create();
  ASSERT_EQ(server.append(first, a, 0, 100), INTFLASH_OK) << intflash_last_error();
  EXPECT_EQ(free_pages(), 6);
  const std::int32_t second = fork(first);
  EXPECT_EQ(free_pages(), 6);
  const Tokens b = spliced(shape(), a, random_tokens(shape(), 300, 2), 100);
  ASSERT_EQ(server.append(second, b, 100, 110), INTFLASH_OK) << intflash_last_error();
  EXPECT_EQ(free_pages(), 5);
  EXPECT_EQ(server.request_of(first).pages[0], server.request_of(second).pages[0]);
  EXPECT_NE(server.request_of(first).pages[1], server.request_of(second).pages[1]);
  ASSERT_EQ(server.append(first, a, 100, 120), INTFLASH_OK) << intflash_last_error();
  EXPECT_EQ(free_pages(), 5);
  expect_holds(first, a);
  expect_holds(second, b);
  EXPECT_EQ(intflash_sequence_free(server.cache(), first), INTFLASH_OK);
  EXPECT_EQ(free_pages(), 6);
  expect_holds(second, b);
  EXPECT_EQ(intflash_sequence_free(server.cache(), second), INTFLASH_OK);
  EXPECT_EQ(free_pages(), 8);
}

TEST_F(Sequences, TruncatedTokensAreReplaced) {
  const std::int32_t sequence = create();
  ASSERT_EQ(server.append(sequence, a, 0, 200), INTFLASH_OK);
  ASSERT_EQ(intflash_sequence_truncate(server.cache(), sequence, 70), INTFLASH_OK);
  EXPECT_EQ(free_pages(), 6);
  EXPECT_EQ(kv_len(sequence), 70);
  const Tokens b = spliced(shape(), a, random_tokens(shape(), 300, 3), 70);
  ASSERT_EQ(server.append(sequence, b, 70, 300), INTFLASH_OK);
  expect_holds(sequence, b);
  EXPECT_EQ(intflash_sequence_truncate(server.cache(), sequence, 301), INTFLASH_BAD_SHAPE);
  EXPECT_EQ(intflash_sequence_truncate(server.cache(), sequence, -1), INTFLASH_BAD_SHAPE);
  EXPECT_EQ(kv_len(sequence), 300);
}

TEST_F(Sequences, AnAppendThatThePoolCannotHoldChangesNothing) {
  const std::int32_t first = create();
  const std::int32_t second = create();
  ASSERT_EQ(server.append(first, a, 0, 300), INTFLASH_OK);
  ASSERT_EQ(server.append(second, a, 0, 64), INTFLASH_OK);
  EXPECT_EQ(free_pages(), 2);
  EXPECT_EQ(server.append(second, a, 64, 64 + 129), INTFLASH_POOL_EXHAUSTED);
  EXPECT_NE(std::string(intflash_last_error()).find("3 more pages"), std::string::npos)
      << intflash_last_error();
  EXPECT_EQ(free_pages(), 2);
  EXPECT_EQ(kv_len(second), 64);
  expect_holds(first, a);
}

TEST_F(Sequences, AnAppendWithNanNamesItAndChangesNothing) {
  const std::int32_t sequence = create();
  ASSERT_EQ(server.append(sequence, a, 0, 10), INTFLASH_OK);
  const Tokens good = a;
  a.value[static_cast<std::size_t>((12 * 2 + 1) * shape().head_dim_v + 5)] = NAN;
  EXPECT_EQ(server.append(sequence, a, 10, 20), INTFLASH_NONFINITE_INPUT);
  EXPECT_NE(std::string(intflash_last_error()).find("value[request 0][token 2][head 1][5]"),
            std::string::npos)
      << intflash_last_error();
  EXPECT_EQ(kv_len(sequence), 10);
  ASSERT_EQ(server.append(sequence, good, 10, 20), INTFLASH_OK);
  expect_holds(sequence, good);
}

// Errors of two heads, of which the later one is likely to be met first.
TEST(SequencesInThreads, TheLowestNanIsNamedWhicheverWorkerMeetsOneFirst) {
  Shape shape;
  shape.num_threads = 3;
  Server server(shape);
  const std::int32_t sequences[] = {server.create_sequence(), server.create_sequence()};
  const Tokens good = random_tokens(shape, 1100, 1);
  Tokens bad = good;
  const auto key = [&](std::int64_t token, std::int64_t head) -> float& {
    return bad.key[static_cast<std::size_t>((token * 2 + head) * shape.head_dim)];
  };
  key(999, 1) = key(1000, 0) = key(1000, 1) = NAN;
  for (int i = 0; i < 50; ++i) {
    ASSERT_EQ(server.append({sequences[0], sequences[1]}, bad, {0, 1000, 1100}),
              INTFLASH_NONFINITE_INPUT);
    ASSERT_EQ(std::string(intflash_last_error()).find("key[request 0][token 999][head 1][0]"), 0u)
        << intflash_last_error();
  }
  EXPECT_EQ(server.free_pages(), shape.num_pages);
  ASSERT_EQ(server.append({sequences[0], sequences[1]}, good, {0, 1000, 1100}), INTFLASH_OK);
}

TEST_F(Sequences, ASequenceThatABatchNamesTwiceIsNamedWithBothPlaces) {
  std::vector<std::int32_t> sequences;
  for (int i = 0; i < 5; ++i) sequences.push_back(create());
  ASSERT_EQ(server.append(sequences, a, {0, 1, 2, 3, 4, 5}), INTFLASH_OK);
  const std::vector<std::int32_t> twice = {4, 1, 3, 1, 3};
  EXPECT_EQ(server.append(twice, a, {0, 1, 2, 3, 4, 5}), INTFLASH_INVALID_ARGUMENT);
  EXPECT_STREQ(intflash_last_error(), "sequences[3] = 1: is sequences[1] already");
  for (const std::int32_t sequence : sequences) EXPECT_EQ(kv_len(sequence), 1);
}

// Rows that are packed have memory of the cache's, whatever their length.
TEST(SequencesOnASmallStack, AppendTokensOf1024Channels) {
  Shape shape;
  shape.head_dim = shape.head_dim_v = 1024;
  shape.num_pages = 2;
  struct Appending {
    Server server;
    Tokens tokens;
    std::int32_t sequence;
    intflash_status status;
  } appending{Server(shape), random_tokens(shape, 100, 1), -1, INTFLASH_OUT_OF_MEMORY};
  appending.sequence = appending.server.create_sequence();
  pthread_attr_t attributes;
  ASSERT_EQ(pthread_attr_init(&attributes), 0);
  const std::size_t stack_bytes = std::max<std::size_t>(64 << 10, PTHREAD_STACK_MIN);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, stack_bytes), 0);
  const auto append = [](void* user) -> void* {
    Appending& call = *static_cast<Appending*>(user);
    call.status = call.server.append(call.sequence, call.tokens, 0, 100);
    return nullptr;
  };
  pthread_t thread;
  ASSERT_EQ(pthread_create(&thread, &attributes, append, &appending), 0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
  EXPECT_EQ(appending.status, INTFLASH_OK);
}

TEST_F(Sequences, UnknownNumbersAreRefused) {
  const std::int32_t sequence = create();
  ASSERT_EQ(intflash_sequence_free(server.cache(), sequence), INTFLASH_OK);
  std::int32_t fork = 77;
  for (const std::int32_t bad : {sequence, -1, 1000}) {
    EXPECT_EQ(intflash_sequence_free(server.cache(), bad), INTFLASH_INVALID_ARGUMENT);
    EXPECT_EQ(intflash_sequence_fork(server.cache(), bad, &fork), INTFLASH_INVALID_ARGUMENT);
    EXPECT_EQ(intflash_sequence_truncate(server.cache(), bad, 0), INTFLASH_INVALID_ARGUMENT);
    EXPECT_EQ(server.append(bad, a, 0, 1), INTFLASH_INVALID_ARGUMENT);
  }
  EXPECT_EQ(fork, 77);
  EXPECT_EQ(create(), sequence);  // used again
}

// Of one query, by a window, bits or an additive mask.
TEST(Sequence, HugeKeysThatNoQuerySeesFailNoRun) {
  const Shape shape;
  Server server(shape);
  Tokens tokens = random_tokens(shape, 60, 1);
  tokens.query[59 * static_cast<std::size_t>(shape.num_query_heads() * shape.head_dim)] = 0x1p40f;
  const auto attend_beside = [&](float key) {
    Tokens appended = tokens;
    appended.key[0] = key;
    const std::int32_t sequence = server.create_sequence();
    EXPECT_EQ(server.append(sequence, appended, 0, 60), INTFLASH_OK);
    Request request = server.request_of(sequence);
    request.query = tokens.query.data() + 59 * shape.num_query_heads() * shape.head_dim;
    return request;
  };
  const std::uint64_t all_but_first = ~std::uint64_t{1};
  std::vector<float> hidden(60, 0.0f);
  hidden[0] = -std::numeric_limits<float>::infinity();
  const auto hide = [&](Request request, int how) {
    if (how == 0) request.mask = INTFLASH_MASK_WINDOW, request.window_left = 30;
    if (how == 1) request.bits = {&all_but_first, 60};
    if (how == 2) request.additive = {hidden.data(), INTFLASH_F32, 0, 0, 60, nullptr};
    return request;
  };
  const Request huge = attend_beside(0x1p99f);
  const Request small = attend_beside(1);
  EXPECT_EQ(server.status_of({huge}), INTFLASH_SCORE_OVERFLOW);
  for (int how = 0; how < 3; ++how)
    EXPECT_EQ(server.attend({hide(huge, how)}), server.attend({hide(small, how)})) << how;
}

// Keys near the end of the range fail the runs that read them, and no others: neither beside them
// nor after them, in the same pages.
TEST(Sequence, HugeKeysFailOnlyTheRunsThatReadThem) {
  Shape shape;
  shape.page_size = 128;
  shape.num_pages = 3;
  Server server(shape);
  const Tokens tokens = random_tokens(shape, 150, 1);
  Tokens huge_tokens = random_tokens(shape, 150, 2);
  huge_tokens.key.front() = 0x1p99f;
  const std::int32_t sequence = server.create_sequence();
  ASSERT_EQ(server.append(sequence, tokens, 0, 100), INTFLASH_OK);
  std::int32_t huge = server.create_sequence();
  ASSERT_EQ(server.append(huge, huge_tokens, 0, 150), INTFLASH_OK);
  const auto request_of = [&](std::int32_t number) {
    Request request = server.request_of(number);
    huge_tokens.query.front() = 0x1p40f;
    request.query = number == huge ? huge_tokens.query.data() : tokens.query.data();
    return request;
  };
  EXPECT_EQ(server.status_of({request_of(huge)}), INTFLASH_SCORE_OVERFLOW);
  EXPECT_EQ(server.status_of({request_of(sequence), request_of(huge)}), INTFLASH_SCORE_OVERFLOW);
  Request beside = request_of(sequence);
  beside.query = huge_tokens.query.data();
  EXPECT_EQ(server.status_of({beside}), INTFLASH_OK) << intflash_last_error();
  // A part of the page, and a copy of it, hold the huge key as well.
  ASSERT_EQ(intflash_sequence_truncate(server.cache(), huge, 100), INTFLASH_OK);
  std::int32_t fork = -1;
  ASSERT_EQ(intflash_sequence_fork(server.cache(), huge, &fork), INTFLASH_OK);
  ASSERT_EQ(server.append(fork, tokens, 0, 1), INTFLASH_OK) << intflash_last_error();
  std::swap(huge, fork);
  EXPECT_EQ(server.status_of({request_of(huge)}), INTFLASH_SCORE_OVERFLOW);
  ASSERT_EQ(intflash_sequence_free(server.cache(), huge), INTFLASH_OK);
  ASSERT_EQ(intflash_sequence_free(server.cache(), fork), INTFLASH_OK);
  const std::int32_t later = server.create_sequence();
  ASSERT_EQ(server.append(later, tokens, 0, 150), INTFLASH_OK);
  Request after = server.request_of(later);
  after.query = huge_tokens.query.data();
  EXPECT_EQ(server.status_of({after}), INTFLASH_OK) << intflash_last_error();
}

}  // namespace
}  // namespace intflash::internal::serving
