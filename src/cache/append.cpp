// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "cache/storage.h"
#include "core/checks.h"
#include "core/structs.h"
#include "inputs/rope.h"
#include "inputs/tensor.h"

namespace intflash::internal {
namespace {

// Everything but elements and scales. change: what is done to elements before they are quantized;
// nullptr = nothing.
intflash_status check_new_tokens(const TensorView& view, const char* change) {
  const intflash_status status = check_kv_dtype(view.name, view.dtype, view.dim);
  if (status == INTFLASH_OK && view.dtype == INTFLASH_INT8 && change != nullptr) {
    return fail(INTFLASH_UNSUPPORTED,
                "%s_dtype = INT8 with %s: codes cannot be changed; do it before quantizing",
                view.name, change);
  }
  return status == INTFLASH_OK ? check_tensor(view) : status;
}
const char* change_of_keys(const intflash_cache& cache, const intflash_append_args& args) {
  if (args.rope.cos != nullptr) return "rope";
  if (cache.rotation.keys) return "a cache that rotates keys";
  return cache.key_center != nullptr ? "a cache with key_center" : nullptr;
}
const char* change_of_values(const intflash_cache& cache) {
  if (cache.rotation.values) return "a cache that rotates values";
  return cache.value_center != nullptr ? "a cache with value_center" : nullptr;
}

// Copies args, and checks everything of them but page tables and elements; own_pages: page tables
// are the cache's.
intflash_status read_append_args(const intflash_cache* cache, const intflash_append_args* given,
                                 bool own_pages, intflash_append_args& args) {
  if (cache == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "cache = NULL: create one first");
  intflash_status status = read_struct("args", "intflash_append_args", given, args);
  if (status != INTFLASH_OK) return status;
  status = check_layer(*cache, args.layer);
  if (status != INTFLASH_OK || args.num_requests == 0) return status;
  if (args.token_indptr == nullptr ||
      (!own_pages && args.slots == nullptr && args.kv_lens == nullptr))
    return fail(INTFLASH_INVALID_ARGUMENT, "token_indptr and kv_lens: must not be NULL");
  if (own_pages && args.slots != nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "slots = %p: must be NULL: where tokens of sequences go is the cache's choice",
                static_cast<const void*>(args.slots));
  }
  if (args.slots == nullptr && args.positions != nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "positions = %p: must be NULL without slots: tokens stand where they are appended",
                static_cast<const void*>(args.positions));
  }
  status = check_pointer("token_indptr", args.token_indptr);
  if (status == INTFLASH_OK) status = check_pointer("slots", args.slots);
  if (status == INTFLASH_OK) status = check_pointer("positions", args.positions);
  if (status == INTFLASH_OK && !own_pages) status = check_pointer("kv_lens", args.kv_lens);
  if (status == INTFLASH_OK && !own_pages)
    status = check_pointer("first_key_positions", args.first_key_positions);
  if (status == INTFLASH_OK) status = check_extent("num_requests", args.num_requests, 0);
  if (status != INTFLASH_OK) return status;
  if (args.token_indptr[0] != 0) {
    return fail(INTFLASH_BAD_SHAPE, "token_indptr[0] = %lld: must be 0",
                static_cast<i64>(args.token_indptr[0]));
  }
  for (std::int64_t r = 0; r < args.num_requests; ++r) {
    if (args.token_indptr[r + 1] >= args.token_indptr[r] && args.token_indptr[r + 1] <= kMaxExtent)
      continue;
    return fail(INTFLASH_BAD_SHAPE, "token_indptr[%lld] = %lld: must be %lld ... %lld",
                static_cast<i64>(r + 1), static_cast<i64>(args.token_indptr[r + 1]),
                static_cast<i64>(args.token_indptr[r]), static_cast<i64>(kMaxExtent));
  }
  const std::int64_t tokens = args.token_indptr[args.num_requests];
  status = check_new_tokens(
      {"key", &args.key, args.key_dtype, 1, cache->num_kv_heads, tokens, cache->layout.head_dim},
      change_of_keys(*cache, args));
  if (status != INTFLASH_OK) return status;
  status = check_new_tokens({"value", &args.value, args.value_dtype, 1, cache->num_kv_heads, tokens,
                             cache->layout.head_dim_v},
                            change_of_values(*cache));
  return status == INTFLASH_OK ? check_rope(args.rope, cache->layout.head_dim) : status;
}

// Slots that are given, each for one token.
intflash_status check_slots(const intflash_cache& cache, const intflash_append_args& args) {
  if (args.kv_lens != nullptr || args.first_key_positions != nullptr ||
      args.pages.page_indptr != nullptr || args.pages.page_ids != nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "slots = %p: kv_lens, first_key_positions and pages must be NULL beside it",
                static_cast<const void*>(args.slots));
  }
  if (args.rope.cos != nullptr && args.positions == nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "positions = NULL: must say where tokens stand, with rope and slots");
  }
  const std::int64_t num_slots = cache.num_pages * cache.layout.page_size;
  const std::int64_t tokens = args.token_indptr[args.num_requests];
  const PageSet seen{cache.slot_set};
  for (std::int64_t i = 0; i < tokens; ++i) {
    if (args.slots[i] >= -1 && args.slots[i] < num_slots) {
      if (args.slots[i] >= 0) seen.remove(args.slots[i]);
      continue;
    }
    return fail(INTFLASH_INVALID_ARGUMENT, "slots[%lld] = %lld: must be -1 ... %lld",
                static_cast<i64>(i), static_cast<i64>(args.slots[i]),
                static_cast<i64>(num_slots - 1));
  }
  for (std::int64_t i = 0; i < tokens; ++i) {
    if (args.slots[i] < 0 || seen.insert(args.slots[i])) continue;
    return fail(INTFLASH_INVALID_ARGUMENT, "slots[%lld] = %lld: a token before it goes there",
                static_cast<i64>(i), static_cast<i64>(args.slots[i]));
  }
  return INTFLASH_OK;
}

