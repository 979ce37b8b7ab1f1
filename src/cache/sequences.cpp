// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "cache/kv_cache.h"

#include <algorithm>

#include "cache/storage.h"
#include "core/checks.h"

namespace intflash::internal {
namespace {

std::int64_t pages_for(const intflash_cache& cache, const Sequence& sequence, std::int64_t kv_len) {
  const std::int64_t tokens = kv_len - sequence.first_key_position;
  return (tokens + cache.layout.page_size - 1) / cache.layout.page_size;
}

// Whether new tokens begin within the last page.
bool writes_last(const intflash_cache& cache, const Sequence& sequence, std::int64_t count) {
  return count > 0 && (sequence.kv_len - sequence.first_key_position) % cache.layout.page_size != 0;
}

// What a batch adds to its sequences.
struct Extension {
  const std::int32_t* sequences;
  std::int64_t num_sequences;
  const std::int64_t* token_indptr;

  std::int64_t count(std::int64_t i) const { return token_indptr[i + 1] - token_indptr[i]; }
};

// ---- Pages in INT8 ----

// Keys that no query behind those of all layers sees in INT8, once so many tokens come.
KeyRange later_coded_keys(const intflash_cache& cache, const Sequence& sequence,
                          std::int64_t count) {
  if (count == 0) return sequence.coded_keys;
  const KeyRange keys = cache.window.coded_keys(sequence.shortest());
  return {keys.begin, std::max(keys.end, sequence.coded_keys.end)};
}

// Whether page i has a token in INT8.
bool has_int8(const intflash_cache& cache, const Sequence& sequence, KeyRange coded_keys,
              std::int64_t i) {
  const std::int64_t begin = sequence.first_key_position + i * cache.layout.page_size;
  return begin < coded_keys.begin || begin + cache.layout.page_size > coded_keys.end;
}

// Calls visit(a page's references) for those of a sequence that it is to give back.
template <class Visit>
void for_each_leaving(const intflash_cache& cache, const Sequence& sequence, KeyRange coded_keys,
                      Visit visit) {
  for (std::int64_t page = 0; page < sequence.window_pages.size(); ++page) {
    const std::int32_t id = sequence.window_pages[page];
    if (id != kNoPage && !has_int8(cache, sequence, coded_keys, page))
      visit(cache.window_pages.references[id]);
  }
}

// Pages of the window that the batch takes, less those that it gives back and nobody else holds. As
// with pages_needed each sequence gives up its references while they are counted.
std::int64_t window_pages_needed(intflash_cache& cache, const Extension& extension) {
  std::int64_t needed = 0;
  const auto for_each_last = [&](auto visit) {
    for (std::int64_t i = 0; i < extension.num_sequences; ++i) {
      const Sequence& sequence = cache.sequences[extension.sequences[i]];
      if (writes_last(cache, sequence, extension.count(i)))
        visit(cache.window_pages.references[sequence.window_pages.back()]);
    }
  };
  for (std::int64_t i = 0; i < extension.num_sequences; ++i) {
    const Sequence& sequence = cache.sequences[extension.sequences[i]];
    const KeyRange coded = later_coded_keys(cache, sequence, extension.count(i));
    const std::int64_t pages = pages_for(cache, sequence, sequence.kv_len + extension.count(i));
    for (std::int64_t page = sequence.pages.size(); page < pages; ++page)
      needed += has_int8(cache, sequence, coded, page) ? 1 : 0;
    for_each_leaving(cache, sequence, coded,
                     [&](std::int32_t& references) { needed -= --references == 0 ? 1 : 0; });
  }
  for_each_last([&](std::int32_t& references) { needed += --references > 0 ? 1 : 0; });
  for_each_last([](std::int32_t& references) { ++references; });
  for (std::int64_t i = 0; i < extension.num_sequences; ++i) {
    const Sequence& sequence = cache.sequences[extension.sequences[i]];
    for_each_leaving(cache, sequence, later_coded_keys(cache, sequence, extension.count(i)),
                     [](std::int32_t& references) { ++references; });
  }
  return needed;
}

// Gives back what no later query sees in INT8.
void leave_window(intflash_cache& cache, Sequence& sequence, std::int64_t count) {
  sequence.coded_keys = later_coded_keys(cache, sequence, count);
  for (std::int64_t page = 0; page < sequence.pages.size(); ++page) {
    std::int32_t& id = sequence.window_pages[page];
    if (id == kNoPage || has_int8(cache, sequence, sequence.coded_keys, page)) continue;
    cache.window_pages.release(id);
    id = kNoPage;
  }
}

// The last page, which gets tokens, for this sequence alone; and room for the pages behind it.
void extend_window(intflash_cache& cache, Sequence& sequence, bool writes_to_last,
                   std::int64_t pages) {
  PagePool& pool = cache.window_pages;
  if (writes_to_last && pool.references[sequence.window_pages.back()] > 1) {
    std::int32_t& last = sequence.window_pages.back();
    const std::int32_t copy = pool.take();
    cache.storage->copy_window_page(cache, last, copy);
    pool.release(last);
    last = copy;
  }
  while (sequence.window_pages.size() < pages) {
    const bool is_int8 =
        has_int8(cache, sequence, sequence.coded_keys, sequence.window_pages.size());
    sequence.window_pages.push(is_int8 ? pool.take() : kNoPage);
  }
}

// ---- Pages ----

// Pages that the batch takes. Of sequences that write to one page, the last needs no copy where
// nobody else holds it: while they are counted, each gives up its reference.
std::int64_t pages_needed(intflash_cache& cache, const Extension& extension) {
  std::int64_t needed = 0;
  for (std::int64_t i = 0; i < extension.num_sequences; ++i) {
    const Sequence& sequence = cache.sequences[extension.sequences[i]];
    const std::int64_t count = extension.count(i);
    needed += pages_for(cache, sequence, sequence.kv_len + count) - sequence.pages.size();
    if (writes_last(cache, sequence, count) && --cache.references[sequence.pages.back()] > 0)
      ++needed;
  }
  for (std::int64_t i = 0; i < extension.num_sequences; ++i) {
    const Sequence& sequence = cache.sequences[extension.sequences[i]];
    if (writes_last(cache, sequence, extension.count(i))) ++cache.references[sequence.pages.back()];
  }
  return needed;
}

// A page of this node, or of the next one that has some.
std::int32_t take_page(intflash_cache& cache, std::int32_t node) {
  while (cache.nodes[node].num_free == 0) node = (node + 1) % cache.num_nodes;
  NodePages& own = cache.nodes[node];
  const std::int32_t id = cache.free_pages[own.begin + --own.num_free];
  --cache.num_free;
  cache.references[id] = 1;
  return id;
}

void release_page(intflash_cache& cache, std::int32_t id) {
  if (--cache.references[id] > 0) return;
  NodePages& own = cache.nodes[cache.node_of(id)];
  cache.free_pages[own.begin + own.num_free++] = id;
  ++cache.num_free;
}

// Where a sequence's next page should lie: beside the one before it in the span, which is read by
// one worker at a time. Spans of a sequence go round the nodes, and so do first spans.
std::int32_t next_node(const intflash_cache& cache, std::int32_t slot) {
  if (cache.num_nodes == 1) return 0;
  const Sequence& sequence = cache.sequences[slot];
  const std::int64_t position =
      sequence.first_key_position + sequence.pages.size() * cache.layout.page_size;
  if (position % kSpanTokens != 0 && sequence.pages.size() > 0)
    return cache.node_of(sequence.pages.back());
  return cache.context->nodes.deal(slot + position / kSpanTokens);
}

}  // namespace

intflash_status check_sequence(const intflash_cache& cache, std::int32_t sequence) {
  if (sequence >= 0 && sequence < cache.sequences.size() && cache.sequences[sequence].kv_len >= 0)
    return INTFLASH_OK;
  return fail(INTFLASH_INVALID_ARGUMENT, "sequence = %d: names no sequence of the cache", sequence);
}

intflash_status check_layers(const intflash_cache& cache, std::int32_t sequence) {
  const Sequence& held = cache.sequences[sequence];
  for (std::int64_t layer = 1; layer < cache.num_layers; ++layer) {
    if (held.length(layer) == held.kv_len) continue;
    return fail(
        INTFLASH_BAD_SHAPE,
        "sequence = %d: layer %lld ends at position %lld: must have all tokens up to kv_len "
        "= %lld",
        sequence, static_cast<i64>(layer), static_cast<i64>(held.length(layer)),
        static_cast<i64>(held.kv_len));
  }
  return INTFLASH_OK;
}

bool has_window(const intflash_cache& cache, const Sequence& sequence, std::int64_t position) {
  const KeyRange coded = sequence.coded_keys;
  const std::int64_t first_coded = std::max(coded.begin, sequence.first_key_position);
  return first_coded >= coded.end || cache.window.coded_keys(position).end >= coded.end;
}

intflash_status report_no_window(const intflash_cache& cache, const char* name,
                                 const Sequence& sequence, std::int64_t position) {
  const KeyRange coded = sequence.coded_keys;
  return fail(
      INTFLASH_UNSUPPORTED,
      "%s = %lld: keys of its window at %lld ... %lld are no longer in INT8: must be at least %lld",
      name, static_cast<i64>(position), static_cast<i64>(cache.window.coded_keys(position).end),
      static_cast<i64>(coded.end - 1), static_cast<i64>(cache.window.first_without(coded.end)));
}

intflash_status extend_sequences(intflash_cache& cache, const std::int32_t* sequences,
                                 std::int64_t num_sequences, const std::int64_t* token_indptr) {
  const Extension extension{sequences, num_sequences, token_indptr};
  for (std::int64_t i = 0; i < num_sequences; ++i) {
    const std::int64_t kv_len = cache.sequences[sequences[i]].kv_len;
    if (kv_len <= kMaxExtent - extension.count(i)) continue;
    return fail(INTFLASH_BAD_SHAPE,
                "sequences[%lld] = %d: %lld tokens behind its %lld: must be at most %lld together",
                static_cast<i64>(i), sequences[i], static_cast<i64>(extension.count(i)),
                static_cast<i64>(kv_len), static_cast<i64>(kMaxExtent));
  }
  const std::int64_t needed = pages_needed(cache, extension);
  if (needed > cache.num_free) {
    return fail(INTFLASH_POOL_EXHAUSTED, "the batch needs %lld more pages: the cache has %lld free",
                static_cast<i64>(needed), static_cast<i64>(cache.num_free));
  }
  const std::int64_t in_window = cache.window.is_none() ? 0 : window_pages_needed(cache, extension);
  if (in_window > cache.window_pages.num_free) {
    return fail(INTFLASH_POOL_EXHAUSTED,
                "the batch needs %lld more pages for its windows: the cache has %lld free",
                static_cast<i64>(in_window), static_cast<i64>(cache.window_pages.num_free));
  }
  for (std::int64_t i = 0; i < num_sequences; ++i) {
    Sequence& sequence = cache.sequences[sequences[i]];
    const std::int64_t pages = pages_for(cache, sequence, sequence.kv_len + extension.count(i));
    if (sequence.pages.reserve(*cache.context, pages) &&
        (cache.window.is_none() || sequence.window_pages.reserve(*cache.context, pages)))
      continue;
    return fail(INTFLASH_OUT_OF_MEMORY, "no memory for a page table of %lld pages",
                static_cast<i64>(pages));
  }
  // What is given back may be what others take.
  for (std::int64_t i = 0; !cache.window.is_none() && i < num_sequences; ++i)
    leave_window(cache, cache.sequences[sequences[i]], extension.count(i));
  for (std::int64_t i = 0; i < num_sequences; ++i) {
    Sequence& sequence = cache.sequences[sequences[i]];
    const bool writes_to_last = writes_last(cache, sequence, extension.count(i));
    if (writes_to_last && cache.references[sequence.pages.back()] > 1) {
      std::int32_t& last = sequence.pages.back();
      const std::int32_t copy = take_page(cache, cache.node_of(last));
      const intflash_status status = cache.storage->copy_page(cache, last, copy);
      if (status != INTFLASH_OK) {
        release_page(cache, copy);
        while (--i >= 0) {
          Sequence& extended = cache.sequences[sequences[i]];
          shrink_sequence(cache, extended, extended.kv_len - extension.count(i));
        }
        return status;
      }
      release_page(cache, last);
      last = copy;
    }
    sequence.kv_len += extension.count(i);
    const std::int64_t pages = pages_for(cache, sequence, sequence.kv_len);
    while (sequence.pages.size() < pages)
      sequence.pages.push(take_page(cache, next_node(cache, sequences[i])));
    if (!cache.window.is_none()) extend_window(cache, sequence, writes_to_last, pages);
  }
  return INTFLASH_OK;
}

void shrink_sequence(intflash_cache& cache, Sequence& sequence, std::int64_t kv_len) {
  sequence.kv_len = kv_len;
  for (std::int64_t layer = 1; layer < cache.num_layers; ++layer)
    sequence.length(layer) = std::min(sequence.length(layer), kv_len);
  const std::int64_t pages = pages_for(cache, sequence, kv_len);
  while (sequence.pages.size() > pages) {
    release_page(cache, sequence.pages.back());
    sequence.pages.pop();
  }
  while (sequence.window_pages.size() > pages) {
    if (sequence.window_pages.back() != kNoPage)
      cache.window_pages.release(sequence.window_pages.back());
    sequence.window_pages.pop();
  }
  // What is left is in INT8, all of it.
  if (kv_len <= sequence.coded_keys.begin || pages == 0)
    sequence.coded_keys.end = sequence.coded_keys.begin;
}

intflash_status create_sequence(intflash_cache& cache, std::int32_t& sequence) {
  std::int32_t slot = 0;
  while (slot < cache.sequences.size() && cache.sequences[slot].kv_len != kFreeSlot) ++slot;
  if (slot == cache.sequences.size()) {
    if (slot == INT32_MAX || !cache.sequences.reserve(*cache.context, slot + 1)) {
      return fail(INTFLASH_OUT_OF_MEMORY, "no memory for %lld sequences",
                  static_cast<i64>(slot) + 1);
    }
    cache.sequences.push(Sequence{});
  }
  Sequence& created = cache.sequences[slot];
  if (!created.later_lens.reserve(*cache.context, cache.num_layers - 1)) {
    return fail(INTFLASH_OUT_OF_MEMORY, "no memory for the lengths of %lld layers",
                static_cast<i64>(cache.num_layers));
  }
  while (created.later_lens.size() < cache.num_layers - 1) created.later_lens.push(0);
  created.first_key_position = created.kv_len = 0;
  created.coded_keys = {cache.window.sink_end(), cache.window.sink_end()};
  ++cache.num_sequences;
  sequence = slot;
  return INTFLASH_OK;
}

void free_sequence(intflash_cache& cache, std::int32_t sequence) {
  Sequence& freed = cache.sequences[sequence];
  shrink_sequence(cache, freed, freed.first_key_position);
  freed.pages.release(*cache.context);
  freed.later_lens.release(*cache.context);
  freed.window_pages.release(*cache.context);
  freed.kv_len = kFreeSlot;
  --cache.num_sequences;
}

}  // namespace intflash::internal

