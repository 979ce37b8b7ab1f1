// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "cache/append.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/checks.h"
#include "inputs/rope.h"
#include "inputs/scan.h"
#include "inputs/token_rows.h"

namespace intflash::internal {
namespace {

// The block of 64 tokens that a slot is in.
WritableBlock block_of(const Append& append, std::int64_t kv_head, std::int64_t slot) {
  const PageLayout& layout = append.cache.layout;
  return writable_block(layout,
                        append.cache.page(append.args.layer, slot / layout.page_size, kv_head),
                        slot % layout.page_size / kBlockTokens);
}

// Bits of what no key exceeds that came as codes.
std::uint32_t largest_scaled(const float* scales, std::int64_t count) {
  return std::bit_cast<std::uint32_t>(127 * *std::max_element(scales, scales + count));
}

// codes: room for 64 rows, and 64 of second digits.
void append_to_block(const Append& append, std::int8_t* codes, std::int64_t kv_head,
                     const BlockTokens& tokens) {
  const intflash_cache& cache = append.cache;
  const PageLayout& layout = cache.layout;
  const KernelTable& kernels = append.kernels();
  const std::int64_t layer = append.args.layer;
  const WritableBlock block = block_of(append, kv_head, tokens.slot);
  const std::int64_t begin = tokens.slot % kBlockTokens;
  const auto count = static_cast<std::int32_t>(tokens.count);
  const std::int64_t key_stride = round_up(layout.head_dim, 64);
  const std::int64_t value_stride = round_up(layout.head_dim_v, 64);
  std::int8_t* const digits = cache.codec->has_digits ? codes + kBlockTokens * key_stride : nullptr;
  std::uint32_t magnitude = quantize_tokens(
      kernels, append.args.key, append.args.key_dtype, 0, kv_head, tokens.first, count,
      layout.head_dim, cache.key_center_of(layer, kv_head), cache.rotation.keys, key_stride, codes,
      digits, block.key_scale + begin, rope_rows(append.args.rope, tokens.position));
  if (append.args.key_dtype == INTFLASH_INT8)
    magnitude = largest_scaled(block.key_scale + begin, count);
  raise_to(cache.layers[layer].largest_key[tokens.slot / layout.page_size], magnitude);
  cache.codec->store_keys(kernels, layout, block, {codes, digits, key_stride, begin, count});
  quantize_tokens(kernels, append.args.value, append.args.value_dtype, 0, kv_head, tokens.first,
                  count, layout.head_dim_v, cache.value_center_of(layer, kv_head),
                  cache.rotation.values, value_stride, codes, nullptr, block.value_scale + begin);
  cache.codec->store_values(kernels, layout, block, {codes, nullptr, value_stride, begin, count});
}

// All new tokens of one request and kv head.
void append_head(const Append& append, std::int8_t* codes, std::int64_t request,
                 std::int64_t kv_head, std::int64_t kv_len) {
  const PageRun run = append.pages(request);
  const std::int64_t page_size = append.cache.layout.page_size;
  const std::int64_t end = kv_len + append.count(request);
  for (std::int64_t position = kv_len; position < end;) {
    const std::int64_t block_end =
        std::min(position / kBlockTokens * kBlockTokens + kBlockTokens, end);
    const std::int64_t offset = position - run.first_key_position;
    const std::int64_t slot = run.page_ids[offset / page_size] * page_size + offset % page_size;
    const std::int64_t count = block_end - position;
    if (slot % kBlockTokens == 0 && count < kBlockTokens)
      clear_block(append.cache.layout, block_of(append, kv_head, slot));
    append_to_block(append, codes, kv_head,
                    {slot, position, append.first_token(request) + position - kv_len, count});
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
    append.cache.layers[run.layer].largest_key[run.page_ids[i]].store(0, std::memory_order_relaxed);
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

// All new tokens of one kv head, in any order: blocks are begun before anything is stored in them.
void append_head_to_slots(const Append& append, std::int8_t* codes, std::int64_t kv_head) {
  const std::int64_t* slots = append.args.slots;
  // Rows that are turned together stand one after another.
  const std::int64_t* positions = append.args.rope.cos == nullptr ? nullptr : append.args.positions;
  const std::int64_t num_tokens = append.num_tokens();
  for (std::int64_t token = 0; token < num_tokens; ++token) {
    if (slots[token] >= 0 && slots[token] % kBlockTokens == 0)
      clear_block(append.cache.layout, block_of(append, kv_head, slots[token]));
  }
  std::int64_t count = 1;
  for (std::int64_t token = 0; token < num_tokens; token += count) {
    const std::int64_t slot = slots[token];
    count = 1;
    if (slot < 0) continue;
    while (token + count < num_tokens && slots[token + count] == slot + count &&
           (slot + count) % kBlockTokens != 0 &&
           (positions == nullptr || positions[token + count] == positions[token] + count))
      ++count;
    const std::int64_t position = positions == nullptr ? 0 : positions[token];
    append_to_block(append, codes, kv_head, {slot, position, token, count});
  }
}

void write_to_slots(const Append& append) {
  const intflash_cache& cache = append.cache;
  const std::int64_t page_size = cache.layout.page_size;
  for (std::int64_t token = 0; token < append.num_tokens(); ++token) {
    const std::int64_t slot = append.args.slots[token];
    if (slot >= 0 && slot % page_size == 0)
      cache.layers[append.args.layer].largest_key[slot / page_size].store(
          0, std::memory_order_relaxed);
  }
  std::atomic<std::int64_t> next;
  for_each_task(cache.context->parallel,
                workers_for(*cache.context, append.num_tokens() * cache.num_kv_heads),
                cache.num_kv_heads, next, [&](std::int32_t worker, std::int64_t kv_head) {
                  append_head_to_slots(append, cache.codes + worker * cache.code_bytes(), kv_head);
                });
}

// That each of sequences names one, and no two the same.
intflash_status check_sequences(const intflash_cache& cache, const std::int32_t* sequences,
                                std::int64_t num_requests) {
  if (sequences == nullptr && num_requests > 0)
    return fail(INTFLASH_INVALID_ARGUMENT, "sequences = NULL: must name a sequence per request");
  const intflash_status aligned = check_pointer("sequences", sequences);
  if (aligned != INTFLASH_OK) return aligned;
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

// Makes the sequences longer in the call's layer. Pages come with layer 0.
intflash_status extend_layer(const Append& append) {
  const intflash_append_args& args = append.args;
  if (args.layer == 0)
    return extend_sequences(append.cache, append.sequences, args.num_requests, args.token_indptr);
  for (std::int64_t r = 0; r < args.num_requests; ++r) {
    const std::int64_t kv_len = append.cache.sequences[append.sequences[r]].kv_len;
    if (append.count(r) <= kv_len - append.kv_len(r)) continue;
    return fail(INTFLASH_BAD_SHAPE,
                "sequences[%lld] = %d: %lld tokens behind the %lld of layer %lld: must be at most "
                "%lld together, those of layer 0",
                static_cast<i64>(r), append.sequences[r], static_cast<i64>(append.count(r)),
                static_cast<i64>(append.kv_len(r)), static_cast<i64>(args.layer),
                static_cast<i64>(kv_len));
  }
  for (std::int64_t r = 0; r < args.num_requests; ++r)
    append.cache.sequences[append.sequences[r]].length(args.layer) += append.count(r);
  return INTFLASH_OK;
}

}  // namespace
}  // namespace intflash::internal

using namespace intflash::internal;

extern "C" {

intflash_status intflash_cache_append(intflash_cache* cache, const intflash_append_args* given) {
  intflash_append_args args;
  intflash_status status = read_append_args(cache, given, false, args);
  if (status != INTFLASH_OK) return status;
  const CacheChange change(*cache);
  const Append append{*cache, args, nullptr};
  status = change.status();
  if (status == INTFLASH_OK)
    status = args.slots == nullptr ? check_append_pages(*cache, args) : check_slots(*cache, args);
  if (status == INTFLASH_OK) status = check_tokens(append);
  if (status != INTFLASH_OK) return status;
  if (args.slots != nullptr) {
    write_to_slots(append);
  } else {
    write_tokens(append, [&](std::int64_t request) { return args.kv_lens[request]; });
  }
  return INTFLASH_OK;
}

intflash_status intflash_sequences_append(intflash_cache* cache, const int32_t* sequences,
                                          const intflash_append_args* given) {
  intflash_append_args args;
  intflash_status status = read_append_args(cache, given, true, args);
  if (status != INTFLASH_OK) return status;
  const CacheChange change(*cache);
  const Append append{*cache, args, sequences};
  status = change.status();
  if (status == INTFLASH_OK) status = check_sequences(*cache, sequences, args.num_requests);
  if (status == INTFLASH_OK) status = check_tokens(append);
  if (status == INTFLASH_OK) status = extend_layer(append);
  if (status != INTFLASH_OK) return status;
  write_tokens(
      append, [&](std::int64_t request) { return append.kv_len(request) - append.count(request); });
  return INTFLASH_OK;
}

}  // extern "C"
