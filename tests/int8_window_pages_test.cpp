// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Pages of caches with a window: when they are given back, what is refused for want of them, and
// files.
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "cache/sequence_file.h"
#include "cache_uses.h"
#include "pages/codec.h"
#include "window_uses.h"

namespace intflash::internal::serving {
namespace {

// ---- When they are given back ----

TEST(Int8Window, BlocksBehindItGiveTheirPagesBack) {
  Shape shape = window_shape(kK4v4Codec, 4, 1);
  shape.num_window_pages = 8;
  const Tokens tokens = test_tokens(shape, 3000);
  Server server(shape);
  const std::int32_t sequence = server.create_sequence();
  for (std::int64_t begin = 0; begin < 3000; begin += 60) {
    ASSERT_EQ(server.append(sequence, tokens, begin, begin + 60), INTFLASH_OK)
        << intflash_last_error();
    // Those of the window of the first new token, the first block, and what is new.
    EXPECT_GE(free_window_pages(server), 2);
  }
  EXPECT_EQ(server.append(sequence, tokens, 0, 400), INTFLASH_POOL_EXHAUSTED);
  EXPECT_NE(std::string(intflash_last_error()).find("for its windows"), std::string::npos)
      << intflash_last_error();
  EXPECT_EQ(server.request_of(sequence).kv_len, 3000);
  EXPECT_EQ(server.append(sequence, tokens, 0, 100), INTFLASH_OK) << intflash_last_error();
}

TEST(Int8Window, ForksGiveBackTogetherWhatNeitherWants) {
  Shape shape = window_shape(kK4v4Codec, 1, 0);
  shape.num_window_pages = 5;
  const Tokens tokens = test_tokens(shape, 330);
  Server server(shape);
  const std::int32_t sequence = server.create_sequence();
  append(server, sequence, tokens, 0, 320);
  std::int32_t fork = -1;
  ASSERT_EQ(intflash_sequence_fork(server.cache(), sequence, &fork), INTFLASH_OK);
  EXPECT_EQ(free_window_pages(server), 0);
  // One of them alone cannot: the other holds them all.
  EXPECT_EQ(server.append(sequence, tokens, 320, 321), INTFLASH_POOL_EXHAUSTED);
  ASSERT_EQ(server.append({sequence, fork}, tokens, {0, 1, 2}), INTFLASH_OK)
      << intflash_last_error();
  EXPECT_EQ(free_window_pages(server), 3);
  // No tokens, and nothing is given back.
  ASSERT_EQ(server.append({sequence, fork}, tokens, {0, 70, 70}), INTFLASH_OK);
  ASSERT_EQ(server.append({sequence, fork}, tokens, {0, 0, 0}), INTFLASH_OK);
  EXPECT_EQ(intflash_sequence_truncate(server.cache(), sequence, 321), INTFLASH_OK);
}

// ---- What is refused ----

void expect_error(intflash_status found, intflash_status expected, const char* words) {
  EXPECT_STREQ(intflash_status_name(found), intflash_status_name(expected));
  EXPECT_NE(std::string(intflash_last_error()).find(words), std::string::npos)
      << intflash_last_error();
}

TEST(Int8Window, WhatIsNoLongerInInt8IsRefused) {
  const Shape shape = window_shape(kK4v4Codec, 2, 1);
  const Tokens tokens = test_tokens(shape, 700);
  Server server(shape);
  const std::int32_t sequence = server.create_sequence();
  append(server, sequence, tokens, 0, 500);
  append(server, sequence, tokens, 500, 600);
  // Position 500 is of block 7, whose window begins with block 6.
  expect_error(intflash_sequence_truncate(server.cache(), sequence, 447), INTFLASH_UNSUPPORTED,
               "kv_len = 447: keys of its window at 320 ... 383 are no longer in INT8: must be at "
               "least 448");
  expect_error(server.status_of({rows_of(server, sequence, tokens, 447)}), INTFLASH_UNSUPPORTED,
               "requests[0]: first query = 447");
  EXPECT_EQ(server.request_of(sequence).kv_len, 600);
  EXPECT_EQ(server.status_of({rows_of(server, sequence, tokens, 448)}), INTFLASH_OK);
  EXPECT_EQ(intflash_sequence_truncate(server.cache(), sequence, 448), INTFLASH_OK);
  // The first block is in INT8 whatever comes behind it.
  EXPECT_EQ(intflash_sequence_truncate(server.cache(), sequence, 64), INTFLASH_OK);
  append(server, sequence, tokens, 64, 300);
  Server other(shape);
  const std::int32_t whole = other.create_sequence();
  append(other, whole, tokens, 0, 300);
  EXPECT_EQ(save(server, sequence), save(other, whole));
}

TEST(Int8Window, WhatWasDroppedIsMissedByNoWindow) {
  const Shape shape = window_shape(kK4v4Codec, 4, 1);
  const Tokens tokens = test_tokens(shape, 1100);
  Server server(shape);
  const std::int32_t sequence = server.create_sequence();
  append(server, sequence, tokens, 0, 960);
  append(server, sequence, tokens, 960, 1000);
  // The window of position 800 begins at 576, and tokens before 768 are no longer in INT8.
  expect_error(intflash_sequence_truncate(server.cache(), sequence, 800), INTFLASH_UNSUPPORTED,
               "keys of its window at 576 ... 767 are no longer in INT8: must be at least 960");
  ASSERT_EQ(intflash_sequence_drop_before(server.cache(), sequence, 768), INTFLASH_OK);
  EXPECT_EQ(server.status_of({rows_of(server, sequence, tokens, 800)}), INTFLASH_OK);
  ASSERT_EQ(intflash_sequence_truncate(server.cache(), sequence, 800), INTFLASH_OK);
  append(server, sequence, tokens, 800, 1000);

  const auto attended = [&](Server& by, std::int32_t held) {
    return by.attend({rows_of(by, held, tokens, 900)}).front().out;
  };
  Server other(shape);
  const std::int32_t whole = other.create_sequence();
  append(other, whole, tokens, 0, 800);
  append(other, whole, tokens, 800, 1000);
  ASSERT_EQ(intflash_sequence_drop_before(other.cache(), whole, 768), INTFLASH_OK);
  EXPECT_EQ(attended(server, sequence), attended(other, whole));
  EXPECT_EQ(save(server, sequence), save(other, whole));

  // All of it can go, wherever it begins.
  ASSERT_EQ(intflash_sequence_drop_before(server.cache(), sequence, 832), INTFLASH_OK);
  append(server, sequence, tokens, 1000, 1100);
  ASSERT_EQ(intflash_sequence_truncate(server.cache(), sequence, 832), INTFLASH_OK);
  append(server, sequence, tokens, 832, 900);
  EXPECT_EQ(server.status_of({rows_of(server, sequence, tokens, 832)}), INTFLASH_OK);
}

TEST(Int8Window, PagesAreTheSequencesAlone) {
  const Shape shape = window_shape(kK4v4Codec, 2, 1);
  const Tokens tokens = test_tokens(shape, 100);
  Server server(shape);
  const std::int32_t sequence = server.create_sequence();
  append(server, sequence, tokens, 0, 100);
  const char* const rule = "its pages are its sequences'";
  const std::int64_t token_indptr[] = {0, 1}, page_indptr[] = {0, 1}, kv_len = 0;
  const std::int32_t page = 7;
  intflash_append_args args = server.append_args(tokens, 0);
  args.token_indptr = token_indptr;
  args.kv_lens = &kv_len;
  args.pages = {page_indptr, &page};
  expect_error(intflash_cache_append(server.cache(), &args), INTFLASH_UNSUPPORTED, rule);
  expect_error(intflash_cache_copy_page(server.cache(), 0, 9), INTFLASH_UNSUPPORTED, rule);
  expect_error(intflash_cache_export(server.cache(), &page, 0, 1, nullptr, nullptr),
               INTFLASH_UNSUPPORTED, rule);
  const Request request = rows_of(server, sequence, tokens, 99);
  BatchCall by_pages(shape, {request});
  ASSERT_EQ(by_pages.make_plan(server.context(), server.cache()), INTFLASH_OK);
  by_pages.args.sequences = nullptr;
  const std::int32_t ids[] = {0, 1};
  const std::int64_t indptr[] = {0, 2};
  by_pages.args.pages = {indptr, ids};
  expect_error(by_pages.run(server.cache()), INTFLASH_UNSUPPORTED, rule);
  BatchCall shared(shape, {request, request});
  shared.share({{0, 2, 64}});
  expect_error(shared.make_plan(server.context(), server.cache()), INTFLASH_UNSUPPORTED,
               "num_shared_prefixes = 1 over a cache with window_blocks = 2");
}

TEST(Int8Window, RulesOfCodecsAndWindows) {
  intflash_context_options context_options{};
  context_options.struct_size = sizeof context_options;
  intflash_context* context = nullptr;
  ASSERT_EQ(intflash_context_create(&context_options, &context), INTFLASH_OK);
  const auto create = [&](auto change) {
    intflash_cache_options options{};
    options.struct_size = sizeof options;
    options.num_kv_heads = 1;
    options.head_dim = 64;
    options.num_pages = 4;
    options.codec = INTFLASH_CODEC_K4V4;
    options.window_blocks = 1;
    change(options);
    intflash_cache* cache = nullptr;
    const intflash_status status = intflash_cache_create(context, &options, &cache);
    intflash_cache_destroy(cache);
    return status;
  };
  using Options = intflash_cache_options;
  EXPECT_EQ(create([](Options&) {}), INTFLASH_OK);
  expect_error(create([](Options& o) { o.window_blocks = 0; }), INTFLASH_UNSUPPORTED,
               "window_blocks = 0 with codec k4v4: must be at least 1");
  expect_error(create([](Options& o) { o.codec = INTFLASH_CODEC_INT8; }), INTFLASH_UNSUPPORTED,
               "window_blocks = 1 with codec int8: must be 0");
  expect_error(create([](Options& o) { o.window_blocks = -1; }), INTFLASH_BAD_SHAPE,
               "window_blocks = -1");
  expect_error(create([](Options& o) { o.sink_blocks = -3; }), INTFLASH_BAD_SHAPE,
               "sink_blocks = -3");
  expect_error(create([](Options& o) { o.numa = INTFLASH_NUMA_BY_NODE; }), INTFLASH_UNSUPPORTED,
               "numa = BY_NODE");
  expect_error(create([](Options& o) {
                 o.codec = INTFLASH_CODEC_K8V4;
                 o.window_blocks = 0;
                 o.sink_blocks = 1;
               }),
               INTFLASH_INVALID_ARGUMENT, "must be 0 without window_blocks");
  intflash_context_destroy(context);
}

// ---- Files ----

TEST(Int8Window, FilesKeepTheWindowAndWantTheSame) {
  const Shape shape = window_shape(kK4v4Codec, 2, 1);
  const Tokens tokens = test_tokens(shape, 600);
  Server server(shape);
  const std::int32_t sequence = server.create_sequence();
  append(server, sequence, tokens, 0, 500);
  const File file = save(server, sequence);
  Shape coarse = shape;
  coarse.page_size = 256;
  coarse.num_pages = 4;
  Server other(coarse);
  std::int32_t loaded = -1;
  ASSERT_EQ(load(other, file, loaded), INTFLASH_OK) << intflash_last_error();
  EXPECT_EQ(attended(other, loaded, tokens, {501, 600}),
            attended(server, sequence, tokens, {501, 600}));
  Shape wider = shape;
  wider.window_blocks = 3;
  expect_error(load(Server(wider), file, loaded), INTFLASH_BAD_FILE,
               "byte 80: a window of 2 and 1 blocks in the file, 3 and 1 in the cache");
  Shape none = shape;
  none.codec = &kK8v4Codec;
  none.window_blocks = none.sink_blocks = 0;
  const File without = [&] {
    Server of_none(none);
    const std::int32_t short_one = of_none.create_sequence();
    append(of_none, short_one, tokens, 0, 10);
    return save(of_none, short_one);
  }();
  Shape windowed = none;
  windowed.window_blocks = 2;
  expect_error(load(Server(windowed), without, loaded), INTFLASH_BAD_FILE,
               "byte 22: a window of 0 and 0 blocks in the file, 2 and 0 in the cache");

  // A record of no window is none that is ever saved.
  File with_record = without;
  with_record[22] = kWindow;
  const auto seal = [&](std::size_t begin, std::size_t end) {
    const std::uint64_t checksum =
        record_checksum(with_record.data() + begin, end - begin, static_cast<std::int64_t>(begin));
    std::memcpy(with_record.data() + end, &checksum, sizeof checksum);
  };
  with_record.insert(with_record.begin() + 80, sizeof(FileWindow) + 8, 0);
  seal(0, 72);
  seal(80, 80 + sizeof(FileWindow));
  expect_error(load(Server(none), with_record, loaded), INTFLASH_BAD_FILE,
               "byte 80: a window of 0 and 0 blocks in the file, 0 and 0 in the cache");
}

}  // namespace
}  // namespace intflash::internal::serving
