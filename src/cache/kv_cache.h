// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Where tokens live: pages of one layer's keys and values, and the sequences that share them.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>

#include "cache/growable.h"
#include "cache/page.h"
#include "cache/page_table.h"
#include "intflash/cache.h"
#include "machine/context.h"

namespace intflash::internal {

// A page table that the cache keeps. A free slot has kv_len -1.
struct Sequence {
  Growable<std::int32_t> pages;
  std::int64_t first_key_position = 0;
  std::int64_t kv_len = 0;
  std::int64_t request = 0;  // scratch of append's checks: which of the batch names it
};

}  // namespace intflash::internal

struct intflash_cache {
  const intflash_context* context;
  intflash::internal::PageLayout layout;  // of one kv head's part of a page
  std::int64_t num_kv_heads;
  std::int64_t num_pages;
  bool rotate;
  char* pages;
  bool owns_pages;
  float* key_center;    // [num_kv_heads][head_dim]; nullptr = zero
  float* value_center;  // [num_kv_heads][head_dim_v]
  float largest_key_center;
  // Bits of the largest magnitude among keys, centred and rotated: only ever grows.
  std::atomic<std::uint32_t> largest_key;

  // Of sequences: references per page, and a stack of the pages that have none.
  std::int32_t* references;
  std::int32_t* free_pages;
  std::int64_t num_free;
  intflash::internal::Growable<intflash::internal::Sequence> sequences;
  std::int64_t num_sequences;

  std::uint64_t* page_set;  // scratch of append's checks
  std::int8_t* codes;       // [the context's threads][code_bytes()]: rows that append packs
  std::atomic<bool> is_changing;

  std::int64_t code_bytes() const {
    return intflash::internal::kBlockTokens *
           intflash::internal::round_up(std::max(layout.head_dim, layout.head_dim_v), 64);
  }
  std::int64_t page_bytes() const { return num_kv_heads * layout.bytes(); }
  char* page(std::int64_t id, std::int64_t kv_head) const {
    return pages + id * page_bytes() + kv_head * layout.bytes();
  }
  const float* key_center_of(std::int64_t kv_head) const {
    return key_center == nullptr ? nullptr : key_center + kv_head * layout.head_dim;
  }
  const float* value_center_of(std::int64_t kv_head) const {
    return value_center == nullptr ? nullptr : value_center + kv_head * layout.head_dim_v;
  }
  double largest_key_magnitude() const {
    return static_cast<double>(std::bit_cast<float>(largest_key.load(std::memory_order_relaxed))) +
           static_cast<double>(largest_key_center);
  }
  // 64 tokens of a request from position on (a multiple of 64).
  intflash::internal::KvBlock block(const intflash::internal::PageRun& run, std::int64_t kv_head,
                                    std::int64_t position) const {
    const std::int64_t offset = position - run.first_key_position;
    const char* memory = page(run.page_ids[offset / layout.page_size], kv_head);
    return layout.block(memory, offset % layout.page_size / intflash::internal::kBlockTokens);
  }
};

namespace intflash::internal {

// Keeps other calls from changing a cache for as long as it lives; or finds that one does.
class CacheChange {
 public:
  explicit CacheChange(intflash_cache& cache)
      : cache_(cache), is_alone_(!cache.is_changing.exchange(true, std::memory_order_acquire)) {}
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

// How many of the context's threads so many rows, tokens times kv heads, are worth.
std::int64_t workers_for(const intflash_context& context, std::int64_t rows);

// Whether the caller's number names a sequence.
intflash_status check_sequence(const intflash_cache& cache, std::int32_t sequence);

// Makes room for the batch's new tokens in each of the sequences: copies a shared last page, takes
// new ones. All or nothing.
intflash_status extend_sequences(intflash_cache& cache, const std::int32_t* sequences,
                                 std::int64_t num_sequences, const std::int64_t* token_indptr);
void shrink_sequence(intflash_cache& cache, Sequence& sequence, std::int64_t kv_len);

// What the calls of these names do, within a change of the cache.
intflash_status create_sequence(intflash_cache& cache, std::int32_t& sequence);
void free_sequence(intflash_cache& cache, std::int32_t sequence);

}  // namespace intflash::internal
