// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "cache/append.h"

#include <algorithm>
#include <cstring>

#include "core/checks.h"
#include "core/rope.h"
#include "core/scan.h"
#include "core/token_rows.h"

namespace intflash::internal {
namespace {

// Tokens from a position on that lie in one block of 64, which are rows first ... of key and value.
// codes: room for 64 rows.
void append_to_block(const Append& append, std::int8_t* codes, std::int64_t kv_head,
                     const WritableBlock& block, std::int64_t position, std::int32_t count,
                     std::int64_t first, std::atomic<std::uint32_t>& largest_key) {
  const intflash_cache& cache = append.cache;
  const PageLayout& layout = cache.layout;
  const KernelTable& kernels = append.kernels();
  const std::int64_t begin = position % kBlockTokens;
  const std::int64_t key_stride = round_up(layout.head_dim, 64);
  const std::int64_t value_stride = round_up(layout.head_dim_v, 64);
  if (begin == 0 && count < kBlockTokens) {
    std::memset(block.key_codes, 0, static_cast<std::size_t>(kBlockTokens * layout.head_dim));
    std::memset(block.value_codes, 0,
                static_cast<std::size_t>(kBlockTokens * round_up(layout.head_dim_v, 16)));
    std::fill_n(block.key_scale, kBlockTokens, 0.0f);
    std::fill_n(block.value_scale, kBlockTokens, 0.0f);
    std::fill_n(block.key_sum, kBlockTokens, 0);
  }
  const std::uint32_t magnitude =
      quantize_tokens(kernels, append.args.key, append.args.key_dtype, 0, kv_head, first, count,
                      layout.head_dim, cache.key_center_of(kv_head), cache.rotate, key_stride,
                      codes, block.key_scale + begin, rope_rows(append.args.rope, position));
  raise_to(largest_key, magnitude);
  if (count == kBlockTokens) {
    kernels.pack_keys(codes, key_stride, static_cast<std::int32_t>(layout.head_dim),
                      block.key_codes, block.key_sum);
  } else {
    for (std::int64_t i = 0; i < count; ++i)
      store_key(layout, block, begin + i, codes + i * key_stride);
  }
  quantize_tokens(kernels, append.args.value, append.args.value_dtype, 0, kv_head, first, count,
                  layout.head_dim_v, cache.value_center_of(kv_head), false, value_stride, codes,
                  block.value_scale + begin);
  if (count == kBlockTokens) {
    kernels.pack_values(codes, value_stride, static_cast<std::int32_t>(layout.head_dim_v),
                        block.value_codes);
  } else {
    for (std::int64_t i = 0; i < count; ++i)
      store_value(layout, block, begin + i, codes + i * value_stride);
  }
}

// All new tokens of one request and kv head.
void append_head(const Append& append, std::int8_t* codes, std::int64_t request,
                 std::int64_t kv_head, std::int64_t kv_len) {
  const PageRun run = append.pages(request);
  const std::int64_t end = kv_len + append.count(request);
  for (std::int64_t position = kv_len; position < end;) {
    const std::int64_t block_begin = position / kBlockTokens * kBlockTokens;
    const std::int64_t block_end = std::min(block_begin + kBlockTokens, end);
    const std::int64_t offset = block_begin - run.first_key_position;
    const std::int64_t page_size = append.cache.layout.page_size;
    const std::int32_t id = run.page_ids[offset / page_size];
    const WritableBlock block = writable_block(append.cache.layout, append.cache.page(id, kv_head),
                                               offset % page_size / kBlockTokens);
    append_to_block(append, codes, kv_head, block, position,
                    static_cast<std::int32_t>(block_end - position),
                    append.first_token(request) + position - kv_len, append.cache.largest_key[id]);
    position = block_end;
  }
}

// Pages that a request's tokens begin hold no key yet.
void begin_pages(const Append& append, std::int64_t request, std::int64_t kv_len) {
  const std::int64_t page_size = append.cache.layout.page_size;
  const PageRun run = append.pages(request);
  const std::int64_t offset = kv_len - run.first_key_position;
  const std::int64_t end = offset + append.count(request);
  for (std::int64_t i = (offset + page_size - 1) / page_size; i * page_size < end; ++i)
    append.cache.largest_key[run.page_ids[i]].store(0, std::memory_order_relaxed);
}

// kv_len(request): the length before.
template <class KvLen>
void write_tokens(const Append& append, KvLen kv_len) {
  const intflash_cache& cache = append.cache;
  for (std::int64_t r = 0; r < append.args.num_requests; ++r) begin_pages(append, r, kv_len(r));
  append.for_each_head([&](std::int32_t worker, std::int64_t request, std::int64_t kv_head) {
    append_head(append, cache.codes + worker * cache.code_bytes(), request, kv_head,
                kv_len(request));
  });
}

// That each of sequences names one, and no two the same.
intflash_status check_sequences(const intflash_cache& cache, const std::int32_t* sequences,
                                std::int64_t num_requests) {
  if (sequences == nullptr && num_requests > 0)
    return fail(INTFLASH_INVALID_ARGUMENT, "sequences = NULL: must name a sequence per request");
  for (std::int64_t r = 0; r < num_requests; ++r) {
    const intflash_status status = check_sequence(cache, sequences[r]);
    if (status != INTFLASH_OK) return status;
    cache.sequences[sequences[r]].request = -1;
  }
  for (std::int64_t r = 0; r < num_requests; ++r) {
    std::int64_t& request = cache.sequences[sequences[r]].request;
    if (request >= 0) {
      return fail(INTFLASH_INVALID_ARGUMENT, "sequences[%lld] = %d: is sequences[%lld] already",
                  static_cast<i64>(r), sequences[r], static_cast<i64>(request));
    }
    request = r;
  }
  return INTFLASH_OK;
}

}  // namespace
}  // namespace intflash::internal

using namespace intflash::internal;

extern "C" {

intflash_status intflash_cache_append(intflash_cache* cache, const intflash_append_args* args) {
  intflash_status status = check_append_args(cache, args, false);
  if (status != INTFLASH_OK) return status;
  const CacheChange change(*cache);
  const Append append{*cache, *args, nullptr};
  status = change.status();
  if (status == INTFLASH_OK) status = check_append_pages(*cache, *args);
  if (status == INTFLASH_OK) status = check_tokens(append);
  if (status != INTFLASH_OK) return status;
  write_tokens(append, [&](std::int64_t request) { return args->kv_lens[request]; });
  return INTFLASH_OK;
}

intflash_status intflash_sequences_append(intflash_cache* cache, const int32_t* sequences,
                                          const intflash_append_args* args) {
  intflash_status status = check_append_args(cache, args, true);
  if (status != INTFLASH_OK) return status;
  const CacheChange change(*cache);
  const Append append{*cache, *args, sequences};
  status = change.status();
  if (status == INTFLASH_OK) status = check_sequences(*cache, sequences, args->num_requests);
  if (status == INTFLASH_OK) status = check_tokens(append);
  if (status == INTFLASH_OK)
    status = extend_sequences(*cache, sequences, args->num_requests, args->token_indptr);
  if (status != INTFLASH_OK) return status;
  write_tokens(append, [&](std::int64_t request) {
    return cache->sequences[sequences[request]].kv_len - append.count(request);
  });
  return INTFLASH_OK;
}

}  // extern "C"
