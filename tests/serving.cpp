// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "serving.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>

namespace intflash::serving {
namespace {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using AlignedMemory = std::unique_ptr<void, Free>;

AlignedMemory aligned(std::size_t bytes) {
  return AlignedMemory(std::aligned_alloc(64, (bytes + 127) / 64 * 64));
}

intflash_tensor tensor_of(const float* data, std::int64_t heads, std::int64_t dim) {
  intflash_tensor tensor{};
  tensor.data = const_cast<float*>(data);
  tensor.stride_head = dim;
  tensor.stride_token = heads * dim;
  return tensor;
}

}  // namespace

Tokens random_tokens(const Shape& shape, std::int64_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const auto fill = [&](std::int64_t dims) {
    std::vector<float> values(static_cast<std::size_t>(count * dims));
    for (float& value : values) value = normal(random);
    return values;
  };
  Tokens tokens;
  tokens.query = fill(shape.num_query_heads() * shape.head_dim);
  tokens.key = fill(shape.num_kv_heads * shape.head_dim);
  tokens.value = fill(shape.num_kv_heads * shape.head_dim_v);
  tokens.count = count;
  return tokens;
}

std::vector<std::int32_t> page_range(std::int32_t first, std::int64_t count) {
  std::vector<std::int32_t> pages(static_cast<std::size_t>(count));
  std::iota(pages.begin(), pages.end(), first);
  return pages;
}

Server::Server(const Shape& shape) : shape_(shape) {
  if (shape.centered) {
    const Tokens centers = random_tokens(shape, 1, 99);
    key_center_ = centers.key;
    value_center_ = centers.value;
  }
  intflash_context_options options{};
  options.struct_size = sizeof options;
  options.num_threads = shape.num_threads;
  options.isa = shape.isa.empty() ? nullptr : shape.isa.c_str();
  EXPECT_EQ(intflash_context_create(&options, &context_), INTFLASH_OK) << intflash_last_error();
  intflash_cache_options cache{};
  cache.struct_size = sizeof cache;
  cache.num_kv_heads = shape.num_kv_heads;
  cache.head_dim = shape.head_dim;
  cache.head_dim_v = shape.head_dim_v;
  cache.page_size = shape.page_size;
  cache.num_pages = shape.num_pages;
  cache.rotate = shape.rotate ? 1 : 0;
  cache.key_center = shape.centered ? key_center_.data() : nullptr;
  cache.value_center = shape.centered ? value_center_.data() : nullptr;
  EXPECT_EQ(intflash_cache_create(context_, &cache, &cache_), INTFLASH_OK) << intflash_last_error();
}

Server::~Server() {
  intflash_cache_destroy(cache_);
  intflash_context_destroy(context_);
}

intflash_append_args Server::append_args(const Tokens& tokens, std::int64_t begin) const {
  intflash_append_args args{};
  args.struct_size = sizeof args;
  args.num_requests = 1;
  args.key_dtype = args.value_dtype = INTFLASH_F32;
  args.key = tensor_of(tokens.key.data() + begin * shape_.num_kv_heads * shape_.head_dim,
                       shape_.num_kv_heads, shape_.head_dim);
  args.value = tensor_of(tokens.value.data() + begin * shape_.num_kv_heads * shape_.head_dim_v,
                         shape_.num_kv_heads, shape_.head_dim_v);
  args.rope = rope;
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

Request Server::request_of(std::int32_t sequence) const {
  Request request;
  const std::int32_t* pages = nullptr;
  std::int64_t count = 0;
  EXPECT_EQ(intflash_sequence_get_pages(cache_, sequence, &pages, &count), INTFLASH_OK);
  EXPECT_EQ(
      intflash_sequence_get_range(cache_, sequence, &request.first_key_position, &request.kv_len),
      INTFLASH_OK);
  request.pages.assign(pages, pages + count);
  return request;
}

struct Server::Batch {
  std::vector<intflash_request> requests;
  std::vector<std::int64_t> page_indptr{0};
  std::vector<std::int32_t> page_ids;
  std::vector<float> query, out, lse;
  intflash_batch_desc desc{};
  intflash_batch_args args{};
  intflash_batch_plan* plan = nullptr;
  AlignedMemory workspace;
  std::size_t workspace_bytes = 0;

  ~Batch() { intflash_batch_plan_destroy(plan); }

  std::vector<Result> results(const Shape& shape) const {
    std::vector<Result> results;
    auto out_at = out.begin();
    auto lse_at = lse.begin();
    for (const intflash_request& request : requests) {
      const auto rows = static_cast<std::ptrdiff_t>(request.query_len * shape.num_query_heads());
      const auto out_end = out_at + rows * static_cast<std::ptrdiff_t>(shape.head_dim_v);
      results.push_back({{out_at, out_end}, {lse_at, lse_at + rows}});
      out_at = out_end;
      lse_at += rows;
    }
    return results;
  }
};

void Server::fill(const std::vector<Request>& requests, float score_cap, Batch& batch) const {
  std::int64_t rows = 0;
  for (const Request& request : requests) {
    intflash_request given{};
    given.query_len = request.query_len;
    given.kv_len = request.kv_len;
    given.first_key_position = request.first_key_position;
    given.mask = request.mask;
    given.window_left = request.window_left;
    given.window_right = request.window_right;
    given.softmax_scale = request.softmax_scale;
    batch.requests.push_back(given);
    batch.page_ids.insert(batch.page_ids.end(), request.pages.begin(), request.pages.end());
    batch.page_indptr.push_back(static_cast<std::int64_t>(batch.page_ids.size()));
    batch.query.insert(
        batch.query.end(), request.query,
        request.query + request.query_len * shape_.num_query_heads() * shape_.head_dim);
    rows += request.query_len;
  }
  batch.page_ids.push_back(-1);  // data() is never null
  batch.out.resize(static_cast<std::size_t>(rows * shape_.num_query_heads() * shape_.head_dim_v));
  batch.lse.resize(static_cast<std::size_t>(rows * shape_.num_query_heads()));
  batch.desc.struct_size = sizeof batch.desc;
  batch.desc.num_requests = static_cast<std::int64_t>(requests.size());
  batch.desc.requests = batch.requests.data();
  batch.desc.num_query_heads = shape_.num_query_heads();
  batch.desc.query_dtype = batch.desc.out_dtype = INTFLASH_F32;
  batch.desc.score_cap = score_cap;
  batch.args.struct_size = sizeof batch.args;
  batch.args.query = tensor_of(batch.query.data(), shape_.num_query_heads(), shape_.head_dim);
  batch.args.out = tensor_of(batch.out.data(), shape_.num_query_heads(), shape_.head_dim_v);
  batch.args.lse = batch.lse.data();
  batch.args.rope = rope;
  batch.args.pages = {batch.page_indptr.data(), batch.page_ids.data()};
  ASSERT_EQ(intflash_plan_batch(context_, cache_, &batch.desc, &batch.plan), INTFLASH_OK)
      << intflash_last_error();
  batch.workspace_bytes = intflash_batch_workspace_bytes(batch.plan);
  batch.workspace = aligned(batch.workspace_bytes);
}

std::vector<Result> Server::attend(const std::vector<Request>& requests, float score_cap) const {
  Batch batch;
  fill(requests, score_cap, batch);
  EXPECT_EQ(intflash_batch_run(batch.plan, cache_, &batch.args, batch.workspace.get(),
                               batch.workspace_bytes),
            INTFLASH_OK)
      << intflash_last_error();
  return batch.results(shape_);
}

intflash_status Server::status_of(const std::vector<Request>& requests) const {
  Batch batch;
  fill(requests, 0, batch);
  return intflash_batch_run(batch.plan, cache_, &batch.args, batch.workspace.get(),
                            batch.workspace_bytes);
}

std::vector<Result> Server::attend_by_tasks(const std::vector<Request>& requests,
                                            std::uint32_t seed) const {
  std::mt19937 random(seed);
  Batch batch;
  fill(requests, 0, batch);
  void* workspace = batch.workspace.get();
  EXPECT_EQ(intflash_batch_begin(batch.plan, cache_, &batch.args, workspace, batch.workspace_bytes),
            INTFLASH_OK)
      << intflash_last_error();
  for (std::int32_t phase = 0; phase < intflash_batch_num_phases(batch.plan); ++phase) {
    std::vector<std::int64_t> tasks(
        static_cast<std::size_t>(intflash_batch_num_tasks(batch.plan, phase)));
    std::iota(tasks.begin(), tasks.end(), 0);
    std::shuffle(tasks.begin(), tasks.end(), random);
    for (const std::int64_t task : tasks) {
      const auto worker =
          static_cast<std::int32_t>(random() % static_cast<unsigned>(shape_.num_threads));
      intflash_batch_run_task(batch.plan, workspace, phase, task, worker);
    }
  }
  EXPECT_EQ(intflash_batch_end(batch.plan, workspace), INTFLASH_OK) << intflash_last_error();
  return batch.results(shape_);
}

Result Server::attend_dense(const Tokens& tokens, const Request& request, float score_cap,
                            intflash_mode mode) const {
  intflash_attend_desc desc{};
  desc.struct_size = sizeof desc;
  desc.mode = mode;
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
  desc.score_cap = score_cap;
  desc.center = shape_.centered ? INTFLASH_CENTER_KEY_VALUE : INTFLASH_CENTER_NONE;
  desc.rotate = shape_.rotate ? 1 : 0;
  const auto rows = static_cast<std::size_t>(request.query_len * shape_.num_query_heads());
  Result result{std::vector<float>(rows * static_cast<std::size_t>(shape_.head_dim_v)),
                std::vector<float>(rows)};
  std::vector<float> lse(rows);  // [heads][query_len]
  intflash_attend_args args{};
  args.struct_size = sizeof args;
  args.query = tensor_of(request.query, shape_.num_query_heads(), shape_.head_dim);
  args.key = tensor_of(tokens.key.data(), shape_.num_kv_heads, shape_.head_dim);
  args.value = tensor_of(tokens.value.data(), shape_.num_kv_heads, shape_.head_dim_v);
  args.out = tensor_of(result.out.data(), shape_.num_query_heads(), shape_.head_dim_v);
  args.lse = lse.data();
  args.key_center = shape_.centered ? key_center_.data() : nullptr;
  args.value_center = shape_.centered ? value_center_.data() : nullptr;
  EXPECT_EQ(intflash_attend(context_, &desc, &args), INTFLASH_OK) << intflash_last_error();
  for (std::int64_t head = 0; head < shape_.num_query_heads(); ++head) {
    for (std::int64_t row = 0; row < request.query_len; ++row)
      result.lse[static_cast<std::size_t>(row * shape_.num_query_heads() + head)] =
          lse[static_cast<std::size_t>(head * request.query_len + row)];
  }
  return result;
}

}  // namespace intflash::serving
