// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// New tokens into the pages of a cache: quantized, and stored by its codec, block by block of 64
// tokens or parts of them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "cache/kv_cache.h"
#include "intflash/cache.h"
#include "threads/team.h"

namespace intflash::internal {

// New tokens that lie one after another in one block of 64.
struct BlockTokens {
  std::int64_t slot;      // of the first one: page * page_size + its place in the page
  std::int64_t position;  // of it in its request; not read where rope is none
  std::int64_t first;     // its row of key and value
  std::int64_t count;
};

struct Append {
  intflash_cache& cache;
  const intflash_append_args& args;
  const std::int32_t* sequences;  // nullptr: page tables are the caller's

  const KernelTable& kernels() const { return *cache.context->port->kernels; }
  std::int64_t first_token(std::int64_t request) const { return args.token_indptr[request]; }
  std::int64_t count(std::int64_t request) const {
    return args.token_indptr[request + 1] - args.token_indptr[request];
  }
  std::int64_t num_tokens() const {
    return args.num_requests == 0 ? 0 : args.token_indptr[args.num_requests];
  }
  // Of the layer, in the books: before anything is appended, or after it.
  std::int64_t kv_len(std::int64_t request) const {
    return sequences != nullptr ? cache.sequences[sequences[request]].length(args.layer)
                                : args.kv_lens[request];
  }
  PageRun pages(std::int64_t request) const {
    if (sequences != nullptr) return cache.sequences[sequences[request]].run(args.layer);
    return page_run(args.pages, request,
                    args.first_key_positions == nullptr ? 0 : args.first_key_positions[request],
                    args.layer);
  }

  // Calls visit(first, count) for runs of a request's rows that go to the cache.
  template <class Visit>
  void for_each_stored(std::int64_t request, Visit visit) const {
    const std::int64_t end = args.token_indptr[request + 1];
    for (std::int64_t first = first_token(request); first < end;) {
      std::int64_t last = args.slots == nullptr ? end : first;
      while (last < end && args.slots[last] >= 0) ++last;
      if (last > first) visit(first, last - first);
      first = std::max(last, first + 1);
    }
  }

  // Calls task(worker, request, kv_head) for each of both, in parallel.
  template <class TaskFn>
  void for_each_head(TaskFn task) const {
    const std::int64_t heads = cache.num_kv_heads;
    std::atomic<std::int64_t> next;
    for_each_task(cache.context->parallel, workers_for(*cache.context, num_tokens() * heads),
                  args.num_requests * heads, next,
                  [&](std::int32_t worker, std::int64_t i) { task(worker, i / heads, i % heads); });
  }
};

// Copies args, and checks everything of them but page tables and elements; own_pages: page tables
// are the cache's.
intflash_status read_append_args(const intflash_cache* cache, const intflash_append_args* given,
                                 bool own_pages, intflash_append_args& args);
// Slots that are given, each for one token.
intflash_status check_slots(const intflash_cache& cache, const intflash_append_args& args);
// That all elements are finite and in range, and rope has the tokens' positions; or the error that
// names the lowest that is not.
intflash_status check_tokens(const Append& append);

}  // namespace intflash::internal
