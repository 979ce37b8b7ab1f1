// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "cache/page_table.h"

#include "cache/kv_cache.h"
#include "core/checks.h"

namespace intflash::internal {
namespace {

// What an append adds to one request: count tokens from position begin on.
struct NewTokens {
  std::int64_t begin;
  std::int64_t count;
  PageRun pages;
};
NewTokens new_tokens(const intflash_append_args& args, std::int64_t request) {
  return {args.kv_lens[request], args.token_indptr[request + 1] - args.token_indptr[request],
          page_run(args.pages, request,
                   args.first_key_positions == nullptr ? 0 : args.first_key_positions[request],
                   args.layer)};
}

// Calls visit(page id) for each page that they are written to.
template <class Visit>
void for_each_written(const NewTokens& tokens, std::int64_t page_size, Visit visit) {
  if (tokens.count == 0) return;
  const std::int64_t begin = tokens.begin - tokens.pages.first_key_position;
  const std::int64_t last = begin + tokens.count - 1;
  for (std::int64_t i = begin / page_size; i <= last / page_size; ++i)
    visit(tokens.pages.page_ids[i]);
}

}  // namespace

intflash_status check_page_table(const intflash_page_table& table, std::int64_t num_requests) {
  if (num_requests == 0) return INTFLASH_OK;
  if (table.page_indptr == nullptr)
    return fail(INTFLASH_INVALID_ARGUMENT, "page_indptr = NULL: must point to num_requests + 1");
  intflash_status status = check_pointer("page_indptr", table.page_indptr);
  if (status == INTFLASH_OK) status = check_pointer("page_ids", table.page_ids);
  if (status != INTFLASH_OK) return status;
  std::int64_t least = 0;
  for (std::int64_t r = 0; r <= num_requests; ++r) {
    if (table.page_indptr[r] < least) {
      return fail(INTFLASH_BAD_SHAPE, "page_indptr[%lld] = %lld: must be at least %lld",
                  static_cast<i64>(r), static_cast<i64>(table.page_indptr[r]),
                  static_cast<i64>(least));
    }
    least = table.page_indptr[r];
  }
  if (least > 0 && table.page_ids == nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "page_ids = NULL: must point to page_indptr[%lld] = %lld of them",
                static_cast<i64>(num_requests), static_cast<i64>(least));
  }
  return INTFLASH_OK;
}

intflash_status check_pages(const intflash_cache& cache, std::int64_t request, const PageRun& run,
                            KeyRange keys, PageSet seen) {
  const std::int64_t page_size = cache.layout.page_size;
  if (run.first_key_position < 0 || run.first_key_position % page_size != 0) {
    return fail(INTFLASH_BAD_SHAPE,
                "request %lld: first_key_position = %lld: must be a multiple of page_size = %lld",
                static_cast<i64>(request), static_cast<i64>(run.first_key_position),
                static_cast<i64>(page_size));
  }
  if (keys.end < run.first_key_position) {
    return fail(INTFLASH_BAD_SHAPE,
                "request %lld: kv_len = %lld: must be at least first_key_position = %lld",
                static_cast<i64>(request), static_cast<i64>(keys.end),
                static_cast<i64>(run.first_key_position));
  }
  const std::int64_t first = (keys.begin - run.first_key_position) / page_size;
  const std::int64_t needed = (keys.end - run.first_key_position + page_size - 1) / page_size;
  if (run.num_pages < needed) {
    return fail(INTFLASH_BAD_SHAPE,
                "request %lld: %lld pages in its table: keys up to %lld need %lld of %lld tokens",
                static_cast<i64>(request), static_cast<i64>(run.num_pages),
                static_cast<i64>(keys.end), static_cast<i64>(needed), static_cast<i64>(page_size));
  }
  for (std::int64_t i = first; i < needed; ++i) {
    if (run.page_ids[i] >= 0 && run.page_ids[i] < cache.num_pages) {
      seen.remove(run.page_ids[i]);
      continue;
    }
    return fail(INTFLASH_INVALID_ARGUMENT, "request %lld: page_ids[%lld] = %d: must be 0 ... %lld",
                static_cast<i64>(request), static_cast<i64>(i), run.page_ids[i],
                static_cast<i64>(cache.num_pages - 1));
  }
  for (std::int64_t i = first; i < needed; ++i) {
    if (seen.insert(run.page_ids[i])) continue;
    return fail(INTFLASH_INVALID_ARGUMENT,
                "request %lld: page_ids[%lld] = %d: stands twice in the request's table",
                static_cast<i64>(request), static_cast<i64>(i), run.page_ids[i]);
  }
  return INTFLASH_OK;
}

intflash_status check_append_pages(const intflash_cache& cache, const intflash_append_args& args) {
  intflash_status status = check_page_table(args.pages, args.num_requests);
  if (status != INTFLASH_OK) return status;
  const PageSet seen{cache.slot_set};
  for (std::int64_t r = 0; r < args.num_requests; ++r) {
    const NewTokens tokens = new_tokens(args, r);
    const std::int64_t least = tokens.pages.first_key_position;
    const std::int64_t most = kMaxExtent - tokens.count;
    if (tokens.begin < least || tokens.begin > most) {
      return fail(INTFLASH_BAD_SHAPE,
                  "kv_lens[%lld] = %lld: must be first_key_position = %lld ... %lld",
                  static_cast<i64>(r), static_cast<i64>(tokens.begin), static_cast<i64>(least),
                  static_cast<i64>(most));
    }
    status = check_pages(cache, r, tokens.pages, {least, tokens.begin + tokens.count}, seen);
    if (status != INTFLASH_OK) return status;
  }
  // Requests may share pages that they only read.
  const std::int64_t page_size = cache.layout.page_size;
  for (std::int64_t r = 0; r < args.num_requests; ++r)
    for_each_written(new_tokens(args, r), page_size, [&](std::int32_t id) { seen.remove(id); });
  for (std::int64_t r = 0; status == INTFLASH_OK && r < args.num_requests; ++r) {
    for_each_written(new_tokens(args, r), page_size, [&](std::int32_t id) {
      if (seen.insert(id) || status != INTFLASH_OK) return;
      status = fail(INTFLASH_INVALID_ARGUMENT,
                    "request %lld: page %d: a request before it appends to the same page",
                    static_cast<i64>(r), id);
    });
  }
  return status;
}

}  // namespace intflash::internal
