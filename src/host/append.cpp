// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// New tokens into pages: quantized, and stored by the cache's codec, block by block of 64 tokens or
// parts of them.
#include <algorithm>
#include <atomic>
#include <bit>

#include "host/host_pages.h"
#include "host/host_storage.h"
#include "inputs/rope.h"
#include "inputs/scan.h"
#include "inputs/token_rows.h"
#include "pages/codec.h"
#include "threads/team.h"

namespace intflash::internal {
namespace {

// New tokens that lie one after another in one block of 64.
struct BlockTokens {
  std::int64_t slot;         // of the first one: page * page_size + its place in the page
  std::int32_t window_page;  // that they go to first; kNoPage: none
  std::int64_t position;     // of it in its request; not read where rope is none
  std::int64_t first;        // its row of key and value
  std::int64_t count;
};

// The block of 64 tokens that a slot is in.
WritableBlock block_of(const Append& append, std::int64_t kv_head, std::int64_t slot) {
  const HostPages& host = host_pages(append.cache);
  const PageLayout& layout = host.layout;
  return writable_block(layout, host.page(append.args.layer, slot / layout.page_size, kv_head),
                        slot % layout.page_size / kBlockTokens);
}
// The same in INT8.
WritableBlock window_block_of(const Append& append, std::int64_t kv_head, std::int64_t slot,
                              std::int32_t page) {
  const HostPages& host = host_pages(append.cache);
  return writable_block(host.window_layout, host.window_page(append.args.layer, page, kv_head),
                        slot % host.layout.page_size / kBlockTokens);
}

// Bits of what no key exceeds that came as codes.
std::uint32_t largest_scaled(const float* scales, std::int64_t count) {
  return std::bit_cast<std::uint32_t>(127 * *std::max_element(scales, scales + count));
}

// The keys of a full block in INT8 as the cache's codec has them. rows: room for 64 rows of codes,
// which are there already where are_rows says so.
void code_full_keys(const intflash_cache& cache, const KvBlock& from, const WritableBlock& to,
                    bool are_rows, std::int8_t* rows) {
  const PageLayout& layout = cache.window_layout;
  const std::int64_t stride = round_up(layout.head_dim, 64);
  for (std::int64_t at = 0; !are_rows && at < kBlockTokens; ++at)
    kInt8Codec.load_key(layout, from, at, rows + at * stride);
  std::copy_n(from.key_scale, kBlockTokens, to.key_scale);
  cache.codec->store_keys(*cache.context->port->kernels, cache.layout, to,
                          {rows, nullptr, stride, 0, kBlockTokens});
}
// The same of its values.
void code_full_values(const intflash_cache& cache, const KvBlock& from, const WritableBlock& to,
                      bool are_rows, std::int8_t* rows) {
  const PageLayout& layout = cache.window_layout;
  const std::int64_t stride = round_up(layout.head_dim_v, 64);
  for (std::int64_t at = 0; !are_rows && at < kBlockTokens; ++at)
    kInt8Codec.load_value(layout, from, at, rows + at * stride);
  std::copy_n(from.value_scale, kBlockTokens, to.value_scale);
  cache.codec->store_values(*cache.context->port->kernels, cache.layout, to,
                            {rows, nullptr, stride, 0, kBlockTokens});
}

// codes: room for 64 rows, and 64 of second digits.
void append_to_block(const Append& append, std::int8_t* codes, std::int64_t kv_head,
                     const BlockTokens& tokens) {
  const intflash_cache& cache = append.cache;
  const bool has_window = tokens.window_page != kNoPage;
  const Codec& codec = has_window ? kInt8Codec : *cache.codec;
  const PageLayout& layout = has_window ? cache.window_layout : cache.layout;
  const KernelTable& kernels = *cache.context->port->kernels;
  const std::int64_t layer = append.args.layer;
  const WritableBlock block =
      has_window ? window_block_of(append, kv_head, tokens.slot, tokens.window_page)
                 : block_of(append, kv_head, tokens.slot);
  const std::int64_t begin = tokens.slot % kBlockTokens;
  const auto count = static_cast<std::int32_t>(tokens.count);
  const std::int64_t key_stride = round_up(layout.head_dim, 64);
  const std::int64_t value_stride = round_up(value_row_bytes(codec, layout.head_dim_v), 64);
  std::int8_t* const digits = codec.has_digits ? codes + kBlockTokens * key_stride : nullptr;
  std::uint32_t magnitude = quantize_tokens(
      kernels, append.args.key, append.args.key_dtype, 0, kv_head, tokens.first, count,
      layout.head_dim, {cache.key_center_of(layer, kv_head), cache.rotation.keys, false},
      key_stride, codes, digits, block.key_scale + begin,
      rope_rows(append.args.rope, tokens.position));
  if (append.args.key_dtype == INTFLASH_INT8)
    magnitude = largest_scaled(block.key_scale + begin, count);
  raise_to(host_pages(cache).layers[layer].largest_key[tokens.slot / layout.page_size], magnitude);
  codec.store_keys(kernels, layout, block, {codes, digits, key_stride, begin, count});
  const bool is_whole = count == kBlockTokens;
  const bool is_coded = has_window && begin + count == kBlockTokens;
  const WritableBlock coded = is_coded ? block_of(append, kv_head, tokens.slot) : block;
  if (is_coded) code_full_keys(cache, readable(block), coded, is_whole, codes);
  const QuantizeForm form = {cache.value_center_of(layer, kv_head), cache.rotation.values, true};
  if (codec.has_f16_values) {
    halve_tokens(kernels, append.args.value, append.args.value_dtype, 0, kv_head, tokens.first,
                 count, layout.head_dim_v, form, value_stride, codes, block.value_scale + begin);
  } else {
    quantize_tokens(kernels, append.args.value, append.args.value_dtype, 0, kv_head, tokens.first,
                    count, layout.head_dim_v, form, value_stride, codes, nullptr,
                    block.value_scale + begin);
  }
  codec.store_values(kernels, layout, block, {codes, nullptr, value_stride, begin, count});
  if (is_coded) code_full_values(cache, readable(block), coded, is_whole, codes);
}

// All new tokens of one request and kv head.
void append_head(const Append& append, std::int8_t* codes, std::int64_t request,
                 std::int64_t kv_head) {
  const std::int64_t kv_len = append.position(request);  // before
  const PageRun run = append.pages(request);
  const std::int64_t page_size = append.cache.layout.page_size;
  const std::int64_t end = kv_len + append.count(request);
  for (std::int64_t position = kv_len; position < end;) {
    const std::int64_t block_end =
        std::min(position / kBlockTokens * kBlockTokens + kBlockTokens, end);
    const std::int64_t offset = position - run.first_key_position;
    const std::int64_t slot = run.page_ids[offset / page_size] * page_size + offset % page_size;
    const std::int32_t window_page =
        run.window_page_ids == nullptr ? kNoPage : run.window_page_ids[offset / page_size];
    const std::int64_t count = block_end - position;
    const bool begins = slot % kBlockTokens == 0 && count < kBlockTokens;
    if (begins && window_page == kNoPage)
      clear_block(append.cache.layout, block_of(append, kv_head, slot));
    if (begins && window_page != kNoPage)
      clear_block(append.cache.window_layout, window_block_of(append, kv_head, slot, window_page));
    append_to_block(
        append, codes, kv_head,
        {slot, window_page, position, append.first_token(request) + position - kv_len, count});
    position = block_end;
  }
}

// Pages that a request's tokens begin hold no key yet.
void begin_pages(const Append& append, std::int64_t request) {
  const std::int64_t page_size = append.cache.layout.page_size;
  const PageRun run = append.pages(request);
  const std::int64_t offset = append.position(request) - run.first_key_position;
  const std::int64_t end = offset + append.count(request);
  for (std::int64_t i = (offset + page_size - 1) / page_size; i * page_size < end; ++i)
    host_pages(append.cache)
        .layers[run.layer]
        .largest_key[run.page_ids[i]]
        .store(0, std::memory_order_relaxed);
}

void write_tokens(const Append& append) {
  const HostPages& host = host_pages(append.cache);
  const std::int64_t requests = append.args.num_requests;
  const std::int64_t heads = append.cache.num_kv_heads;
  for (std::int64_t r = 0; r < requests; ++r) begin_pages(append, r);
  std::atomic<std::int64_t> next;
  for_each_task(append.cache.context->parallel,
                workers_for(*append.cache.context, append.num_tokens() * heads), requests * heads,
                next, [&](std::int32_t worker, std::int64_t task) {
                  append_head(append, host.codes + worker * host.code_bytes, task / heads,
                              task % heads);
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
    append_to_block(append, codes, kv_head, {slot, kNoPage, position, token, count});
  }
}

void write_to_slots(const Append& append) {
  const intflash_cache& cache = append.cache;
  const HostPages& host = host_pages(cache);
  const std::int64_t page_size = cache.layout.page_size;
  std::atomic<std::uint32_t>* largest_key = host.layers[append.args.layer].largest_key;
  for (std::int64_t token = 0; token < append.num_tokens(); ++token) {
    const std::int64_t slot = append.args.slots[token];
    if (slot >= 0 && slot % page_size == 0)
      largest_key[slot / page_size].store(0, std::memory_order_relaxed);
  }
  std::atomic<std::int64_t> next;
  for_each_task(cache.context->parallel,
                workers_for(*cache.context, append.num_tokens() * cache.num_kv_heads),
                cache.num_kv_heads, next, [&](std::int32_t worker, std::int64_t kv_head) {
                  append_head_to_slots(append, host.codes + worker * host.code_bytes, kv_head);
                });
}

}  // namespace

void code_full_block(const intflash_cache& cache, const KvBlock& from, const WritableBlock& to,
                     std::int8_t* rows) {
  code_full_keys(cache, from, to, false, rows);
  code_full_values(cache, from, to, false, rows);
}

intflash_status append_tokens(const Append& append) {
  if (append.args.slots != nullptr) {
    write_to_slots(append);
  } else {
    write_tokens(append);
  }
  return INTFLASH_OK;
}

}  // namespace intflash::internal
