// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The seam between a cache's books (sequences, page tables, lengths) and where its tokens lie. What
// is behind it is a device's: how pages lie is its own choice, and nobody else reads them.
#pragma once

#include <cstdint>

#include "cache/kv_cache.h"
#include "intflash/cache.h"

namespace intflash::internal {

// New tokens; everything but their elements has been checked.
struct Append {
  intflash_cache& cache;
  const intflash_append_args& args;
  const std::int32_t* sequences;  // nullptr: page tables are the caller's
  bool is_in_books = false;       // the sequences' lengths have the tokens already

  std::int64_t first_token(std::int64_t request) const { return args.token_indptr[request]; }
  std::int64_t count(std::int64_t request) const {
    return args.token_indptr[request + 1] - args.token_indptr[request];
  }
  std::int64_t num_tokens() const {
    return args.num_requests == 0 ? 0 : args.token_indptr[args.num_requests];
  }
  // Where the first of a request's goes. Not of slots.
  std::int64_t position(std::int64_t request) const {
    if (sequences == nullptr) return args.kv_lens[request];
    const std::int64_t kv_len = cache.sequences[sequences[request]].length(args.layer);
    return is_in_books ? kv_len - count(request) : kv_len;
  }
  PageRun pages(std::int64_t request) const {
    if (sequences != nullptr) return cache.sequences[sequences[request]].run(args.layer);
    return page_run(args.pages, request,
                    args.first_key_positions == nullptr ? 0 : args.first_key_positions[request],
                    args.layer);
  }
};

// Positions [begin, end) of a run of pages, in all layers, which has them.
struct Export {
  const intflash_cache& cache;
  PageRun run;
  std::int64_t begin, end;
  const intflash_tensor* key;  // either may be nullptr
  const intflash_tensor* value;
};

// 64 tokens of a kv head.
struct BlockPlace {
  std::int64_t layer;
  std::int32_t page;
  std::int64_t kv_head;
  std::int64_t index;        // in the page
  std::int32_t window_page;  // kNoPage: the block is as the codec has it
};

// The one at a position of a run, in head h of all layers' heads.
inline BlockPlace place_of(const intflash_cache& cache, const PageRun& run, std::int64_t h,
                           std::int64_t position) {
  const std::int64_t offset = position - run.first_key_position;
  const std::int64_t page_size = cache.layout.page_size;
  return {h / cache.num_kv_heads, run.page_ids[offset / page_size], h % cache.num_kv_heads,
          offset % page_size / kBlockTokens,
          run.is_int8(position) ? run.window_page_ids[offset / page_size] : kNoPage};
}

struct Storage {
  const char* name;
  // Room for the pages of a cache that knows all else of itself: cache.stored; or why there is
  // none.
  intflash_status (*create)(intflash_cache& cache, const intflash_cache_options& options);
  void (*destroy)(intflash_cache& cache);
  // That all elements, scales and rope's tables are in range, or the error that names the lowest
  // that is not. Nothing has been changed, in pages or in the books.
  intflash_status (*check_tokens)(const Append& append);
  // The following fail where a device does: what they should have written may hold anything then,
  // and all else is as it was.
  // Stores what check_tokens has found good, quantized.
  intflash_status (*append)(const Append& append);
  // In all layers.
  intflash_status (*copy_page)(intflash_cache& cache, std::int32_t from, std::int32_t to);
  // The same of a page of the window, which cannot fail. nullptr: the storage has no windows.
  void (*copy_window_page)(intflash_cache& cache, std::int32_t from, std::int32_t to);
  // In f32, in the caller's tensors.
  intflash_status (*export_rows)(const Export& wanted);
  // A block as a page of its own, as files have it, and back: in INT8 where it is of the window.
  // Those of a page are written in order, the first kv head first.
  intflash_status (*read_block)(const intflash_cache& cache, const BlockPlace& place, char* page);
  intflash_status (*write_block)(intflash_cache& cache, const BlockPlace& place, const char* page);
  // Makes the codec's block of one that is in INT8 and full. rows: room for 64 rows of codes.
  // nullptr: the storage has no windows.
  void (*code_block)(intflash_cache& cache, const BlockPlace& place, std::int8_t* rows);
};

}  // namespace intflash::internal
