// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A small valid append, batch and run over one cache, for tests that spoil one argument of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <functional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "serving_calls.h"

namespace intflash::internal::serving {

// Two requests over a cache of 8 pages of 64: 100 tokens appended to the one, which is empty, and
// 30 to the other, which has 64; then batch attends 3 and 2 queries of them.
class ServingInput {
 public:
  ServingInput() {
    intflash_context_options options{};
    options.struct_size = sizeof options;
    options.num_threads = 1;
    EXPECT_EQ(intflash_context_create(&options, &context), INTFLASH_OK) << intflash_last_error();
    std::memset(arena.get(), kPoison, kArenaBytes);
    intflash_cache_options own = cache_options();
    own.arena = arena.get();
    own.arena_bytes = kArenaBytes;
    cache = create_cache(own);
    append.num_requests = 2;
    append.token_indptr = token_indptr;
    append.kv_lens = kv_lens;
    append.first_key_positions = first_key_positions;
    append.pages = {page_indptr, page_ids};
    std::fill(batch.out.begin(), batch.out.end(), kUntouched);
    std::fill(batch.lse.begin(), batch.lse.end(), kUntouched);
  }
  ~ServingInput() {
    intflash_plan_destroy(std::exchange(batch.plan, nullptr));
    intflash_cache_destroy(other_cache);
    intflash_cache_destroy(cache);
    intflash_context_destroy(context);
  }
  ServingInput(const ServingInput&) = delete;
  ServingInput& operator=(const ServingInput&) = delete;

  intflash_cache_options cache_options() const {
    intflash_cache_options options{};
    options.struct_size = sizeof options;
    options.num_kv_heads = shape.num_kv_heads;
    options.head_dim = shape.head_dim;
    options.head_dim_v = shape.head_dim_v;
    options.num_pages = 8;
    return options;
  }
  intflash_cache* create_cache(const intflash_cache_options& options) const {
    intflash_cache* created = nullptr;
    EXPECT_EQ(intflash_cache_create(context, &options, &created), INTFLASH_OK)
        << intflash_last_error();
    return created;
  }

  // Fails the test unless the call gave status, with all of words in its message, and has written
  // neither to a page nor to an output.
  void expect_refusal(intflash_status found, intflash_status expected,
                      const std::vector<std::string>& words) const {
    EXPECT_STREQ(intflash_status_name(found), intflash_status_name(expected));
    const std::string message = intflash_last_error();
    for (const std::string& word : words)
      EXPECT_NE(message.find(word), std::string::npos) << '"' << message << "\" lacks " << word;
    const auto* bytes = static_cast<const unsigned char*>(arena.get());
    EXPECT_TRUE(std::all_of(bytes, bytes + kArenaBytes, [](auto b) { return b == kPoison; }));
    const auto untouched = [](float x) { return x == kUntouched; };
    EXPECT_TRUE(std::all_of(batch.out.begin(), batch.out.end(), untouched)) << message;
    EXPECT_TRUE(std::all_of(batch.lse.begin(), batch.lse.end(), untouched)) << message;
  }

  static constexpr unsigned char kPoison = 0xa5;
  static constexpr float kUntouched = -77;
  static constexpr std::size_t kArenaBytes = 8 * 2 * 64 * (32 + 32 + 12);

  const Shape shape;
  Tokens tokens = random_tokens(shape, 130, 1);
  AlignedMemory arena = aligned_memory(kArenaBytes);
  intflash_context* context = nullptr;
  intflash_cache* cache = nullptr;
  intflash_cache* other_cache = nullptr;  // a test's own

  std::int64_t token_indptr[3] = {0, 100, 130};
  std::int64_t kv_lens[2] = {0, 64};
  std::int64_t first_key_positions[2] = {0, 0};
  std::int64_t page_indptr[3] = {0, 2, 4};
  std::int32_t page_ids[4] = {3, 0, 5, 2};
  intflash_append_args append = append_args(shape, tokens, 0);
  BatchCall batch{shape, {request(3, 100, {3, 0}), request(2, 94, {5, 2})}};

 private:
  Request request(std::int64_t query_len, std::int64_t kv_len, std::vector<std::int32_t> pages) {
    Request request;
    request.query_len = query_len;
    request.kv_len = kv_len;
    request.pages = std::move(pages);
    request.query = tokens.query.data();
    return request;
  }
};

struct BadInput {
  const char* name;
  std::function<void(ServingInput&)> spoil;
  intflash_status status;
  std::vector<std::string> words;  // of the message: the argument, its value, the rule
};
inline void PrintTo(const BadInput& input, std::ostream* out) { *out << input.name; }
inline std::string name_of(const testing::TestParamInfo<BadInput>& info) { return info.param.name; }

}  // namespace intflash::internal::serving