// That rope has the positions of all tokens that are stored.
intflash_status check_positions(const Append& append) {
  const intflash_append_args& args = append.args;
  intflash_status status = INTFLASH_OK;
  if (args.rope.cos == nullptr) return status;
  for (std::int64_t r = 0; args.slots == nullptr && r < args.num_requests; ++r) {
    const std::int64_t position = append.position(r);
    if (status == INTFLASH_OK)
      status = check_rope_positions(args.rope, r, position, position + append.count(r));
  }
  for (std::int64_t i = 0; args.slots != nullptr && i < append.num_tokens(); ++i) {
    if (status == INTFLASH_OK && args.slots[i] >= 0)
      status = check_rope_position(args.rope, i, args.positions[i]);
  }
  return status;
}

// That each of sequences names one, and no two the same.
intflash_status check_sequences(const intflash_cache& cache, const std::int32_t* sequences,
                                std::int64_t num_requests) {
  if (sequences == nullptr && num_requests > 0)
    return fail(INTFLASH_INVALID_ARGUMENT, "sequences = NULL: must name a sequence per request");
  const intflash_status aligned = check_pointer("sequences", sequences);
  if (aligned != INTFLASH_OK) return aligned;
  for (std::int64_t r = 0; r < num_requests; ++r) {
    const intflash_status status = check_sequence(cache, sequences[r]);
    if (status != INTFLASH_OK) return status;
    cache.sequences[sequences[r]].request = -1;
  }
  for (std::int64_t r = 0; r < num_requests; ++r) {
    std::int64_t& request = cache.sequences[sequences[r]].request;
    if (request >= 0) {
      return fail(INTFLASH_INVALID_ARGUMENT, "sequences[%lld] = %d: is sequences[%lld] already",
                  static_cast<i64>(r), sequences[r], static_cast<i64>(request));
    }
    request = r;
  }
  return INTFLASH_OK;
}

// Makes the sequences longer in the call's layer. Pages come with layer 0.
intflash_status extend_layer(const Append& append) {
  const intflash_append_args& args = append.args;
  if (args.layer == 0)
    return extend_sequences(append.cache, append.sequences, args.num_requests, args.token_indptr);
  for (std::int64_t r = 0; r < args.num_requests; ++r) {
    const std::int64_t kv_len = append.cache.sequences[append.sequences[r]].kv_len;
    if (append.count(r) <= kv_len - append.position(r)) continue;
    return fail(INTFLASH_BAD_SHAPE,
                "sequences[%lld] = %d: %lld tokens behind the %lld of layer %lld: must be at most "
                "%lld together, those of layer 0",
                static_cast<i64>(r), append.sequences[r], static_cast<i64>(append.count(r)),
                static_cast<i64>(append.position(r)), static_cast<i64>(args.layer),
                static_cast<i64>(kv_len));
  }
  for (std::int64_t r = 0; r < args.num_requests; ++r)
    append.cache.sequences[append.sequences[r]].length(args.layer) += append.count(r);
  return INTFLASH_OK;
}

// What extend_layer has done, undone. Of a storage without windows.
void shorten_layer(const Append& append) {
  for (std::int64_t r = 0; r < append.args.num_requests; ++r) {
    Sequence& sequence = append.cache.sequences[append.sequences[r]];
    if (append.args.layer == 0) {
      shrink_sequence(append.cache, sequence, sequence.kv_len - append.count(r));
    } else {
      sequence.length(append.args.layer) -= append.count(r);
    }
  }
}

}  // namespace
}  // namespace intflash::internal

using namespace intflash::internal;

extern "C" {

intflash_status intflash_cache_append(intflash_cache* cache, const intflash_append_args* given) {
  intflash_append_args args;
  intflash_status status = read_append_args(cache, given, false, args);
  if (status != INTFLASH_OK) return status;
  status = check_pages_are_callers(*cache);
  if (status != INTFLASH_OK) return status;
  const CacheChange change(*cache);
  const Append append{*cache, args, nullptr};
  status = change.status();
  if (status == INTFLASH_OK)
    status = args.slots == nullptr ? check_append_pages(*cache, args) : check_slots(*cache, args);
  if (status == INTFLASH_OK) status = check_positions(append);
  if (status == INTFLASH_OK) status = cache->storage->check_tokens(append);
  return status == INTFLASH_OK ? cache->storage->append(append) : status;
}

intflash_status intflash_sequences_append(intflash_cache* cache, const int32_t* sequences,
                                          const intflash_append_args* given) {
  intflash_append_args args;
  intflash_status status = read_append_args(cache, given, true, args);
  if (status != INTFLASH_OK) return status;
  const CacheChange change(*cache);
  Append append{*cache, args, sequences};
  status = change.status();
  if (status == INTFLASH_OK) status = check_sequences(*cache, sequences, args.num_requests);
  if (status == INTFLASH_OK) status = check_positions(append);
  if (status == INTFLASH_OK) status = cache->storage->check_tokens(append);
  if (status == INTFLASH_OK) status = extend_layer(append);
  if (status != INTFLASH_OK) return status;
  append.is_in_books = true;
  status = cache->storage->append(append);
  if (status != INTFLASH_OK) shorten_layer(append);
  return status;
}

}  // extern "C"
