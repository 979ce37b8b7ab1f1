// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "batched_cases.h"

#include <algorithm>
#include <cstring>

#include "cache/kv_cache.h"
#include "element.h"
#include "intflash/cache.h"
#include "pages/codec.h"

namespace intflash::internal {
namespace {

constexpr std::int64_t kPageSize = 64;

class Batch {
 public:
  Batch(std::vector<BatchedCase>& cases, const PortEntry& port, Random& random)
      : cases_(cases),
        first_(*cases[0].attention),
        context_(make_context(port, {})),
        random_(random) {}
  ~Batch() {
    intflash_plan_destroy(plan_);
    intflash_cache_destroy(cache_);
  }
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  BatchOutcome run() {
    intflash_status status = make_cache();
    for (std::size_t r = 0; r < cases_.size() && status == INTFLASH_OK; ++r)
      status = append(cases_[r]);
    if (status == INTFLASH_OK) status = attend();
    if (status != INTFLASH_OK) return {status, intflash_last_error()};
    std::int64_t first_row = 0;
    for (BatchedCase& one : cases_) {
      take_numbers(one, first_row);
      first_row += one.attention->query_len;
    }
    return {INTFLASH_OK, ""};
  }

 private:
  std::int64_t heads() const { return first_.num_kv_heads * first_.group_size; }

  intflash_status make_cache() {
    intflash_cache_options options{};
    options.struct_size = sizeof options;
    options.num_kv_heads = first_.num_kv_heads;
    options.head_dim = first_.head_dim;
    options.head_dim_v = first_.head_dim_v;
    for (const BatchedCase& one : cases_)
      options.num_pages += (one.attention->kv_len + kPageSize - 1) / kPageSize;
    if (first_.center != INTFLASH_CENTER_NONE)
      options.key_center = cases_[0].tensors->args.key_center;
    if (first_.center == INTFLASH_CENTER_KEY_VALUE)
      options.value_center = cases_[0].tensors->args.value_center;
    options.rotation = first_.rotate ? INTFLASH_ROTATION_AUTO : INTFLASH_ROTATION_NONE;
    const Codec& codec = first_.mode == INTFLASH_MODE_INT8_QK ? kK8v16Codec
                         : first_.score_digits == 1           ? kInt8Codec
                                                              : kInt8WideCodec;
    return create_cache(context_, options, codec, cache_);
  }

  // Rows of a tensor from a token on; scales are per token.
  static intflash_tensor tokens_from(intflash_tensor tensor, intflash_dtype dtype,
                                     std::int64_t token) {
    tensor.data =
        static_cast<std::byte*>(tensor.data) + bytes_of(dtype, token * tensor.stride_token);
    if (tensor.scale != nullptr) tensor.scale += token;
    return tensor;
  }

  intflash_status append(const BatchedCase& one) {
    std::int32_t sequence = -1;
    intflash_status status = intflash_sequence_create(cache_, &sequence);
    sequences_.push_back(sequence);
    const AttentionCase& c = *one.attention;
    for (std::int64_t token = 0; token < c.kv_len && status == INTFLASH_OK;) {
      const std::int64_t count = 1 + random_.below(c.kv_len - token);
      const std::int64_t token_indptr[] = {0, count};
      intflash_append_args args{};
      args.struct_size = sizeof args;
      args.num_requests = 1;
      args.token_indptr = token_indptr;
      args.key_dtype = c.key.dtype;
      args.value_dtype = c.value.dtype;
      args.key = tokens_from(one.tensors->args.key, c.key.dtype, token);
      args.value = tokens_from(one.tensors->args.value, c.value.dtype, token);
      status = intflash_sequences_append(cache_, &sequence, &args);
      token += count;
    }
    return status;
  }

  // The queries of all cases, one after another.
  intflash_tensor gather_queries() {
    const intflash_dtype dtype = first_.query.dtype;
    const auto row_bytes = static_cast<std::size_t>(bytes_of(dtype, first_.head_dim));
    intflash_tensor all{};
    all.stride_token = first_.head_dim;
    all.stride_head = num_rows_ * first_.head_dim;
    auto* to = memory_.take(row_bytes * static_cast<std::size_t>(heads() * num_rows_));
    all.data = to;
    float* scale =
        reinterpret_cast<float*>(memory_.take(static_cast<std::size_t>(heads() * num_rows_) * 4));
    all.scale = dtype == INTFLASH_INT8 ? scale : nullptr;
    all.scale_stride_head = num_rows_;
    all.scale_block = 1;
    for (std::int64_t h = 0; h < heads(); ++h) {
      for (const BatchedCase& one : cases_) {
        const intflash_tensor& query = one.tensors->args.query;
        for (std::int64_t i = 0; i < one.attention->query_len; ++i, to += row_bytes, ++scale) {
          const std::int64_t at = h * query.stride_head + i * query.stride_token;
          const auto* from = static_cast<const std::byte*>(query.data) + bytes_of(dtype, at);
          std::memcpy(to, from, row_bytes);
          if (all.scale != nullptr) *scale = query.scale[h * query.scale_stride_head + i];
        }
      }
    }
    return all;
  }

