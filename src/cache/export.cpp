// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "cache/export.h"

#include "core/checks.h"
#include "core/rotation.h"
#include "threads/team.h"

namespace intflash::internal {
namespace {

intflash_status check_target(const char* name, const intflash_tensor* tensor,
                             const intflash_cache& cache, std::int64_t tokens, std::int64_t dim) {
  if (tensor == nullptr) return INTFLASH_OK;
  const TensorView view{name,   tensor, INTFLASH_F32, cache.num_layers, cache.num_kv_heads,
                        tokens, dim};
  const intflash_status status = check_tensor(view);
  return status == INTFLASH_OK ? check_no_overlap(view) : status;
}

float* row_of(const intflash_tensor& tensor, std::int64_t layer, std::int64_t head,
              std::int64_t token) {
  return static_cast<float*>(tensor.data) + (layer == 0 ? 0 : layer * tensor.stride_batch) +
         head * tensor.stride_head + token * tensor.stride_token;
}

// What the codes of a row stand for, and its second digits where it has them.
void dequantize(const std::int8_t* codes, const std::int8_t* digits, float scale, std::int64_t dim,
                bool rotated, const float* center, float* row) {
  for (std::int64_t c = 0; c < dim; ++c) {
    const float digit = digits == nullptr ? 0.0f : static_cast<float>(digits[c]) * 0x1p-8f;
    row[c] = (static_cast<float>(codes[c]) + digit) * scale;
  }
  if (rotated) rotate_back(row, dim);
  if (center == nullptr) return;
  for (std::int64_t c = 0; c < dim; ++c) row[c] += center[c];
}

// Positions [begin, end) of a run of pages, in all layers; what was checked of them is the caller's
// part.
struct Export {
  const intflash_cache& cache;
  PageRun run;
  std::int64_t begin, end;
  const intflash_tensor* key;  // either may be nullptr
  const intflash_tensor* value;
};

// The tokens of one block of 64, which begins at a position.
void export_block(const Export& wanted, std::int64_t layer, std::int64_t kv_head,
                  std::int64_t position) {
  const intflash_cache& cache = wanted.cache;
  PageRun run = wanted.run;
  run.layer = layer;
  const KvBlock block = cache.block(run, kv_head, position);
  const std::int64_t first = std::max<std::int64_t>(wanted.begin - position, 0);
  const std::int64_t end = std::min<std::int64_t>(wanted.end - position, kBlockTokens);
  std::int8_t codes[kMaxHeadDim];
  std::int8_t digits[kMaxHeadDim];
  const bool has_digits = cache.codec->has_digits;
  for (std::int64_t at = first; at < end; ++at) {
    const std::int64_t row = position + at - wanted.begin;
    if (wanted.key != nullptr) {
      cache.codec->load_key(cache.layout, block, at, codes);
      if (has_digits) cache.codec->load_digits(cache.layout, block, at, digits);
      dequantize(codes, has_digits ? digits : nullptr, block.key_scale[at], cache.layout.head_dim,
                 cache.rotation.keys, cache.key_center_of(layer, kv_head),
                 row_of(*wanted.key, layer, kv_head, row));
    }
    if (wanted.value != nullptr) {
      cache.codec->load_value(cache.layout, block, at, codes);
      dequantize(codes, nullptr, block.value_scale[at], cache.layout.head_dim_v,
                 cache.rotation.values, cache.value_center_of(layer, kv_head),
                 row_of(*wanted.value, layer, kv_head, row));
    }
  }
}

intflash_status export_tokens(const Export& wanted) {
  const intflash_cache& cache = wanted.cache;
  const PageLayout& layout = cache.layout;
  const std::int64_t tokens = wanted.end - wanted.begin;
  intflash_status status = check_target("key", wanted.key, cache, tokens, layout.head_dim);
  if (status == INTFLASH_OK)
    status = check_target("value", wanted.value, cache, tokens, layout.head_dim_v);
  if (status != INTFLASH_OK || tokens == 0) return status;
  const std::int64_t first_block = wanted.begin / kBlockTokens;
  const std::int64_t num_blocks = (wanted.end - 1) / kBlockTokens + 1 - first_block;
  const std::int64_t heads = cache.num_layers * cache.num_kv_heads;
  std::atomic<std::int64_t> next;
  for_each_task(cache.context->parallel, workers_for(*cache.context, tokens * heads),
                heads * num_blocks, next, [&](std::int32_t, std::int64_t task) {
                  const std::int64_t head = task / num_blocks;
                  export_block(wanted, head / cache.num_kv_heads, head % cache.num_kv_heads,
                               (first_block + task % num_blocks) * kBlockTokens);
                });
  return INTFLASH_OK;
}

}  // namespace

void export_head(const intflash_cache& cache, const PageRun& run, std::int64_t kv_head,
                 std::int64_t begin, std::int64_t end, float* key, float* value) {
  intflash_tensor keys{};
  keys.data = key;
  keys.stride_token = cache.layout.head_dim;
  intflash_tensor values{};
  values.data = value;
  values.stride_token = cache.layout.head_dim_v;
  const Export wanted = {cache, run, begin, end, &keys, &values};
  for (std::int64_t block = begin / kBlockTokens * kBlockTokens; block < end; block += kBlockTokens)
    export_block(wanted, run.layer, kv_head, block);
}

}  // namespace intflash::internal

