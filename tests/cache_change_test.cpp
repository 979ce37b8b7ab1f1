// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A call that changes a cache while another one does is refused, and harms neither.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "serving.h"

namespace intflash::internal::serving {
namespace {

void expect_overlap(intflash_status status) {
  EXPECT_EQ(status, INTFLASH_INVALID_ARGUMENT);
  EXPECT_NE(std::string(intflash_last_error()).find("must not overlap"), std::string::npos)
      << intflash_last_error();
}

// Every call that changes a cache, each of them valid where it is alone.
void expect_all_refused(intflash_cache* cache, const Shape& shape, std::int32_t sequence) {
  std::int32_t other = -7;
  expect_overlap(intflash_sequence_create(cache, &other));
  expect_overlap(intflash_sequence_fork(cache, sequence, &other));
  expect_overlap(intflash_sequence_truncate(cache, sequence, 1));
  expect_overlap(intflash_sequence_drop_before(cache, sequence, 64));
  expect_overlap(intflash_sequence_free(cache, sequence));
  expect_overlap(intflash_cache_copy_page(cache, 0, 9));
  const Tokens tokens = random_tokens(shape, 1, 2);
  const std::int64_t token_indptr[] = {0, 1};
  const std::int64_t page_indptr[] = {0, 1};
  const std::int64_t kv_len = 0;
  const std::int32_t page = 9;
  intflash_append_args append = append_args(shape, tokens, 0);
  append.token_indptr = token_indptr;
  expect_overlap(intflash_sequences_append(cache, &sequence, &append));
  append.kv_lens = &kv_len;
  append.pages = {page_indptr, &page};
  expect_overlap(intflash_cache_append(cache, &append));
  const auto read = [](void*, void*, std::size_t) -> std::size_t { return 0; };
  expect_overlap(intflash_sequence_load(cache, read, nullptr, &other));
  EXPECT_EQ(other, -7);
}

TEST(CacheChange, WithinALoadIsRefused) {
  Server server{Shape{}};
  const Tokens tokens = random_tokens(server.shape(), 130, 1);
  const std::int32_t sequence = server.create_sequence();
  ASSERT_EQ(server.append(sequence, tokens, 0, 130), INTFLASH_OK);
  const std::int64_t free_pages = server.free_pages();
  struct Loading {
    Server& server;
    std::int32_t sequence;
    int reads = 0;
  } loading{server, sequence};
  const auto read = [](void* user, void*, std::size_t) -> std::size_t {
    Loading& call = *static_cast<Loading*>(user);
    ++call.reads;
    expect_all_refused(call.server.cache(), call.server.shape(), call.sequence);
    return 0;
  };
  std::int32_t loaded = -1;
  EXPECT_EQ(intflash_sequence_load(server.cache(), read, &loading, &loaded), INTFLASH_BAD_FILE);
  EXPECT_EQ(loading.reads, 1);
  EXPECT_EQ(server.free_pages(), free_pages);
  Request request = server.request_of(sequence);
  request.query = tokens.query.data();
  EXPECT_EQ(request.kv_len, 130);
  EXPECT_EQ(server.attend({request})[0], server.attend_dense(tokens, request));
  EXPECT_EQ(intflash_sequence_free(server.cache(), sequence), INTFLASH_OK) << intflash_last_error();
}

// On one thread: the caller's loop stands for what another thread would do meanwhile.
TEST(CacheChange, WithinAnAppendIsRefused) {
  struct Appending {
    intflash_cache* cache = nullptr;
    Shape shape;
    std::int32_t sequence = -1;
    int loops = 0;
  } appending;
  intflash_context_options options{};
  options.struct_size = sizeof options;
  options.num_threads = 2;
  options.parallel_for_user = &appending;
  options.parallel_for = [](void* user, std::int32_t count, auto body, void* context) {
    Appending& call = *static_cast<Appending*>(user);
    ++call.loops;
    expect_all_refused(call.cache, call.shape, call.sequence);
    for (std::int32_t i = 0; i < count; ++i) body(context, i);
  };
  intflash_context* context = nullptr;
  ASSERT_EQ(intflash_context_create(&options, &context), INTFLASH_OK) << intflash_last_error();
  intflash_cache_options cache_options{};
  cache_options.struct_size = sizeof cache_options;
  cache_options.num_kv_heads = appending.shape.num_kv_heads;
  cache_options.head_dim = appending.shape.head_dim;
  cache_options.num_pages = 10;
  ASSERT_EQ(intflash_cache_create(context, &cache_options, &appending.cache), INTFLASH_OK);
  ASSERT_EQ(intflash_sequence_create(appending.cache, &appending.sequence), INTFLASH_OK);
  const Tokens tokens = random_tokens(appending.shape, 512, 1);
  const std::int64_t token_indptr[] = {0, 512};
  intflash_append_args append = append_args(appending.shape, tokens, 0);
  append.token_indptr = token_indptr;
  EXPECT_EQ(intflash_sequences_append(appending.cache, &appending.sequence, &append), INTFLASH_OK)
      << intflash_last_error();
  EXPECT_EQ(appending.loops, 2) << "elements are checked, then written";
  EXPECT_EQ(request_of(appending.cache, appending.sequence).kv_len, 512);
  intflash_cache_destroy(appending.cache);
  intflash_context_destroy(context);
}

}  // namespace
}  // namespace intflash::internal::serving
