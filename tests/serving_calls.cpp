// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "serving_calls.h"

#include <numeric>
#include <random>

#include <gtest/gtest.h>

namespace intflash::internal::serving {

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

intflash_tensor tensor_of(const float* data, std::int64_t heads, std::int64_t dim) {
  intflash_tensor tensor{};
  tensor.data = const_cast<float*>(data);
  tensor.stride_head = dim;
  tensor.stride_token = heads * dim;
  return tensor;
}

AlignedMemory aligned_memory(std::size_t bytes) {
  return AlignedMemory(std::aligned_alloc(64, (bytes + 127) / 64 * 64));
}

Request request_of(const intflash_cache* cache, std::int32_t sequence) {
  Request request;
  request.sequence = sequence;
  const std::int32_t* pages = nullptr;
  std::int64_t count = 0;
  EXPECT_EQ(intflash_sequence_get_pages(cache, sequence, &pages, &count), INTFLASH_OK);
  EXPECT_EQ(
      intflash_sequence_get_range(cache, sequence, &request.first_key_position, &request.kv_len),
      INTFLASH_OK);
  request.pages.assign(pages, pages + count);
  return request;
}

intflash_append_args append_args(const Shape& shape, const Tokens& tokens, std::int64_t begin) {
  intflash_append_args args{};
  args.struct_size = sizeof args;
  args.num_requests = 1;
  args.key_dtype = args.value_dtype = INTFLASH_F32;
  args.key = tensor_of(tokens.key.data() + begin * shape.num_kv_heads * shape.head_dim,
                       shape.num_kv_heads, shape.head_dim);
  args.value = tensor_of(tokens.value.data() + begin * shape.num_kv_heads * shape.head_dim_v,
                         shape.num_kv_heads, shape.head_dim_v);
  return args;
}

BatchCall::BatchCall(const Shape& shape, const std::vector<Request>& given, float score_cap)
    : shape(shape) {
  std::int64_t rows = 0;
  for (const Request& request : given) {
    intflash_request& filled = requests.emplace_back();
    filled.query_len = request.query_len;
    filled.kv_len = request.kv_len;
    filled.first_key_position = request.first_key_position;
    filled.mask = request.mask;
    filled.window_left = request.window_left;
    filled.window_right = request.window_right;
    filled.softmax_scale = request.softmax_scale;
    filled.prefix_len = request.prefix_len;
    filled.key_begin = request.key_begin;
    filled.key_end = request.key_end;
    page_ids.insert(page_ids.end(), request.pages.begin(), request.pages.end());
    page_indptr.push_back(static_cast<std::int64_t>(page_ids.size()));
    sequences.push_back(request.sequence);
    query.insert(query.end(), request.query,
                 request.query + request.query_len * shape.num_query_heads() * shape.head_dim);
    additive_masks.push_back(request.additive);
    bit_masks.push_back(request.bits);
    rows += request.query_len;
  }
  page_ids.push_back(-1);  // data() is never null
  out.resize(static_cast<std::size_t>(rows * shape.num_query_heads() * shape.head_dim_v));
  lse.resize(static_cast<std::size_t>(rows * shape.num_query_heads()));
  desc.struct_size = sizeof desc;
  desc.request_size = sizeof(intflash_request);
  desc.shared_prefix_size = sizeof(intflash_shared_prefix);
  desc.num_requests = static_cast<std::int64_t>(requests.size());
  desc.requests = requests.data();
  desc.num_query_heads = shape.num_query_heads();
  desc.query_dtype = desc.out_dtype = INTFLASH_F32;
  desc.score_cap = score_cap;
  desc.score_digits = shape.score_digits;
  args.struct_size = sizeof args;
  args.additive_mask_size = sizeof(intflash_additive_mask);
  args.bit_mask_size = sizeof(intflash_bit_mask);
  args.state_size = sizeof(intflash_state);
  args.query = tensor_of(query.data(), shape.num_query_heads(), shape.head_dim);
  args.out = tensor_of(out.data(), shape.num_query_heads(), shape.head_dim_v);
  args.lse = lse.data();
  if (shape.window_blocks > 0) {
    args.sequences = sequences.data();
  } else {
    args.pages = {page_indptr.data(), page_ids.data()};
  }
  // Of the member: the parameter goes.
  args.sinks = this->shape.sinks.empty() ? nullptr : this->shape.sinks.data();
  args.alibi_slopes = this->shape.slopes.empty() ? nullptr : this->shape.slopes.data();
  args.additive_masks = additive_masks.data();
  args.bit_masks = bit_masks.data();
}

void BatchCall::share(const std::vector<intflash_shared_prefix>& given) {
  prefixes = given;
  desc.shared_prefixes = prefixes.data();
  desc.num_shared_prefixes = static_cast<std::int64_t>(prefixes.size());
}

intflash_status BatchCall::make_plan(intflash_context* context, const intflash_cache* cache) {
  const intflash_status status = intflash_plan_batch(context, cache, &desc, &plan);
  workspace_bytes = intflash_plan_workspace_bytes(plan);
  workspace = aligned_memory(workspace_bytes);
  return status;
}

intflash_status BatchCall::run(const intflash_cache* cache) {
  return intflash_run_batch(plan, cache, &args, workspace.get(), workspace_bytes);
}

std::vector<Result> BatchCall::results() const {
  std::vector<Result> results;
  const auto heads = static_cast<std::size_t>(shape.num_query_heads());
  const std::size_t all_rows = lse.size() / heads;
  std::size_t first = 0;
  for (const intflash_request& request : requests) {
    Result result;
    const std::size_t end = first + static_cast<std::size_t>(request.query_len);
    const std::size_t row_floats = heads * static_cast<std::size_t>(shape.head_dim_v);
    const auto at = [&](std::size_t row) {
      return out.begin() + static_cast<std::ptrdiff_t>(row * row_floats);
    };
    result.out.assign(at(first), at(end));
    for (std::size_t h = 0; h < heads; ++h)
      for (std::size_t row = first; row < end; ++row) result.lse.push_back(lse[h * all_rows + row]);
    results.push_back(result);
    first = end;
  }
  return results;
}

}  // namespace intflash::internal::serving
