// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A server, for tests.
#pragma once

#include <cstdint>
#include <vector>

#include "serving_calls.h"

namespace intflash::internal::serving {

// A context, a cache, and what is asked of them. Failures of the library fail the test.
class Server {
 public:
  explicit Server(const Shape& shape);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Of keys that are appended, and of queries.
  intflash_rope rope{};
  // That appends and attention are of.
  std::int64_t layer = 0;
  // Of attention.
  intflash_mode mode = INTFLASH_MODE_INT8;

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
  // Rows token_indptr[i] ... token_indptr[i + 1] - 1 of tokens to sequences[i], in one call.
  intflash_status append(const std::vector<std::int32_t>& sequences, const Tokens& tokens,
                         const std::vector<std::int64_t>& token_indptr);
  // Tokens from begin on, to be changed before they are appended.
  intflash_append_args append_args(const Tokens& tokens, std::int64_t begin) const;
  std::int32_t create_sequence();
  std::int64_t free_pages() const;
  Request request_of(std::int32_t sequence) const { return serving::request_of(cache_, sequence); }

  // All requests in one batch; results by request.
  std::vector<Result> attend(const std::vector<Request>& requests, float score_cap = 0,
                             const std::vector<intflash_shared_prefix>& prefixes = {}) const;
  // What one batch comes to, for those that are refused.
  intflash_status status_of(const std::vector<Request>& requests) const;
  // The same through the SPMD form, with tasks of a phase in random order.
  std::vector<Result> attend_by_tasks(
      const std::vector<Request>& requests, std::uint32_t seed, float score_cap = 0,
      const std::vector<intflash_shared_prefix>& prefixes = {}) const;

  // Query rows [count - query_len, count) of tokens over all of its keys through the dense call.
  Result attend_dense(const Tokens& tokens, const Request& request, float score_cap = 0,
                      intflash_mode mode = INTFLASH_MODE_INT8) const;

 private:
  Shape shape_;
  std::vector<float> key_center_, value_center_;
  intflash_context* context_ = nullptr;
  intflash_cache* cache_ = nullptr;
};

}  // namespace intflash::internal::serving
