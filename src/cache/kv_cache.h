// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The books of a cache: its shape, its pages' numbers, and the sequences that share them. What is
// in the pages is its storage's.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <numeric>
#include <thread>

#include "cache/growable.h"
#include "cache/page_table.h"
#include "context/context.h"
#include "core/int8_window.h"
#include "core/rotation.h"
#include "intflash/cache.h"
#include "machine/numa.h"
#include "pages/codec.h"
#include "pages/page.h"

namespace intflash::internal {

struct Storage;  // cache/storage.h

// What kv_len is of a slot that no caller's number names: of a free one, and of one whose tokens
// are still being read.
constexpr std::int64_t kFreeSlot = -1;
constexpr std::int64_t kLoadingSlot = -2;

// Pages of consecutive numbers that lie on one node.
struct NodePages {
  std::int32_t id;  // the system's number of the node; -1: wherever
  std::int64_t begin, end;
  std::int64_t num_free;
};

// Pages of one kind, in each layer, that sequences take.
struct PagePool {
  std::int64_t num_pages;
  std::int32_t* references;  // per page
  std::int32_t* free_pages;  // a stack of those that have none
  std::int64_t num_free;

  std::int32_t take() {
    const std::int32_t id = free_pages[--num_free];
    references[id] = 1;
    return id;
  }
  void release(std::int32_t id) {
    if (--references[id] == 0) free_pages[num_free++] = id;
  }
};

// A page table that the cache keeps, of all layers. Pages from the one on that the shortest layer
// ends in are nobody else's while other layers are longer.
struct Sequence {
  Growable<std::int32_t> pages;
  std::int64_t first_key_position = 0;
  std::int64_t kv_len = kFreeSlot;    // of layer 0
  Growable<std::int64_t> later_lens;  // of the layers behind it, at most kv_len
  // With a window: the pages of those of pages that are in INT8, kNoPage for others; and which keys
  // no longer are.
  Growable<std::int32_t> window_pages;
  KeyRange coded_keys = {};
  std::int64_t request = 0;  // scratch of append's checks: which of the batch names it

  std::int64_t& length(std::int64_t layer) { return layer == 0 ? kv_len : later_lens[layer - 1]; }
  std::int64_t length(std::int64_t layer) const {
    return layer == 0 ? kv_len : later_lens[layer - 1];
  }
  std::int64_t shortest() const {
    return std::accumulate(later_lens.data(), later_lens.end(), kv_len,
                           [](std::int64_t a, std::int64_t b) { return std::min(a, b); });
  }
  PageRun run(std::int64_t layer) const {
    const bool has_window = window_pages.size() > 0;
    return {pages.data(),
            pages.size(),
            first_key_position,
            layer,
            has_window ? window_pages.data() : nullptr,
            coded_keys};
  }
};

}  // namespace intflash::internal

struct intflash_cache {
  const intflash_context* context;
  const intflash::internal::Codec* codec;
  intflash::internal::PageLayout layout;  // of one kv head's part of a page
  intflash::internal::Int8Window window;
  intflash::internal::PageLayout window_layout;  // of its pages, in INT8
  std::int64_t num_kv_heads;
  std::int64_t num_pages;
  std::int64_t num_layers;
  intflash::internal::Rotation rotation;
  float* key_center;    // [num_layers][num_kv_heads][head_dim]; nullptr = zero
  float* value_center;  // [num_layers][num_kv_heads][head_dim_v]

  // Where the tokens lie, and what that knows of them.
  const intflash::internal::Storage* storage;
  void* stored;

  // Of sequences: references per page, and of each node's pages a stack of those that have none, in
  // the places of free_pages that their numbers are.
  std::int32_t* references;
  std::int32_t* free_pages;
  std::int64_t num_free;
  std::int32_t num_nodes;  // 1 where pages do not lie by node
  intflash::internal::NodePages nodes[intflash::internal::kMaxNumaNodes];
  intflash::internal::PagePool window_pages;  // none without a window
  intflash::internal::Growable<intflash::internal::Sequence> sequences;
  std::int64_t num_sequences;

  std::uint64_t* slot_set;  // scratch of append's checks: a bit per place of a token
  std::atomic<bool> is_changing;

