// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Memory of caches and batches: every allocation may fail and the call be made again, none leaks,
// and neither append nor run makes one.
#include <cstddef>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "counting_allocator.h"
#include "serving.h"

namespace intflash::internal::serving {
namespace {

// Everything a small server does from its start to its end, each call again where memory was
// lacking.
class SmallServer {
 public:
  explicit SmallServer(CountingAllocator& allocator) : allocator_(allocator) {}

  std::vector<Result> serve() {
    create_cache();
    std::int32_t first = -1;
    std::int32_t second = -1;
    std::int32_t fork = -1;
    succeed([&] { return intflash_sequence_create(cache_, &first); });
    succeed([&] { return intflash_sequence_create(cache_, &second); });
    append({first, second}, {0, 200, 203});
    succeed([&] { return intflash_sequence_fork(cache_, first, &fork); });
    append({fork, first}, {0, 70, 71});
    succeed([&] { return intflash_sequence_free(cache_, second); });
    std::vector<Result> results = attend({first, fork});
    intflash_cache_destroy(cache_);
    intflash_context_destroy(context_);
    return results;
  }
  int num_failures() const { return num_failures_; }

 private:
  struct Books {
    std::int64_t free_pages, num_sequences;
    bool operator==(const Books&) const = default;
  };
  Books books() const {
    if (cache_ == nullptr) return {};
    intflash_cache_info info{};
    info.struct_size = sizeof info;
    EXPECT_EQ(intflash_cache_get_info(cache_, &info), INTFLASH_OK);
    return {info.free_pages, info.num_sequences};
  }
  // Without memory nothing changes; the same call then succeeds.
  template <class Call>
  void succeed(Call call) {
    const Books before = books();
    const int calls = allocator_.calls();
    intflash_status status = call();
    if (status == INTFLASH_OUT_OF_MEMORY) {
      ++num_failures_;
      EXPECT_NE(std::string(intflash_last_error()).find("no memory"), std::string::npos)
          << intflash_last_error();
      EXPECT_TRUE(books() == before) << "changed by a call that failed";
      EXPECT_GT(allocator_.calls(), calls);
      status = call();
    }
    ASSERT_EQ(status, INTFLASH_OK) << intflash_last_error();
  }

  void create_cache() {
    const intflash_context_options options = allocator_.options();
    succeed([&] { return intflash_context_create(&options, &context_); });
    const Tokens centers = random_tokens(shape_, 1, 1);
    intflash_cache_options cache{};
    cache.struct_size = sizeof cache;
    cache.num_kv_heads = shape_.num_kv_heads;
    cache.head_dim = shape_.head_dim;
    cache.head_dim_v = shape_.head_dim_v;
    cache.num_pages = 8;
    cache.key_center = centers.key.data();
    cache.value_center = centers.value.data();
    succeed([&] { return intflash_cache_create(context_, &cache, &cache_); });
  }
  void append(const std::vector<std::int32_t>& sequences,
              const std::vector<std::int64_t>& token_indptr) {
    const Tokens tokens = random_tokens(shape_, token_indptr.back(), 2);
    intflash_append_args args = append_args(shape_, tokens, 0);
    args.num_requests = static_cast<std::int64_t>(sequences.size());
    args.token_indptr = token_indptr.data();
    succeed([&] { return intflash_sequences_append(cache_, sequences.data(), &args); });
  }
  std::vector<Result> attend(const std::vector<std::int32_t>& sequences) {
    const Tokens queries = random_tokens(shape_, 1, 3);
    std::vector<Request> requests;
    for (const std::int32_t sequence : sequences) {
      requests.push_back(request_of(cache_, sequence));
      requests.back().query = queries.query.data();
    }
    BatchCall batch(shape_, requests);
    batch.share({{0, 2, 200}});
    succeed([&] { return batch.make_plan(context_, cache_); });
    succeed([&] { return batch.run(cache_); });
    return batch.results();
  }

  const Shape shape_;
  CountingAllocator& allocator_;
  intflash_context* context_ = nullptr;
  intflash_cache* cache_ = nullptr;
  int num_failures_ = 0;
};

TEST(ServingMemory, EveryAllocationMayFailAndTheCallBeMadeAgain) {
  CountingAllocator whole(-1);
  const std::vector<Result> expected = SmallServer(whole).serve();
  EXPECT_EQ(whole.held(), 0u);
  EXPECT_GE(whole.calls(), 12);
  for (int n = 0; n < whole.calls(); ++n) {
    SCOPED_TRACE("allocation " + std::to_string(n));
    CountingAllocator failing(n);
    SmallServer server(failing);
    EXPECT_EQ(server.serve(), expected);
    EXPECT_EQ(server.num_failures(), 1);
    EXPECT_EQ(failing.held(), 0u);
  }
}

TEST(ServingMemory, IsNotAllocatedByAppendAndRun) {
  for (const std::int32_t threads : {1, 3}) {
    Shape shape;
    shape.num_threads = threads;
    Server server(shape);
    const Tokens tokens = random_tokens(shape, 700, 5);
    const std::vector<std::int32_t> pages = page_range(0, 11);
    const std::int64_t token_indptr[] = {0, 700};
    const std::int64_t page_indptr[] = {0, 11};
    const std::int64_t kv_len = 0;
    intflash_append_args append = append_args(shape, tokens, 0);
    append.token_indptr = token_indptr;
    append.kv_lens = &kv_len;
    append.pages = {page_indptr, pages.data()};
    Request request;
    request.query_len = 300;
    request.kv_len = 700;
    request.pages = pages;
    request.query = tokens.query.data();
    BatchCall batch(shape, {request, request});
    batch.share({{0, 2, 600}});
    ASSERT_EQ(batch.make_plan(server.context(), server.cache()), INTFLASH_OK);
    const long before = num_allocations();
    const intflash_status appended = intflash_cache_append(server.cache(), &append);
    const intflash_status attended = batch.run(server.cache());
    batch.workspace_bytes = 1;
    const intflash_status refused = batch.run(server.cache());
    EXPECT_EQ(num_allocations() - before, 0) << threads << " threads";
    EXPECT_EQ(appended, INTFLASH_OK);
    EXPECT_EQ(attended, INTFLASH_OK);
    EXPECT_EQ(refused, INTFLASH_WORKSPACE_TOO_SMALL);
  }
}

}  // namespace
}  // namespace intflash::internal::serving
