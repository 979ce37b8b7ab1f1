// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "cache/storage.h"
#include "core/checks.h"

namespace intflash::internal {
namespace {

intflash_status check_target(const char* name, const intflash_tensor* tensor,
                             const intflash_cache& cache, std::int64_t tokens, std::int64_t dim) {
  if (tensor == nullptr) return INTFLASH_OK;
  const TensorView view{name,   tensor, INTFLASH_F32, cache.num_layers, cache.num_kv_heads,
                        tokens, dim};
  const intflash_status status = check_tensor(view);
  return status == INTFLASH_OK ? check_no_overlap(view) : status;
}

intflash_status export_tokens(const Export& wanted) {
  const intflash_cache& cache = wanted.cache;
  const PageLayout& layout = cache.layout;
  const std::int64_t tokens = wanted.end - wanted.begin;
  intflash_status status = check_target("key", wanted.key, cache, tokens, layout.head_dim);
  if (status == INTFLASH_OK)
    status = check_target("value", wanted.value, cache, tokens, layout.head_dim_v);
  if (status != INTFLASH_OK || tokens == 0) return status;
  return cache.storage->export_rows(wanted);
}

}  // namespace

}  // namespace intflash::internal

using namespace intflash::internal;

extern "C" {

intflash_status intflash_cache_export(const intflash_cache* cache, const int32_t* page_ids,
                                      int64_t begin, int64_t end, const intflash_tensor* key,
                                      const intflash_tensor* value) {
  if (cache == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "cache = NULL: create one first");
  if (begin < 0 || end < begin || end > kMaxExtent) {
    return fail(INTFLASH_BAD_SHAPE, "begin = %lld, end = %lld: must be 0 <= begin <= end <= %lld",
                static_cast<i64>(begin), static_cast<i64>(end), static_cast<i64>(kMaxExtent));
  }
  const std::int64_t page_size = cache->layout.page_size;
  const std::int64_t pages = (end + page_size - 1) / page_size;
  if (page_ids == nullptr && pages > 0)
    return fail(INTFLASH_INVALID_ARGUMENT, "page_ids = NULL: must name the pages");
  intflash_status status = check_pages_are_callers(*cache);
  if (status == INTFLASH_OK) status = check_pointer("page_ids", page_ids);
  if (status != INTFLASH_OK) return status;
  for (std::int64_t i = 0; i < pages; ++i) {
    if (page_ids[i] >= 0 && page_ids[i] < cache->num_pages) continue;
    return fail(INTFLASH_INVALID_ARGUMENT, "page_ids[%lld] = %d: must be 0 ... %lld",
                static_cast<i64>(i), page_ids[i], static_cast<i64>(cache->num_pages - 1));
  }
  return export_tokens({*cache, {page_ids, pages, 0, 0, nullptr, {}}, begin, end, key, value});
}

intflash_status intflash_sequence_export(const intflash_cache* cache, int32_t sequence,
                                         int64_t begin, int64_t end, const intflash_tensor* key,
                                         const intflash_tensor* value) {
  if (cache == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "cache = NULL: create one first");
  const intflash_status status = check_sequence(*cache, sequence);
  if (status != INTFLASH_OK) return status;
  const Sequence& held = cache->sequences[sequence];
  if (begin < held.first_key_position || end < begin || end > held.shortest()) {
    return fail(INTFLASH_BAD_SHAPE,
                "begin = %lld, end = %lld: sequence %d holds positions %lld ... %lld",
                static_cast<i64>(begin), static_cast<i64>(end), sequence,
                static_cast<i64>(held.first_key_position), static_cast<i64>(held.shortest()));
  }
  return export_tokens({*cache, held.run(0), begin, end, key, value});
}

}  // extern "C"
