// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A cache of one layer, with a sequence for each element of the arrays' batch.
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
  options.num_pages =
      std::max<std::int64_t>(inputs.batch * ((inputs.kv_len + kPageSize - 1) / kPageSize), 1);
  options.key_center = centers.key;
  options.value_center = centers.value;
  options.codec = form.codec;
  options.window_blocks = form.window_blocks;
  options.sink_blocks = form.sink_blocks;
  return Cache(context, options);
}

intflash_tensor from(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                     std::int64_t token) {
  intflash_tensor part = tensor;
  part.data = const_cast<void*>(internal::rows_of(tensor, dtype, b, 0, token).data);
  return part;
}

struct Call {
  const Context& context;
  const intflash_attend_desc& desc;
  intflash_attend_args arrays;
};

// Tokens [begin, end) of element b.
void append(Cache& cache, const Sequence& sequence, const Call& call, std::int64_t b,
            std::int64_t begin, std::int64_t end) {
  if (begin >= end) return;
  const std::int64_t token_indptr[] = {0, end - begin};
  const std::int32_t number = sequence.number();
  intflash_append_args args = append_args();
  args.num_requests = 1;
  args.token_indptr = token_indptr;
  args.key_dtype = call.desc.key_dtype;
  args.value_dtype = call.desc.value_dtype;
  args.key = from(call.arrays.key, call.desc.key_dtype, b, begin);
  args.value = from(call.arrays.value, call.desc.value_dtype, b, begin);
  cache.append(&number, args);
}

// The rows of a run that see keys, of element b, to the end of out [heads][run's rows][dim].
void attend(const Cache& cache, const Sequence& sequence, const Call& call, std::int64_t b,
            const RowRun& run, std::int64_t end, float* out) {
  const bool causal = call.desc.mask == INTFLASH_MASK_CAUSAL;
  const std::int64_t seeing = causal ? std::min(run.rows, end) : run.rows;
  if (seeing == 0 || end == 0) return;
  intflash_request request{};
  request.kv_len = end;
  request.query_len = causal ? seeing : 1;  // else each row is a request of its own
  request.mask = INTFLASH_MASK_CAUSAL;
  request.softmax_scale = call.desc.softmax_scale;
  const auto count = static_cast<std::size_t>(causal ? 1 : seeing);
  const std::vector<intflash_request> requests(count, request);
  const std::vector<std::int32_t> sequences(count, sequence.number());
  intflash_batch_desc desc = batch_desc();
  if (cache.info().codec == INTFLASH_CODEC_K8V16) desc.mode = INTFLASH_MODE_INT8_QK;
  desc.num_requests = static_cast<std::int64_t>(count);
  desc.requests = requests.data();
  desc.num_query_heads = call.desc.num_query_heads;
  desc.query_dtype = call.desc.query_dtype;
  const std::int64_t blind = run.rows - seeing;
  intflash_batch_args args = batch_args();
  args.query = from(call.arrays.query, desc.query_dtype, b, run.first + blind);
  args.out = from(contiguous(out, desc.num_query_heads, run.rows, call.desc.head_dim_v),
                  INTFLASH_F32, 0, blind);
  args.sequences = sequences.data();
  const Plan plan(call.context, cache, desc);
  Workspace workspace = plan.make_workspace();
  plan.run(cache, args, workspace);
}

}  // namespace

CacheAttention attend_over_cache(const Context& context, const intflash_attend_desc& desc,
                                 const AttentionInputs& inputs, const CacheForm& form,
                                 const std::vector<RowRun>& runs, const Centers& centers) {
  Cache cache = create_cache(context, inputs, form, centers);
  const intflash_cache_info info = cache.info();
  const auto block_bytes = static_cast<std::int64_t>(info.page_bytes);
  CacheAttention result{
      HeadOuts(static_cast<std::size_t>(desc.num_query_heads)), block_bytes,
      info.window_blocks == 0 ? block_bytes : static_cast<std::int64_t>(info.window_page_bytes)};
  std::vector<Sequence> sequences;
  for (std::int64_t b = 0; b < desc.batch; ++b) sequences.emplace_back(cache);
  const Call call{context, desc, inputs.args()};
  std::int64_t stored = 0;
  for (const RowRun& run : runs) {
    const std::int64_t last = desc.kv_len - desc.query_len + run.first + run.rows;
    const std::int64_t end =
        desc.mask == INTFLASH_MASK_CAUSAL ? std::max<std::int64_t>(last, 0) : desc.kv_len;
    const std::int64_t size = run.rows * desc.head_dim_v;
    for (std::int64_t b = 0; b < desc.batch; ++b) {
      const Sequence& sequence = sequences[static_cast<std::size_t>(b)];
      append(cache, sequence, call, b, stored, end);
      std::vector<float> out(static_cast<std::size_t>(desc.num_query_heads * size));
      attend(cache, sequence, call, b, run, end, out.data());
      for (std::int64_t h = 0; h < desc.num_query_heads; ++h) {
        std::vector<float>& of_head = result.outs[static_cast<std::size_t>(h)];
        of_head.insert(of_head.end(), out.begin() + h * size, out.begin() + (h + 1) * size);
      }
    }
    stored = std::max(stored, end);
  }
  return result;
}

}  // namespace intflash
