// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A cache of one layer, a sequence and a batch for each element of the arrays' batch.
#include "cache_attend.h"

#include <algorithm>
#include <cstddef>

#include "inputs/token_rows.h"

namespace intflash {
namespace {

constexpr std::int64_t kPageSize = 64;

Cache create_cache(const Context& context, const AttentionInputs& inputs, const CacheForm& form,
                   const Centers& centers) {
  intflash_cache_options options = cache_options();
  options.num_kv_heads = inputs.num_kv_heads;
  options.head_dim = inputs.head_dim;
  options.head_dim_v = inputs.head_dim_v;
  options.page_size = kPageSize;
  options.num_pages = std::max<std::int64_t>((inputs.kv_len + kPageSize - 1) / kPageSize, 1);
  options.key_center = centers.key;
  options.value_center = centers.value;
  options.codec = form.codec;
  options.window_blocks = form.window_blocks;
  options.sink_blocks = form.sink_blocks;
  return Cache(context, options);
}

intflash_tensor of_batch(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                         std::int64_t token) {
  intflash_tensor part = tensor;
  part.data = const_cast<void*>(internal::rows_of(tensor, dtype, b, 0, token).data);
  return part;
}

void append(Cache& cache, const Sequence& sequence, const intflash_attend_desc& desc,
            const intflash_attend_args& arrays, std::int64_t b) {
  const std::int64_t token_indptr[] = {0, desc.kv_len};
  const std::int32_t number = sequence.number();
  intflash_append_args args = append_args();
  args.num_requests = 1;
  args.token_indptr = token_indptr;
  args.key_dtype = desc.key_dtype;
  args.value_dtype = desc.value_dtype;
  args.key = of_batch(arrays.key, desc.key_dtype, b, 0);
  args.value = of_batch(arrays.value, desc.value_dtype, b, 0);
  cache.append(&number, args);
}

// Rows of one request; or, where they see all keys, a request for each.
std::vector<intflash_request> requests_of(const intflash_attend_desc& desc, std::int64_t rows) {
  intflash_request request{};
  request.kv_len = desc.kv_len;
  request.mask = INTFLASH_MASK_CAUSAL;
  request.softmax_scale = desc.softmax_scale;
  const bool causal = desc.mask == INTFLASH_MASK_CAUSAL;
  request.query_len = causal ? rows : 1;
  return std::vector<intflash_request>(static_cast<std::size_t>(causal ? 1 : rows), request);
}

}  // namespace

CacheAttention attend_over_cache(const Context& context, const intflash_attend_desc& desc,
                                 const AttentionInputs& inputs, const CacheForm& form,
                                 const Centers& centers) {
  Cache cache = create_cache(context, inputs, form, centers);
  const intflash_cache_info info = cache.info();
  const auto per_token = [&](std::size_t page_bytes) {
    return static_cast<double>(page_bytes) / static_cast<double>(kPageSize * inputs.num_kv_heads);
  };
  CacheAttention result{{}, per_token(info.page_bytes), per_token(info.page_bytes)};
  if (info.window_blocks > 0) result.window_bytes_per_token = per_token(info.window_page_bytes);
  result.out.resize(static_cast<std::size_t>(inputs.num_out_elements()));

  // Leading rows that see no key stand before the first position.
  const std::int64_t skipped = desc.mask == INTFLASH_MASK_CAUSAL
                                   ? std::max<std::int64_t>(desc.query_len - desc.kv_len, 0)
                                   : 0;
  const std::vector<intflash_request> requests = requests_of(desc, desc.query_len - skipped);
  intflash_batch_desc batch = batch_desc();
  batch.num_requests = static_cast<std::int64_t>(requests.size());
  batch.requests = requests.data();
  batch.num_query_heads = desc.num_query_heads;
  batch.query_dtype = desc.query_dtype;
  const Plan plan(context, cache, batch);
  Workspace workspace = plan.make_workspace();
  const intflash_attend_args arrays = inputs.args();
  const intflash_tensor out =
      contiguous(result.out.data(), desc.num_query_heads, desc.query_len, desc.head_dim_v);
  for (std::int64_t b = 0; b < desc.batch && desc.kv_len > 0; ++b) {
    const Sequence sequence(cache);
    append(cache, sequence, desc, arrays, b);
    const std::vector<std::int32_t> sequences(requests.size(), sequence.number());
    intflash_batch_args args = batch_args();
    args.query = of_batch(arrays.query, desc.query_dtype, b, skipped);
    args.out = of_batch(out, INTFLASH_F32, b, skipped);
    args.sequences = sequences.data();
    plan.run(cache, args, workspace);
  }
  return result;
}

}  // namespace intflash
