// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Tokens, requests, and the calls of the C interface made of them: for tests that make, spoil or
// repeat a call by themselves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "intflash/cache.h"

namespace intflash::internal {
struct Codec;
struct Device;
struct NumaNodes;
struct PortEntry;
}  // namespace intflash::internal

namespace intflash::internal::serving {

struct Shape {
  std::int64_t num_kv_heads = 2;
  std::int64_t group_size = 2;
  std::int64_t head_dim = 32;
  std::int64_t head_dim_v = 32;
  std::int64_t page_size = 64;
  std::int64_t num_pages = 64;
  std::int64_t num_layers = 1;
  bool rotate = false;
  bool centered = false;
  std::vector<float> sinks;   // by query head; empty = none
  std::vector<float> slopes;  // of ALiBi, the same
  std::int32_t num_threads = 1;
  const PortEntry* port = nullptr;  // nullptr = the best one
  const Codec* codec = nullptr;     // nullptr = int8
  std::int64_t window_blocks = 0;
  std::int64_t sink_blocks = 0;
  std::int64_t num_window_pages = 0;
  const Device* device = nullptr;  // nullptr = the CPU
  const NumaNodes* nodes =
      nullptr;  // that the machine has, and that pages lie by; nullptr = its own
  std::int32_t score_digits = 0;

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
  std::int32_t sequence = -1;  // in place of pages, where the cache has a window
  intflash_mask mask = INTFLASH_MASK_CAUSAL;
  std::int64_t window_left = 0;
  std::int64_t window_right = 0;
  std::int64_t prefix_len = 0;
  std::int64_t key_begin = 0;
  std::int64_t key_end = 0;
  float softmax_scale = 0;
  const float* query = nullptr;  // [query_len][num_query_heads][head_dim]
  intflash_additive_mask additive{};
  intflash_bit_mask bits{};
};

struct Result {
  std::vector<float> out;  // [rows][num_query_heads][head_dim_v]
  std::vector<float> lse;  // [num_query_heads][rows]

  bool operator==(const Result&) const = default;
};

std::vector<std::int32_t> page_range(std::int32_t first, std::int64_t count);

// The pages and the range of a sequence; one query row, without data.
Request request_of(const intflash_cache* cache, std::int32_t sequence);

// Appends to one request the tokens from begin on; without token_indptr, kv_lens and pages.
intflash_append_args append_args(const Shape& shape, const Tokens& tokens, std::int64_t begin);

struct FreeMemory {
  void operator()(void* memory) const { std::free(memory); }
};
using AlignedMemory = std::unique_ptr<void, FreeMemory>;
AlignedMemory aligned_memory(std::size_t bytes);

// A batch with its query, outputs and pages, in f32.
struct BatchCall {
  BatchCall(const Shape& shape, const std::vector<Request>& requests, float score_cap = 0);
  ~BatchCall() { intflash_plan_destroy(plan); }
  BatchCall(const BatchCall&) = delete;
  BatchCall& operator=(const BatchCall&) = delete;

  void share(const std::vector<intflash_shared_prefix>& prefixes);
  // Makes plan and workspace.
  intflash_status make_plan(intflash_context* context, const intflash_cache* cache);
  intflash_status run(const intflash_cache* cache);
  std::vector<Result> results() const;  // by request

  Shape shape;
  std::vector<intflash_request> requests;
  std::vector<intflash_additive_mask> additive_masks;
  std::vector<intflash_bit_mask> bit_masks;
  std::vector<intflash_shared_prefix> prefixes;
  std::vector<std::int64_t> page_indptr{0};
  std::vector<std::int32_t> page_ids;
  std::vector<std::int32_t> sequences;
  std::vector<float> query, out, lse;
  intflash_batch_desc desc{};
  intflash_batch_args args{};
  intflash_plan* plan = nullptr;
  AlignedMemory workspace;
  std::size_t workspace_bytes = 0;
};

// [tokens][heads][dim] without gaps.
intflash_tensor tensor_of(const float* data, std::int64_t heads, std::int64_t dim);

}  // namespace intflash::internal::serving