using namespace intflash::internal;

extern "C" {

intflash_status intflash_cache_export(const intflash_cache* cache, const int32_t* page_ids,
                                      int64_t begin, int64_t end, const intflash_tensor* key,
                                      const intflash_tensor* value) {
  if (cache == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "cache = NULL: create one first");
  if (begin < 0 || end < begin || end > kMaxExtent) {
    return fail(INTFLASH_BAD_SHAPE, "begin = %lld, end = %lld: must be 0 <= begin <= end <= %lld",
                static_cast<i64>(begin), static_cast<i64>(end), static_cast<i64>(kMaxExtent));
  }
  const std::int64_t page_size = cache->layout.page_size;
  const std::int64_t pages = (end + page_size - 1) / page_size;
  if (page_ids == nullptr && pages > 0)
    return fail(INTFLASH_INVALID_ARGUMENT, "page_ids = NULL: must name the pages");
  const intflash_status status = check_pointer("page_ids", page_ids);
  if (status != INTFLASH_OK) return status;
  for (std::int64_t i = 0; i < pages; ++i) {
    if (page_ids[i] >= 0 && page_ids[i] < cache->num_pages) continue;
    return fail(INTFLASH_INVALID_ARGUMENT, "page_ids[%lld] = %d: must be 0 ... %lld",
                static_cast<i64>(i), page_ids[i], static_cast<i64>(cache->num_pages - 1));
  }
  return export_tokens({*cache, {page_ids, pages, 0, 0}, begin, end, key, value});
}

intflash_status intflash_sequence_export(const intflash_cache* cache, int32_t sequence,
                                         int64_t begin, int64_t end, const intflash_tensor* key,
                                         const intflash_tensor* value) {
  if (cache == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "cache = NULL: create one first");
  const intflash_status status = check_sequence(*cache, sequence);
  if (status != INTFLASH_OK) return status;
  const Sequence& held = cache->sequences[sequence];
  if (begin < held.first_key_position || end < begin || end > held.shortest()) {
    return fail(INTFLASH_BAD_SHAPE,
                "begin = %lld, end = %lld: sequence %d holds positions %lld ... %lld",
                static_cast<i64>(begin), static_cast<i64>(end), sequence,
                static_cast<i64>(held.first_key_position), static_cast<i64>(held.shortest()));
  }
  return export_tokens({*cache, held.run(0), begin, end, key, value});
}

}  // extern "C"
