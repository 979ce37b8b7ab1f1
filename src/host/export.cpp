// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <atomic>

#include "core/rotation.h"
#include "host/host_pages.h"
#include "host/host_storage.h"
#include "pages/codec.h"
#include "threads/team.h"
#include "tile/halves.h"
#include "tile/limits.h"

namespace intflash::internal {
namespace {

float* row_of(const intflash_tensor& tensor, std::int64_t layer, std::int64_t head,
              std::int64_t token) {
  return static_cast<float*>(tensor.data) + (layer == 0 ? 0 : layer * tensor.stride_batch) +
         head * tensor.stride_head + token * tensor.stride_token;
}

// What the codes of a row stand for, and its second digits where it has them.
void dequantize(const std::int8_t* codes, const std::int8_t* digits, float scale, std::int64_t dim,
                float* row) {
  for (std::int64_t c = 0; c < dim; ++c) {
    const float digit = digits == nullptr ? 0.0f : static_cast<float>(digits[c]) * 0x1p-8f;
    row[c] = (static_cast<float>(codes[c]) + digit) * scale;
  }
}

// A row as it came, but for what quantizing it took.
void restore(std::int64_t dim, bool rotated, const float* center, float* row) {
  if (rotated) rotate_back(row, dim);
  if (center == nullptr) return;
  for (std::int64_t c = 0; c < dim; ++c) row[c] += center[c];
}

// The tokens of one block of 64, which begins at a position.
void export_block(const Export& wanted, std::int64_t layer, std::int64_t kv_head,
                  std::int64_t position) {
  const intflash_cache& cache = wanted.cache;
  PageRun run = wanted.run;
  run.layer = layer;
  const HostPages& host = host_pages(cache);
  const bool is_int8 = run.is_int8(position);
  const Codec& codec = is_int8 ? kInt8Codec : *cache.codec;
  const KvBlock block =
      is_int8 ? host.window_block(run, kv_head, position) : host.block(run, kv_head, position);
  const std::int64_t first = std::max<std::int64_t>(wanted.begin - position, 0);
  const std::int64_t end = std::min<std::int64_t>(wanted.end - position, kBlockTokens);
  for (std::int64_t at = first; at < end; ++at) {
    const std::int64_t row = position + at - wanted.begin;
    if (wanted.key != nullptr)
      export_key(cache, codec, layer, kv_head, block, at, row_of(*wanted.key, layer, kv_head, row));
    if (wanted.value != nullptr)
      export_value(cache, codec, layer, kv_head, block, at,
                   row_of(*wanted.value, layer, kv_head, row));
  }
}

}  // namespace

void export_key(const intflash_cache& cache, const Codec& codec, std::int64_t layer,
                std::int64_t kv_head, const KvBlock& block, std::int64_t at, float* key) {
  std::int8_t codes[kMaxHeadDim];
  std::int8_t digits[kMaxHeadDim];
  const bool has_digits = codec.has_digits;
  codec.load_key(cache.layout, block, at, codes);
  if (has_digits) codec.load_digits(cache.layout, block, at, digits);
  const std::int64_t dim = cache.layout.head_dim;
  dequantize(codes, has_digits ? digits : nullptr, block.key_scale[at], dim, key);
  restore(dim, cache.rotation.keys, cache.key_center_of(layer, kv_head), key);
}

void export_value(const intflash_cache& cache, const Codec& codec, std::int64_t layer,
                  std::int64_t kv_head, const KvBlock& block, std::int64_t at, float* value) {
  const std::int64_t dim = cache.layout.head_dim_v;
  std::int8_t codes[2 * kMaxHeadDim];
  codec.load_value(cache.layout, block, at, codes);
  if (codec.has_f16_values) {
    for (std::int64_t c = 0; c < dim; ++c)
      value[c] = widen_f16(load_as<std::uint16_t>(codes + 2 * c)) * block.value_scale[at];
  } else {
    dequantize(codes, nullptr, block.value_scale[at], dim, value);
  }
  restore(dim, cache.rotation.values, cache.value_center_of(layer, kv_head), value);
}

intflash_status export_rows(const Export& wanted) {
  const intflash_cache& cache = wanted.cache;
  const std::int64_t tokens = wanted.end - wanted.begin;
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