using namespace intflash::internal;

extern "C" {

intflash_status intflash_sequence_create(intflash_cache* cache, int32_t* sequence) {
  if (cache == nullptr || sequence == nullptr)
    return fail(INTFLASH_INVALID_ARGUMENT, "cache = %p, sequence = %p: must not be NULL",
                static_cast<void*>(cache), static_cast<void*>(sequence));
  const CacheChange change(*cache);
  const intflash_status status = change.status();
  return status == INTFLASH_OK ? create_sequence(*cache, *sequence) : status;
}

intflash_status intflash_sequence_free(intflash_cache* cache, int32_t sequence) {
  if (cache == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "cache = NULL: create one first");
  const CacheChange change(*cache);
  intflash_status status = change.status();
  if (status == INTFLASH_OK) status = check_sequence(*cache, sequence);
  if (status == INTFLASH_OK) free_sequence(*cache, sequence);
  return status;
}

intflash_status intflash_sequence_fork(intflash_cache* cache, int32_t sequence, int32_t* fork) {
  if (cache == nullptr || fork == nullptr)
    return fail(INTFLASH_INVALID_ARGUMENT, "cache = %p, fork = %p: must not be NULL",
                static_cast<void*>(cache), static_cast<void*>(fork));
  const CacheChange change(*cache);
  intflash_status status = change.status();
  if (status == INTFLASH_OK) status = check_sequence(*cache, sequence);
  if (status == INTFLASH_OK) status = check_layers(*cache, sequence);
  if (status != INTFLASH_OK) return status;
  // A page of the window has no more references than the one that it belongs to.
  for (std::int64_t i = 0; i < cache->sequences[sequence].pages.size(); ++i) {
    if (cache->references[cache->sequences[sequence].pages[i]] < INT32_MAX) continue;
    return fail(INTFLASH_UNSUPPORTED, "sequence = %d: a page of it is at its %d references",
                sequence, INT32_MAX);
  }
  std::int32_t created = 0;
  status = create_sequence(*cache, created);
  if (status != INTFLASH_OK) return status;
  const Sequence& from = cache->sequences[sequence];
  Sequence& to = cache->sequences[created];
  if (!to.pages.reserve(*cache->context, from.pages.size()) ||
      !to.window_pages.reserve(*cache->context, from.window_pages.size())) {
    free_sequence(*cache, created);
    return fail(INTFLASH_OUT_OF_MEMORY, "no memory for a page table of %lld pages",
                static_cast<i64>(from.pages.size()));
  }
  for (std::int64_t i = 0; i < from.pages.size(); ++i) {
    ++cache->references[from.pages[i]];
    to.pages.push(from.pages[i]);
  }
  for (std::int64_t i = 0; i < from.window_pages.size(); ++i) {
    const std::int32_t id = from.window_pages[i];
    if (id != kNoPage) ++cache->window_pages.references[id];
    to.window_pages.push(id);
  }
  to.coded_keys = from.coded_keys;
  to.first_key_position = from.first_key_position;
  for (std::int64_t layer = 0; layer < cache->num_layers; ++layer)
    to.length(layer) = from.length(layer);
  *fork = created;
  return INTFLASH_OK;
}

intflash_status intflash_sequence_truncate(intflash_cache* cache, int32_t sequence,
                                           int64_t kv_len) {
  if (cache == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "cache = NULL: create one first");
  const CacheChange change(*cache);
  intflash_status status = change.status();
  if (status == INTFLASH_OK) status = check_sequence(*cache, sequence);
  if (status != INTFLASH_OK) return status;
  Sequence& truncated = cache->sequences[sequence];
  if (kv_len < truncated.first_key_position || kv_len > truncated.kv_len) {
    return fail(INTFLASH_BAD_SHAPE, "kv_len = %lld: sequence %d holds positions %lld ... %lld",
                static_cast<i64>(kv_len), sequence, static_cast<i64>(truncated.first_key_position),
                static_cast<i64>(truncated.kv_len));
  }
  const bool keeps_none = kv_len == truncated.first_key_position;
  if (!keeps_none && kv_len > truncated.coded_keys.begin && !has_window(*cache, truncated, kv_len))
    return report_no_window(*cache, "kv_len", truncated, kv_len);
  shrink_sequence(*cache, truncated, kv_len);
  return INTFLASH_OK;
}

intflash_status intflash_sequence_drop_before(intflash_cache* cache, int32_t sequence,
                                              int64_t position) {
  if (cache == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "cache = NULL: create one first");
  const CacheChange change(*cache);
  intflash_status status = change.status();
  if (status == INTFLASH_OK) status = check_sequence(*cache, sequence);
  if (status != INTFLASH_OK) return status;
  Sequence& dropped = cache->sequences[sequence];
  if (position < 0 || position > dropped.shortest()) {
    return fail(INTFLASH_BAD_SHAPE, "position = %lld: must be 0 ... kv_len = %lld of sequence %d",
                static_cast<i64>(position), static_cast<i64>(dropped.shortest()), sequence);
  }
  const std::int64_t page_size = cache->layout.page_size;
  const std::int64_t first = position / page_size * page_size;
  const std::int64_t pages = (first - dropped.first_key_position) / page_size;
  if (pages <= 0) return INTFLASH_OK;
  for (std::int64_t i = 0; i < pages; ++i) release_page(*cache, dropped.pages[i]);
  dropped.pages.erase_front(pages);
  if (!cache->window.is_none()) {
    for (std::int64_t i = 0; i < pages; ++i)
      if (dropped.window_pages[i] != kNoPage) cache->window_pages.release(dropped.window_pages[i]);
    dropped.window_pages.erase_front(pages);
  }
  dropped.first_key_position = first;
  return INTFLASH_OK;
}

intflash_status intflash_sequence_get_range(const intflash_cache* cache, int32_t sequence,
                                            int64_t* first_key_position, int64_t* kv_len) {
  if (cache == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "cache = NULL: create one first");
  const intflash_status status = check_sequence(*cache, sequence);
  if (status != INTFLASH_OK) return status;
  if (first_key_position != nullptr)
    *first_key_position = cache->sequences[sequence].first_key_position;
  if (kv_len != nullptr) *kv_len = cache->sequences[sequence].kv_len;
  return INTFLASH_OK;
}

intflash_status intflash_sequence_get_pages(const intflash_cache* cache, int32_t sequence,
                                            const int32_t** page_ids, int64_t* num_pages) {
  if (cache == nullptr || page_ids == nullptr || num_pages == nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "cache = %p, page_ids = %p, num_pages = %p: must not be NULL",
                static_cast<const void*>(cache), static_cast<void*>(page_ids),
                static_cast<void*>(num_pages));
  }
  const intflash_status status = check_sequence(*cache, sequence);
  if (status != INTFLASH_OK) return status;
  *page_ids = cache->sequences[sequence].pages.data();
  *num_pages = cache->sequences[sequence].pages.size();
  return INTFLASH_OK;
}

}  // extern "C"