  void describe_requests() {
    for (const BatchedCase& one : cases_) {
      const AttentionCase& c = *one.attention;
      intflash_request request{};
      request.query_len = c.query_len;
      request.kv_len = c.kv_len;
      request.mask = c.mask;
      request.window_left = c.window_left;
      request.window_right = c.window_right;
      request.softmax_scale = c.softmax_scale;
      request.prefix_len = c.prefix_len;
      requests_.push_back(request);
      additive_masks_.push_back(one.tensors->args.additive_mask);
      bit_masks_.push_back(one.tensors->args.bit_mask);
      num_rows_ += c.query_len;
    }
  }

  intflash_status attend() {
    describe_requests();
    intflash_batch_desc desc{};
    desc.struct_size = sizeof desc;
    desc.request_size = sizeof(intflash_request);
    desc.num_requests = static_cast<std::int64_t>(requests_.size());
    desc.requests = requests_.data();
    desc.num_query_heads = heads();
    desc.query_dtype = first_.query.dtype;
    desc.out_dtype = first_.out.dtype;
    desc.mode = first_.mode;
    desc.score_cap = first_.score_cap;
    desc.score_digits = first_.score_digits;
    const intflash_status planned = intflash_plan_batch(&context_, cache_, &desc, &plan_);
    if (planned != INTFLASH_OK) return planned;

    intflash_batch_args args{};
    args.struct_size = sizeof args;
    args.additive_mask_size = sizeof(intflash_additive_mask);
    args.bit_mask_size = sizeof(intflash_bit_mask);
    args.query = gather_queries();
    std::int64_t elements = 0;
    out_ = strided_tensor(Layout::kHeadsFirst, 1, heads(), num_rows_, first_.head_dim_v, &elements);
    out_.data = memory_.take(static_cast<std::size_t>(bytes_of(first_.out.dtype, elements)));
    args.out = out_;
    lse_.resize(static_cast<std::size_t>(heads() * num_rows_));
    args.lse = lse_.data();
    args.sinks = cases_[0].tensors->args.sinks;
    args.alibi_slopes = cases_[0].tensors->args.alibi_slopes;
    args.additive_masks = additive_masks_.data();
    args.bit_masks = bit_masks_.data();
    args.sequences = sequences_.data();
    const std::size_t bytes = intflash_plan_workspace_bytes(plan_);
    return intflash_run_batch(plan_, cache_, &args, memory_.take(bytes), bytes);
  }

  void take_numbers(BatchedCase& one, std::int64_t first_row) const {
    for (std::int64_t h = 0; h < heads(); ++h) {
      for (std::int64_t i = first_row; i < first_row + one.attention->query_len; ++i) {
        for (std::int64_t channel = 0; channel < first_.head_dim_v; ++channel)
          one.found.out.push_back(element_of(out_, first_.out.dtype, 0, h, i, channel));
        one.found.lse.push_back(
            static_cast<double>(lse_[static_cast<std::size_t>(h * num_rows_ + i)]));
      }
    }
  }

  std::vector<BatchedCase>& cases_;
  const AttentionCase& first_;
  intflash_context context_;
  Random& random_;
  Memory memory_;
  intflash_cache* cache_ = nullptr;
  intflash_plan* plan_ = nullptr;
  std::vector<std::int32_t> sequences_;
  std::vector<intflash_request> requests_;
  std::vector<intflash_additive_mask> additive_masks_;
  std::vector<intflash_bit_mask> bit_masks_;
  std::int64_t num_rows_ = 0;
  intflash_tensor out_{};
  std::vector<float> lse_;
};

}  // namespace

BatchOutcome run_as_batch(std::vector<BatchedCase>& cases, const PortEntry& port, Random& random) {
  return Batch(cases, port, random).run();
}

}  // namespace intflash::internal
