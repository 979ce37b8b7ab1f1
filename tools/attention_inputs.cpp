// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The shapes of query, key and value: read, compared, turned into a description of a call.
#include "attention_inputs.h"

#include <fmt/format.h>

#include <cstddef>

#include "call.h"
#include "failure.h"

namespace intflash {
namespace {

std::string shape_text(const NpyArray& array) {
  return fmt::format("({})", fmt::join(array.shape, ", "));
}

// Length of an axis counted from the last one; 1 for the batch of a 3-D array.
std::int64_t length(const NpyArray& array, std::size_t axis_from_end) {
  const std::size_t axes = array.shape.size();
  return axis_from_end > axes ? 1 : array.shape[axes - axis_from_end];
}
constexpr std::size_t kBatch = 4, kHeads = 3, kTokens = 2, kDim = 1;

void check_axes(const NpyArray& array, const std::string& path) {
  if (array.shape.size() == 3 || array.shape.size() == 4) return;
  throw Failure(fmt::format(
      "{}: shape {} is neither [heads, tokens, head_dim] nor [batch, heads, tokens, head_dim]",
      path, shape_text(array)));
}

// What the library cannot see: that two files mean different things by the same argument.
void check_equal(const char* what, const NpyArray& a, const std::string& path_a, const NpyArray& b,
                 const std::string& path_b, std::size_t axis_from_end) {
  if (length(a, axis_from_end) == length(b, axis_from_end)) return;
  throw Failure(fmt::format("{}: {} {} of shape {} disagrees with {} of shape {} in {}", path_b,
                            what, length(b, axis_from_end), shape_text(b), length(a, axis_from_end),
                            shape_text(a), path_a));
}

// An array without elements has no address of its own, and null would read as "not given".
void* elements(const NpyArray& array) {
  alignas(64) static std::byte nothing[64] = {};
  if (array.data.empty()) return nothing;
  return const_cast<std::byte*>(array.data.data());  // the library never writes inputs
}

}  // namespace

HeadAxes head_axes(const NpyArray& array, const std::string& path) {
  check_axes(array, path);
  return {length(array, kBatch), length(array, kHeads), length(array, kTokens),
          length(array, kDim)};
}

AttentionInputs read_attention_inputs(const std::string& query, const std::string& key,
                                      const std::string& value) {
  AttentionInputs in = {};
  in.query = read_npy(query);
  in.key = read_npy(key);
  in.value = read_npy(value);
  check_axes(in.query, query);
  check_axes(in.key, key);
  check_axes(in.value, value);
  check_equal("batch", in.query, query, in.key, key, kBatch);
  check_equal("head_dim", in.query, query, in.key, key, kDim);
  check_equal("batch", in.key, key, in.value, value, kBatch);
  check_equal("number of heads", in.key, key, in.value, value, kHeads);
  check_equal("number of tokens", in.key, key, in.value, value, kTokens);
  in.batch = length(in.query, kBatch);
  in.num_query_heads = length(in.query, kHeads);
  in.num_kv_heads = length(in.key, kHeads);
  in.query_len = length(in.query, kTokens);
  in.kv_len = length(in.key, kTokens);
  in.head_dim = length(in.query, kDim);
  in.head_dim_v = length(in.value, kDim);
  // The C interface reads 0 as "the default" for these two.
  if (in.batch == 0) throw Failure(fmt::format("{}: the batch is empty", query));
  if (in.head_dim_v == 0) throw Failure(fmt::format("{}: head_dim is 0", value));
  return in;
}

std::vector<std::int64_t> AttentionInputs::lse_shape() const {
  std::vector<std::int64_t> shape = query.shape;
  shape.pop_back();
  return shape;
}

std::vector<std::int64_t> AttentionInputs::out_shape() const {
  std::vector<std::int64_t> shape = query.shape;
  shape.back() = head_dim_v;
  return shape;
}

intflash_attend_desc AttentionInputs::desc() const {
  intflash_attend_desc desc = attend_desc();
  desc.batch = batch;
  desc.num_query_heads = num_query_heads;
  desc.num_kv_heads = num_kv_heads;
  desc.query_len = query_len;
  desc.kv_len = kv_len;
  desc.head_dim = head_dim;
  desc.head_dim_v = head_dim_v;
  desc.query_dtype = query.dtype;
  desc.key_dtype = key.dtype;
  desc.value_dtype = value.dtype;
  return desc;
}

intflash_attend_args AttentionInputs::args() const {
  intflash_attend_args args = attend_args();
  args.query = contiguous(elements(query), num_query_heads, query_len, head_dim);
  args.key = contiguous(elements(key), num_kv_heads, kv_len, head_dim);
  args.value = contiguous(elements(value), num_kv_heads, kv_len, head_dim_v);
  return args;
}

}  // namespace intflash
