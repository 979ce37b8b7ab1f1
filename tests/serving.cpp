// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "serving.h"

#include <algorithm>
#include <numeric>
#include <random>

#include <gtest/gtest.h>

#include "cache/kv_cache.h"

namespace intflash::internal::serving {
Server::Server(const Shape& shape) : shape_(shape) {
  if (shape.codec != nullptr && shape.codec->has_f16_values) mode = INTFLASH_MODE_INT8_QK;
  if (shape.centered) {
    const Tokens centers = random_tokens(shape, shape.num_layers, 99);
    key_center_ = centers.key;
    value_center_ = centers.value;
  }
  intflash_context_options options{};
  options.struct_size = sizeof options;
  options.num_threads = shape.num_threads;
  EXPECT_EQ(intflash_context_create(&options, &context_), INTFLASH_OK) << intflash_last_error();
  // Emulated ports, and devices of tests, have no name that the library knows.
  if (shape.port != nullptr) context_->port = shape.port;
  if (shape.device != nullptr) context_->device = shape.device;
  if (shape.nodes != nullptr) context_->nodes = *shape.nodes;
  intflash_cache_options cache{};
  cache.struct_size = sizeof cache;
  cache.num_kv_heads = shape.num_kv_heads;
  cache.head_dim = shape.head_dim;
  cache.head_dim_v = shape.head_dim_v;
  cache.page_size = shape.page_size;
  cache.num_pages = shape.num_pages;
  cache.num_layers = shape.num_layers;
  cache.window_blocks = shape.window_blocks;
  cache.sink_blocks = shape.sink_blocks;
  cache.num_window_pages = shape.num_window_pages;
  cache.rotation = shape.rotate ? INTFLASH_ROTATION_AUTO : INTFLASH_ROTATION_NONE;
  cache.numa = shape.nodes == nullptr ? INTFLASH_NUMA_DEFAULT : INTFLASH_NUMA_BY_NODE;
  cache.key_center = shape.centered ? key_center_.data() : nullptr;
  cache.value_center = shape.centered ? value_center_.data() : nullptr;
  const Codec& codec = shape.codec == nullptr ? kInt8Codec : *shape.codec;
  EXPECT_EQ(internal::create_cache(*context_, cache, codec, cache_), INTFLASH_OK)
      << intflash_last_error();
}

Server::~Server() {
  intflash_cache_destroy(cache_);
  intflash_context_destroy(context_);
}

intflash_append_args Server::append_args(const Tokens& tokens, std::int64_t begin) const {
  intflash_append_args args = serving::append_args(shape_, tokens, begin);
  args.rope = rope;
  args.layer = layer;
  return args;
}

void Server::append(const Tokens& tokens, std::int64_t begin, std::int64_t end,
                    const std::vector<std::int32_t>& pages) {
  const std::int64_t token_indptr[] = {0, end - begin};
  const std::int64_t page_indptr[] = {0, static_cast<std::int64_t>(pages.size())};
  intflash_append_args args = append_args(tokens, begin);
  args.token_indptr = token_indptr;
  args.kv_lens = &begin;
  args.pages = {page_indptr, pages.data()};
  EXPECT_EQ(intflash_cache_append(cache_, &args), INTFLASH_OK) << intflash_last_error();
}

intflash_status Server::append(std::int32_t sequence, const Tokens& tokens, std::int64_t begin,
                               std::int64_t end) {
  return append(sequence, end - begin, append_args(tokens, begin));
}

intflash_status Server::append(std::int32_t sequence, std::int64_t count,
                               intflash_append_args args) {
  const std::int64_t token_indptr[] = {0, count};
  args.token_indptr = token_indptr;
  return intflash_sequences_append(cache_, &sequence, &args);
}

intflash_status Server::append(const std::vector<std::int32_t>& sequences, const Tokens& tokens,
                               const std::vector<std::int64_t>& token_indptr) {
  intflash_append_args args = append_args(tokens, 0);
  args.num_requests = static_cast<std::int64_t>(sequences.size());
  args.token_indptr = token_indptr.data();
  return intflash_sequences_append(cache_, sequences.data(), &args);
}

std::int32_t Server::create_sequence() {
  std::int32_t sequence = -1;
  EXPECT_EQ(intflash_sequence_create(cache_, &sequence), INTFLASH_OK) << intflash_last_error();
  return sequence;
}

std::int64_t Server::free_pages() const {
  intflash_cache_info info{};
  info.struct_size = sizeof info;
  EXPECT_EQ(intflash_cache_get_info(cache_, &info), INTFLASH_OK) << intflash_last_error();
  return info.free_pages;
}

intflash_status Server::status_of(const std::vector<Request>& requests) const {
  BatchCall batch(shape_, requests);
  batch.args.rope = rope;
  batch.args.layer = layer;
  batch.desc.mode = mode;
  EXPECT_EQ(batch.make_plan(context_, cache_), INTFLASH_OK) << intflash_last_error();
  return batch.run(cache_);
}

std::vector<Result> Server::attend(const std::vector<Request>& requests, float score_cap,
                                   const std::vector<intflash_shared_prefix>& prefixes) const {
  BatchCall batch(shape_, requests, score_cap);
  batch.share(prefixes);
  batch.args.rope = rope;
  batch.args.layer = layer;
  batch.desc.mode = mode;
  EXPECT_EQ(batch.make_plan(context_, cache_), INTFLASH_OK) << intflash_last_error();
  EXPECT_EQ(batch.run(cache_), INTFLASH_OK) << intflash_last_error();
  return batch.results();
}

std::vector<Result> Server::attend_by_tasks(
    const std::vector<Request>& requests, std::uint32_t seed, float score_cap,
    const std::vector<intflash_shared_prefix>& prefixes) const {
  std::mt19937 random(seed);
  BatchCall batch(shape_, requests, score_cap);
  batch.share(prefixes);
  batch.args.rope = rope;
  batch.args.layer = layer;
  batch.desc.mode = mode;
  EXPECT_EQ(batch.make_plan(context_, cache_), INTFLASH_OK) << intflash_last_error();
  void* workspace = batch.workspace.get();
  EXPECT_EQ(intflash_begin_batch(batch.plan, cache_, &batch.args, workspace, batch.workspace_bytes),
            INTFLASH_OK)
      << intflash_last_error();
  for (std::int32_t phase = 0; phase < intflash_plan_num_phases(batch.plan); ++phase) {
    std::vector<std::int64_t> tasks(
        static_cast<std::size_t>(intflash_plan_num_tasks(batch.plan, phase)));
    std::iota(tasks.begin(), tasks.end(), 0);
    std::shuffle(tasks.begin(), tasks.end(), random);
    for (const std::int64_t task : tasks) {
      const auto worker =
          static_cast<std::int32_t>(random() % static_cast<unsigned>(shape_.num_threads));
      EXPECT_EQ(intflash_run_task(batch.plan, workspace, phase, task, worker), INTFLASH_OK)
          << intflash_last_error();
    }
  }
  EXPECT_EQ(intflash_end(batch.plan, workspace), INTFLASH_OK) << intflash_last_error();
  return batch.results();
}

Result Server::attend_dense(const Tokens& tokens, const Request& request, float score_cap,
                            intflash_mode mode) const {
  intflash_attend_desc desc{};
  desc.struct_size = sizeof desc;
  desc.mode = mode;
  desc.batch = 1;
  desc.num_query_heads = shape_.num_query_heads();
  desc.num_kv_heads = shape_.num_kv_heads;
  desc.query_len = request.query_len;
  desc.kv_len = request.kv_len;
  desc.head_dim = shape_.head_dim;
  desc.head_dim_v = shape_.head_dim_v;
  desc.query_dtype = desc.key_dtype = desc.value_dtype = desc.out_dtype = INTFLASH_F32;
  desc.mask = request.mask;
  desc.window_left = request.window_left;
  desc.window_right = request.window_right;
  desc.softmax_scale = request.softmax_scale;
  desc.prefix_len = request.prefix_len;
  desc.score_cap = score_cap;
  desc.center = shape_.centered ? INTFLASH_CENTER_KEY_VALUE : INTFLASH_CENTER_NONE;
  desc.rotation = shape_.rotate ? INTFLASH_ROTATION_AUTO : INTFLASH_ROTATION_NONE;
  const bool has_digits = shape_.codec != nullptr && shape_.codec->has_digits;
  desc.score_digits = has_digits ? shape_.score_digits : 1;
  const auto rows = static_cast<std::size_t>(request.query_len * shape_.num_query_heads());
  Result result{std::vector<float>(rows * static_cast<std::size_t>(shape_.head_dim_v)),
                std::vector<float>(rows)};
  intflash_attend_args args{};
  args.struct_size = sizeof args;
  args.query = tensor_of(request.query, shape_.num_query_heads(), shape_.head_dim);
  args.key = tensor_of(tokens.key.data(), shape_.num_kv_heads, shape_.head_dim);
  args.value = tensor_of(tokens.value.data(), shape_.num_kv_heads, shape_.head_dim_v);
  args.out = tensor_of(result.out.data(), shape_.num_query_heads(), shape_.head_dim_v);
  args.lse = result.lse.data();
  const std::int64_t first_head = layer * shape_.num_kv_heads;
  args.key_center = shape_.centered ? key_center_.data() + first_head * shape_.head_dim : nullptr;
  args.value_center =
      shape_.centered ? value_center_.data() + first_head * shape_.head_dim_v : nullptr;
  args.sinks = shape_.sinks.empty() ? nullptr : shape_.sinks.data();
  args.alibi_slopes = shape_.slopes.empty() ? nullptr : shape_.slopes.data();
  args.additive_mask = request.additive;
  args.bit_mask = request.bits;
  EXPECT_EQ(intflash_attend(context_, &desc, &args), INTFLASH_OK) << intflash_last_error();
  return result;
}

}  // namespace intflash::internal::serving