  std::int64_t page_bytes() const { return num_kv_heads * layout.bytes(); }
  std::int64_t window_page_bytes() const {
    return window.is_none() ? 0 : num_kv_heads * window_layout.bytes();
  }
  // The pages of a layer, those of the window behind the others.
  std::int64_t layer_bytes() const {
    return num_pages * page_bytes() + window_pages.num_pages * window_page_bytes();
  }
  // The index of a page's node.
  std::int32_t node_of(std::int32_t page) const {
    std::int32_t node = 0;
    while (node + 1 < num_nodes && page >= nodes[node].end) ++node;
    return node;
  }
  const float* key_center_of(std::int64_t layer, std::int64_t kv_head) const {
    const std::int64_t head = layer * num_kv_heads + kv_head;
    return key_center == nullptr ? nullptr : key_center + head * layout.head_dim;
  }
  const float* value_center_of(std::int64_t layer, std::int64_t kv_head) const {
    const std::int64_t head = layer * num_kv_heads + kv_head;
    return value_center == nullptr ? nullptr : value_center + head * layout.head_dim_v;
  }
};

namespace intflash::internal {

// Keeps other calls from changing a cache for as long as it lives; or finds that one does, or waits
// until none does.
class CacheChange {
 public:
  struct Waiting {};
  explicit CacheChange(intflash_cache& cache)
      : cache_(cache), is_alone_(!cache.is_changing.exchange(true, std::memory_order_acquire)) {}
  CacheChange(intflash_cache& cache, Waiting) : cache_(cache), is_alone_(true) {
    while (cache.is_changing.exchange(true, std::memory_order_acquire)) std::this_thread::yield();
  }
  ~CacheChange() {
    if (is_alone_) cache_.is_changing.store(false, std::memory_order_release);
  }
  CacheChange(const CacheChange&) = delete;
  CacheChange& operator=(const CacheChange&) = delete;

  // INTFLASH_OK, or the error that names the rule.
  intflash_status status() const;

 private:
  intflash_cache& cache_;
  const bool is_alone_;
};

// Memory of the context's, as the parts of a cache are.
template <class T>
bool allocate(const intflash_context& context, std::int64_t count, T*& memory) {
  memory = static_cast<T*>(
      context.allocate(context.allocator_user, static_cast<std::size_t>(count) * sizeof(T), 64));
  return memory != nullptr;
}
inline void release(const intflash_context& context, void* memory) {
  if (memory != nullptr) context.deallocate(context.allocator_user, memory);
}

// A cache whose options do not say its codec: codec and page_layout_version are not read.
intflash_status create_cache(const intflash_context& context, const intflash_cache_options& options,
                             const Codec& codec, intflash_cache*& cache);

// That the cache's pages may be named by the caller, and not by sequences alone.
intflash_status check_pages_are_callers(const intflash_cache& cache);
// Whether the caller's number names a layer.
intflash_status check_layer(const intflash_cache& cache, std::int64_t layer);
// Whether the caller's number names a sequence.
intflash_status check_sequence(const intflash_cache& cache, std::int32_t sequence);
// Whether a query at a position finds its window in INT8; the error where it does not. name: of the
// position.
bool has_window(const intflash_cache& cache, const Sequence& sequence, std::int64_t position);
intflash_status report_no_window(const intflash_cache& cache, const char* name,
                                 const Sequence& sequence, std::int64_t position);
// Whether all layers of a sequence have its tokens.
intflash_status check_layers(const intflash_cache& cache, std::int32_t sequence);

// The pages of a batch's request whose first key stands at a position.
inline PageRun batch_pages(const intflash_cache& cache, const intflash_batch_args& args,
                           std::int64_t request, std::int64_t first_key_position) {
  if (args.sequences != nullptr) return cache.sequences[args.sequences[request]].run(args.layer);
  return page_run(args.pages, request, first_key_position, args.layer);
}

// Makes room for the batch's new tokens in each of the sequences, whose layer 0 they then belong
// to: copies a shared last page, takes new ones. All or nothing.
intflash_status extend_sequences(intflash_cache& cache, const std::int32_t* sequences,
                                 std::int64_t num_sequences, const std::int64_t* token_indptr);
void shrink_sequence(intflash_cache& cache, Sequence& sequence, std::int64_t kv_len);

// What the calls of these names do, within a change of the cache.
intflash_status create_sequence(intflash_cache& cache, std::int32_t& sequence);
void free_sequence(intflash_cache& cache, std::int32_t sequence);

}  // namespace intflash::internal
