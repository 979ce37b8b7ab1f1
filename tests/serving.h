// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Owners over the C interface of caches and batches, for tests.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "intflash/cache.h"

namespace intflash::serving {

struct Shape {
  std::int64_t num_kv_heads = 2;
  std::int64_t group_size = 2;
  std::int64_t head_dim = 32;
  std::int64_t head_dim_v = 32;
  std::int64_t page_size = 64;
  std::int64_t num_pages = 64;
  bool rotate = false;
  bool centered = false;
  std::int32_t num_threads = 1;
  std::string isa;  // "" = the best one

  std::int64_t num_query_heads() const { return num_kv_heads * group_size; }
};

// Tokens of one request, in floats: [tokens][heads][dim].
struct Tokens {
  std::vector<float> query, key, value;
  std::int64_t count = 0;
};
Tokens random_tokens(const Shape& shape, std::int64_t count, std::uint32_t seed);

struct Request {
  std::int64_t query_len = 1;
  std::int64_t kv_len = 0;
  std::int64_t first_key_position = 0;
  std::vector<std::int32_t> pages;
  intflash_mask mask = INTFLASH_MASK_CAUSAL;
  std::int64_t window_left = 0;
  std::int64_t window_right = 0;
  float softmax_scale = 0;
  const float* query = nullptr;  // [query_len][num_query_heads][head_dim]
};

struct Result {
  std::vector<float> out;  // [rows][num_query_heads][head_dim_v]
  std::vector<float> lse;  // [rows][num_query_heads]

  bool operator==(const Result&) const = default;
};

// A context, a cache, and what is asked of them. Failures of the library fail the test.
class Server {
 public:
  explicit Server(const Shape& shape);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Of keys that are appended, and of queries.
  intflash_rope rope{};

  const Shape& shape() const { return shape_; }
  intflash_context* context() const { return context_; }
  intflash_cache* cache() const { return cache_; }
  const std::vector<float>& key_center() const { return key_center_; }
  const std::vector<float>& value_center() const { return value_center_; }

  // Tokens [begin, end) of tokens to positions begin ... of a request with these pages.
  void append(const Tokens& tokens, std::int64_t begin, std::int64_t end,
              const std::vector<std::int32_t>& pages);
  // The same to a sequence.
  intflash_status append(std::int32_t sequence, const Tokens& tokens, std::int64_t begin,
                         std::int64_t end);
  // The same of tokens that args say all of but their number.
  intflash_status append(std::int32_t sequence, std::int64_t count, intflash_append_args args);
  // Tokens from begin on, to be changed before they are appended.
  intflash_append_args append_args(const Tokens& tokens, std::int64_t begin) const;
  std::int32_t create_sequence();
  Request request_of(std::int32_t sequence) const;
  std::int64_t free_pages() const;

  // All requests in one batch; results by request.
  std::vector<Result> attend(const std::vector<Request>& requests, float score_cap = 0) const;
  // What one batch comes to, for those that are refused.
  intflash_status status_of(const std::vector<Request>& requests) const;
  // The same through the SPMD form, with tasks of a phase in random order.
  std::vector<Result> attend_by_tasks(const std::vector<Request>& requests,
                                      std::uint32_t seed) const;

  // Query rows [count - query_len, count) of tokens over all of its keys through the dense call.
  Result attend_dense(const Tokens& tokens, const Request& request, float score_cap = 0,
                      intflash_mode mode = INTFLASH_MODE_INT8) const;

 private:
  struct Batch;
  void fill(const std::vector<Request>& requests, float score_cap, Batch& batch) const;

  Shape shape_;
  std::vector<float> key_center_, value_center_;
  intflash_context* context_ = nullptr;
  intflash_cache* cache_ = nullptr;
};

std::vector<std::int32_t> page_range(std::int32_t first, std::int64_t count);

}  // namespace intflash::serving
