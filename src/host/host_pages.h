// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A cache's tokens in the host's memory, where the CPU's backends read them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "cache/kv_cache.h"
#include "pages/page.h"

namespace intflash::internal {

struct HostLayer {
  char* pages;         // [num_pages][num_kv_heads], each PageLayout::bytes() long
  char* window_pages;  // the same of those in INT8
  float largest_key_center;
  // [num_pages]: bits of the largest magnitude among a page's keys, centred and rotated. It grows
  // until the page's first token is written anew.
  std::atomic<std::uint32_t>* largest_key;
};

struct HostPages {
  PageLayout layout;        // of one kv head's part of a page
  std::int64_t page_bytes;  // of all of them
  PageLayout window_layout;
  std::int64_t window_page_bytes;
  HostLayer* layers;
  // Of all layers, which have their parts of them.
  char* own_pages;  // nullptr: the pages are in arenas of the caller's
  bool has_nodes;   // the system has been advised where they are to lie
  std::atomic<std::uint32_t>* largest_key;
  std::int64_t code_bytes;  // of a worker's
  std::int8_t* codes;       // [the context's threads]: rows that append packs

  char* page(std::int64_t layer, std::int64_t id, std::int64_t kv_head) const {
    return layers[layer].pages + id * page_bytes + kv_head * layout.bytes();
  }
  char* window_page(std::int64_t layer, std::int64_t id, std::int64_t kv_head) const {
    return layers[layer].window_pages + id * window_page_bytes + kv_head * window_layout.bytes();
  }
  // Bits of the largest magnitude among keys in the pages that hold some of a run's tokens.
  std::uint32_t largest_key_of(const PageRun& run, KeyRange keys) const {
    const std::int64_t end = keys.end - run.first_key_position;
    std::uint32_t largest = 0;
    for (std::int64_t i = (keys.begin - run.first_key_position) / layout.page_size;
         i * layout.page_size < end; ++i)
      largest = std::max(
          largest, layers[run.layer].largest_key[run.page_ids[i]].load(std::memory_order_relaxed));
    return largest;
  }
  // 64 tokens of a request from position on (a multiple of 64), as the codec has them.
  KvBlock block(const PageRun& run, std::int64_t kv_head, std::int64_t position) const {
    const std::int64_t offset = position - run.first_key_position;
    return layout.block(page(run.layer, run.page_ids[offset / layout.page_size], kv_head),
                        offset % layout.page_size / kBlockTokens);
  }
  // In INT8, where run.is_int8(position).
  KvBlock window_block(const PageRun& run, std::int64_t kv_head, std::int64_t position) const {
    const std::int64_t offset = position - run.first_key_position;
    const std::int64_t id = run.window_page_ids[offset / layout.page_size];
    return window_layout.block(window_page(run.layer, id, kv_head),
                               offset % layout.page_size / kBlockTokens);
  }
};

// Those of a cache whose storage is the host's.
inline HostPages& host_pages(const intflash_cache& cache) {
  return *static_cast<HostPages*>(cache.stored);
}

}  // namespace intflash::internal
