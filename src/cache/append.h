// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// New tokens into the pages of a cache. Whole blocks of 64 tokens are packed by the port; the
// tokens of a block that is begun or ends within the call are stored one by one, to the same bytes.
#pragma once

#include <atomic>
#include <cstdint>

#include "cache/kv_cache.h"
#include "engine/team.h"
#include "intflash/cache.h"

namespace intflash::internal {

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
  // Before anything is appended.
  std::int64_t kv_len(std::int64_t request) const {
    return sequences != nullptr ? cache.sequences[sequences[request]].kv_len
                                : args.kv_lens[request];
  }
  PageRun pages(std::int64_t request) const {
    if (sequences != nullptr) {
      const Sequence& sequence = cache.sequences[sequences[request]];
      return {sequence.pages.data(), sequence.pages.size(), sequence.first_key_position};
    }
    return page_run(args.pages, request,
                    args.first_key_positions == nullptr ? 0 : args.first_key_positions[request]);
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
// That all elements are finite and in range, and rope has the tokens' positions; or the error that
// names the lowest that is not.
intflash_status check_tokens(const Append& append);

}  // namespace intflash::internal
