// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The caller's page tables, and what is checked of them.
#pragma once

#include <cstdint>

#include "core/mask.h"
#include "intflash/cache.h"

namespace intflash::internal {

// One request's part of a batch, as append and attention see it.
struct PageRun {
  const std::int32_t* page_ids;
  std::int64_t num_pages;
  std::int64_t first_key_position;
  std::int64_t layer;
  // Of a cache with a window; else nullptr. kNoPage: none of the page's tokens is in INT8.
  const std::int32_t* window_page_ids;
  KeyRange coded_keys;  // that are no longer in INT8

  bool is_int8(std::int64_t position) const {
    return window_page_ids != nullptr &&
           (position < coded_keys.begin || position >= coded_keys.end);
  }
};
constexpr std::int32_t kNoPage = -1;
inline PageRun page_run(const intflash_page_table& table, std::int64_t request,
                        std::int64_t first_key_position, std::int64_t layer) {
  const std::int64_t first = table.page_indptr[request];
  return {table.page_ids + first,
          table.page_indptr[request + 1] - first,
          first_key_position,
          layer,
          nullptr,
          {}};
}

// A set of page numbers, or of slots, a bit each. Nobody clears it: numbers are removed before they
// are inserted.
struct PageSet {
  std::uint64_t* words;

  static std::int64_t bytes(std::int64_t count) { return (count + 63) / 64 * 8; }
  void remove(std::int64_t id) const { words[id / 64] &= ~(std::uint64_t{1} << id % 64); }
  // False where it was in the set.
  bool insert(std::int64_t id) const {
    const std::uint64_t before = words[id / 64];
    words[id / 64] |= std::uint64_t{1} << id % 64;
    return words[id / 64] != before;
  }
};

// Pointers and offsets.
intflash_status check_page_table(const intflash_page_table& table, std::int64_t num_requests);
// One request's pages for tokens at these positions: enough of them, of this cache, and none twice.
// seen is scratch.
intflash_status check_pages(const intflash_cache& cache, std::int64_t request, const PageRun& run,
                            KeyRange keys, PageSet seen);
// The pages and lengths of an append; no page is to be written by two requests.
intflash_status check_append_pages(const intflash_cache& cache, const intflash_append_args& args);

}  // namespace intflash::internal
