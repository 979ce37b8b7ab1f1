// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A call that changes a cache while another one does is refused, and harms neither; a load whose
// tokens are being read is no such call.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "serving.h"

namespace intflash::internal::serving {
namespace {

void expect_overlap(intflash_status status) {
  EXPECT_EQ(status, INTFLASH_BUSY);
  EXPECT_NE(std::string(intflash_last_error()).find("must not overlap"), std::string::npos)
      << intflash_last_error();
}

using File = std::vector<char>;

File save(const intflash_cache* cache, std::int32_t sequence) {
  File file;
  const auto write = [](void* user, const void* bytes, std::size_t num_bytes) {
    File& to = *static_cast<File*>(user);
    const char* first = static_cast<const char*>(bytes);
    to.insert(to.end(), first, first + num_bytes);
    return num_bytes;
  };
  EXPECT_EQ(intflash_sequence_save(cache, sequence, write, &file), INTFLASH_OK)
      << intflash_last_error();
  return file;
}

// Gives out a file, and calls between_reads before each part of it.
struct Reader {
  const File& file;
  std::function<void()> between_reads = [] {};
  std::size_t used = 0;

  static std::size_t read(void* user, void* bytes, std::size_t num_bytes) {
    Reader& reader = *static_cast<Reader*>(user);
    reader.between_reads();
    const std::size_t count = std::min(num_bytes, reader.file.size() - reader.used);
    std::memcpy(bytes, reader.file.data() + reader.used, count);
    reader.used += count;
    return count;
  }
};

// Every call that changes a cache, each of them valid where it is alone.
void expect_all_refused(intflash_cache* cache, const Shape& shape, std::int32_t sequence,
                        const File& file) {
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
  Reader reader{file};
  expect_overlap(intflash_sequence_load(cache, Reader::read, &reader, &other));
  EXPECT_EQ(other, -7);
}

TEST(CacheChange, WithinALoadIsServed) {
  const Shape shape;
  Server server{shape};
  const Tokens tokens = random_tokens(shape, 300, 1);
  const std::int32_t sequence = server.create_sequence();
  ASSERT_EQ(server.append(sequence, tokens, 0, 300), INTFLASH_OK);
  const File file = save(server.cache(), sequence);
  ASSERT_EQ(intflash_sequence_free(server.cache(), sequence), INTFLASH_OK);
  const std::int32_t other = server.create_sequence();
  std::int64_t other_len = 0;
  std::vector<std::int32_t> created;
  Reader reader{file, [&] {
                  ASSERT_EQ(server.append(other, tokens, other_len, other_len + 10), INTFLASH_OK)
                      << intflash_last_error();
                  other_len += 10;
                  created.push_back(server.create_sequence());
                  ASSERT_EQ(server.append(created.back(), tokens, 0, 65), INTFLASH_OK)
                      << intflash_last_error();
                  if (created.size() % 3 == 0) return;
                  ASSERT_EQ(intflash_sequence_free(server.cache(), created.back()), INTFLASH_OK);
                  created.pop_back();
                }};
  std::int32_t loaded = -1;
  ASSERT_EQ(intflash_sequence_load(server.cache(), Reader::read, &reader, &loaded), INTFLASH_OK)
      << intflash_last_error();
  EXPECT_EQ(save(server.cache(), loaded), file);
  EXPECT_EQ(server.request_of(other).kv_len, other_len);
  Request request = server.request_of(loaded);
  request.query = tokens.query.data();
  EXPECT_EQ(server.attend({request})[0], server.attend_dense(tokens, request));
}

TEST(CacheChange, ALoadWithinALoadIsServed) {
  Server server{Shape{}};
  const std::int32_t sequence = server.create_sequence();
  ASSERT_EQ(server.append(sequence, random_tokens(server.shape(), 70, 1), 0, 70), INTFLASH_OK);
  const File file = save(server.cache(), sequence);
  std::int32_t inner = -1;
  Reader reader{file, [&] {
                  if (reader.used < file.size() / 2 || inner >= 0) return;
                  Reader inner_reader{file};
                  ASSERT_EQ(
                      intflash_sequence_load(server.cache(), Reader::read, &inner_reader, &inner),
                      INTFLASH_OK)
                      << intflash_last_error();
                }};
  std::int32_t outer = -1;
  ASSERT_EQ(intflash_sequence_load(server.cache(), Reader::read, &reader, &outer), INTFLASH_OK)
      << intflash_last_error();
  EXPECT_EQ(save(server.cache(), inner), file);
  EXPECT_EQ(save(server.cache(), outer), file);
}

// On its last read an append begins, and is still at work when the load has all bytes.
TEST(CacheChange, ALoadWaitsForOneAtItsEnd) {
  struct Work {
    std::atomic<bool> is_last_read{false};
    std::atomic<bool> is_appending{false};
  } work;
  intflash_context_options options{};
  options.struct_size = sizeof options;
  options.num_threads = 2;
  options.parallel_for_user = &work;
  options.parallel_for = [](void* user, std::int32_t count, auto body, void* context) {
    static_cast<Work*>(user)->is_appending = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    for (std::int32_t i = 0; i < count; ++i) body(context, i);
  };
  const Shape shape;
  intflash_context* context = nullptr;
  ASSERT_EQ(intflash_context_create(&options, &context), INTFLASH_OK) << intflash_last_error();
  intflash_cache_options cache_options{};
  cache_options.struct_size = sizeof cache_options;
  cache_options.num_kv_heads = shape.num_kv_heads;
  cache_options.head_dim = shape.head_dim;
  cache_options.num_pages = 10;
  intflash_cache* cache = nullptr;
  ASSERT_EQ(intflash_cache_create(context, &cache_options, &cache), INTFLASH_OK);
  std::int32_t sequence = -1;
  ASSERT_EQ(intflash_sequence_create(cache, &sequence), INTFLASH_OK);
  const Tokens tokens = random_tokens(shape, 520, 1);
  const auto append = [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t token_indptr[] = {0, end - begin};
    intflash_append_args args = append_args(shape, tokens, begin);
    args.token_indptr = token_indptr;
    EXPECT_EQ(intflash_sequences_append(cache, &sequence, &args), INTFLASH_OK)
        << intflash_last_error();
  };
  append(0, 8);
  const File file = save(cache, sequence);
  std::int32_t loaded = -1;
  std::thread loader([&] {
    Reader reader{file, [&] {
                    if (reader.used + 8 < file.size()) return;
                    work.is_last_read = true;
                    while (!work.is_appending) std::this_thread::yield();
                  }};
    EXPECT_EQ(intflash_sequence_load(cache, Reader::read, &reader, &loaded), INTFLASH_OK)
        << intflash_last_error();
  });
  while (!work.is_last_read) std::this_thread::yield();
  append(8, 520);
  loader.join();
  EXPECT_EQ(save(cache, loaded), file);
  EXPECT_EQ(request_of(cache, sequence).kv_len, 520);
  intflash_cache_destroy(cache);
  intflash_context_destroy(context);
}

// While it is read a sequence has a slot and pages, but no name.
TEST(CacheChange, WhatIsBeingLoadedIsNoSequence) {
  Server server{Shape{}};
  const std::int32_t sequence = server.create_sequence();
  ASSERT_EQ(server.append(sequence, random_tokens(server.shape(), 70, 1), 0, 70), INTFLASH_OK);
  File file = save(server.cache(), sequence);
  file.pop_back();
  const std::int64_t free_pages = server.free_pages();
  int refusals = 0;
  Reader reader{file, [&] {
                  if (server.free_pages() == free_pages) return;
                  EXPECT_EQ(intflash_sequence_free(server.cache(), sequence + 1),
                            INTFLASH_INVALID_ARGUMENT);
                  EXPECT_EQ(intflash_sequence_truncate(server.cache(), sequence + 1, 0),
                            INTFLASH_INVALID_ARGUMENT);
                  ++refusals;
                }};
  std::int32_t loaded = -7;
  EXPECT_EQ(intflash_sequence_load(server.cache(), Reader::read, &reader, &loaded),
            INTFLASH_BAD_FILE);
  EXPECT_EQ(loaded, -7);
  EXPECT_GT(refusals, 0);
  EXPECT_EQ(server.free_pages(), free_pages);
}

// On one thread: the caller's loop stands for what another thread would do meanwhile.
TEST(CacheChange, WithinAnAppendIsRefused) {
  struct Appending {
    intflash_cache* cache = nullptr;
    Shape shape;
    std::int32_t sequence = -1;
    File file;
    int loops = 0;
  } appending;
  intflash_context_options options{};
  options.struct_size = sizeof options;
  options.num_threads = 2;
  options.parallel_for_user = &appending;
  options.parallel_for = [](void* user, std::int32_t count, auto body, void* context) {
    Appending& call = *static_cast<Appending*>(user);
    ++call.loops;
    expect_all_refused(call.cache, call.shape, call.sequence, call.file);
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
  appending.file = save(appending.cache, appending.sequence);
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
