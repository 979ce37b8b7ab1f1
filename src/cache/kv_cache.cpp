// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "cache/kv_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "core/checks.h"
#include "machine/page_memory.h"

namespace intflash::internal {
namespace {

constexpr std::size_t kAlignment = 64;

// Rows below which starting a team costs more than it brings.
constexpr std::int64_t kRowsPerWorker = 256;

intflash_status check_option(const char* name, int value, int most) {
  if (value >= 0 && value <= most) return INTFLASH_OK;
  return fail(INTFLASH_INVALID_ARGUMENT, "%s = %d: must be 0 ... %d", name, value, most);
}

intflash_status check_cache_options(const intflash_cache_options* options) {
  if (options == nullptr)
    return fail(INTFLASH_INVALID_ARGUMENT, "options = NULL: must point to the cache's shape");
  if (options->struct_size != sizeof *options) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "options.struct_size = %u: must be sizeof(intflash_cache_options) = %zu",
                options->struct_size, sizeof *options);
  }
  intflash_status status = check_extent("num_kv_heads", options->num_kv_heads, 1);
  if (status == INTFLASH_OK) status = check_extent("num_pages", options->num_pages, 1);
  if (status == INTFLASH_OK) status = check_head_dim("head_dim", options->head_dim);
  if (status == INTFLASH_OK && options->head_dim_v != 0)
    status = check_head_dim("head_dim_v", options->head_dim_v);
  if (status == INTFLASH_OK) status = check_rotated_dim(options->rotate, options->head_dim);
  if (status != INTFLASH_OK) return status;
  const std::int64_t page_size = options->page_size;
  if (page_size != 0 && page_size != 64 && page_size != 128 && page_size != 256) {
    return fail(INTFLASH_BAD_SHAPE,
                "page_size = %lld: must be 64, 128 or 256; let one page stand for several "
                "consecutive smaller blocks, 64 / page_size of them where that is a whole number",
                static_cast<i64>(page_size));
  }
  status = check_option("huge_pages", options->huge_pages, INTFLASH_HUGE_PAGES_AVOID);
  return status == INTFLASH_OK ? check_option("numa", options->numa, INTFLASH_NUMA_LOCAL) : status;
}

// A copy of centres, or nullptr where none were given.
bool copy_center(const intflash_context& context, const float* given, std::int64_t count,
                 float*& copy) {
  if (given == nullptr) return true;
  const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(float);
  copy = static_cast<float*>(context.allocate(context.allocator_user, bytes, kAlignment));
  if (copy != nullptr) std::memcpy(copy, given, bytes);
  return copy != nullptr;
}

// Everything that the cache allocates; false: no memory.
bool allocate_parts(intflash_cache& cache, const intflash_cache_options& options) {
  const intflash_context& context = *cache.context;
  const auto allocate = [&](std::size_t bytes) {
    return context.allocate(context.allocator_user, bytes, kAlignment);
  };
  const std::size_t ids = static_cast<std::size_t>(cache.num_pages) * sizeof(std::int32_t);
  cache.references = static_cast<std::int32_t*>(allocate(ids));
  if (cache.references == nullptr) return false;
  cache.free_pages = static_cast<std::int32_t*>(allocate(ids));
  if (cache.free_pages == nullptr) return false;
  cache.largest_key = static_cast<std::atomic<std::uint32_t>*>(
      allocate(static_cast<std::size_t>(cache.num_pages) * sizeof *cache.largest_key));
  if (cache.largest_key == nullptr) return false;
  cache.page_set = static_cast<std::uint64_t*>(
      allocate(static_cast<std::size_t>(PageSet::bytes(cache.num_pages))));
  if (cache.page_set == nullptr) return false;
  cache.codes = static_cast<std::int8_t*>(
      allocate(static_cast<std::size_t>(context.num_threads * cache.code_bytes())));
  if (cache.codes == nullptr) return false;
  if (options.arena == nullptr) {
    const auto bytes = static_cast<std::size_t>(cache.num_pages * cache.page_bytes());
    cache.pages = static_cast<char*>(allocate(bytes));
    cache.owns_pages = true;
    if (cache.pages != nullptr) {
      advise_huge_pages(cache.pages, bytes, options.huge_pages);
      advise_numa(cache.pages, bytes, options.numa);
    }
  } else {
    cache.pages = static_cast<char*>(options.arena);
  }
  return cache.pages != nullptr &&
         copy_center(context, options.key_center, cache.num_kv_heads * cache.layout.head_dim,
                     cache.key_center) &&
         copy_center(context, options.value_center, cache.num_kv_heads * cache.layout.head_dim_v,
                     cache.value_center);
}

}  // namespace

intflash_status CacheChange::status() const {
  if (is_alone_) return INTFLASH_OK;
  return fail(INTFLASH_BUSY,
              "cache = %p: another call is changing it: such calls must not overlap in time",
              static_cast<void*>(&cache_));
}

void copy_page(intflash_cache& cache, std::int32_t from, std::int32_t to) {
  std::memcpy(cache.page(to, 0), cache.page(from, 0), static_cast<std::size_t>(cache.page_bytes()));
  cache.largest_key[to].store(cache.largest_key[from].load(std::memory_order_relaxed),
                              std::memory_order_relaxed);
}

std::int64_t workers_for(const intflash_context& context, std::int64_t rows) {
  return std::clamp<std::int64_t>(rows / kRowsPerWorker, 1, context.num_threads);
}

}  // namespace intflash::internal

using namespace intflash::internal;

extern "C" {

intflash_status intflash_cache_create(intflash_context* context,
                                      const intflash_cache_options* options,
                                      intflash_cache** cache) {
  if (context == nullptr || cache == nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT, "context = %p, cache = %p: must not be NULL",
                static_cast<void*>(context), static_cast<void*>(cache));
  }
  intflash_status status = check_cache_options(options);
  if (status != INTFLASH_OK) return status;
  intflash_cache shape{};
  shape.context = context;
  shape.layout = {options->head_dim,
                  options->head_dim_v == 0 ? options->head_dim : options->head_dim_v,
                  options->page_size == 0 ? kBlockTokens : options->page_size};
  shape.num_kv_heads = options->num_kv_heads;
  shape.num_pages = options->num_pages;
  shape.rotate = options->rotate == 1;
  std::int64_t bytes = 0;
  if (__builtin_mul_overflow(shape.num_kv_heads * shape.num_pages, shape.layout.bytes(), &bytes)) {
    return fail(INTFLASH_SIZE_OVERFLOW,
                "num_pages = %lld of %lld kv heads: the pages do not fit the address space",
                static_cast<i64>(shape.num_pages), static_cast<i64>(shape.num_kv_heads));
  }
  if (options->arena != nullptr &&
      (reinterpret_cast<std::uintptr_t>(options->arena) % kAlignment != 0 ||
       options->arena_bytes < static_cast<std::size_t>(bytes))) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "arena = %p of %zu bytes: must be %lld bytes at a multiple of %zu", options->arena,
                options->arena_bytes, static_cast<i64>(bytes), kAlignment);
  }
  status = check_center("key_center", options->key_center, true, shape.num_kv_heads,
                        shape.layout.head_dim, 100);
  if (status == INTFLASH_OK)
    status = check_center("value_center", options->value_center, true, shape.num_kv_heads,
                          shape.layout.head_dim_v, 90);
  if (status != INTFLASH_OK) return status;

  void* memory = context->allocate(context->allocator_user, sizeof(intflash_cache), kAlignment);
  if (memory == nullptr) return fail(INTFLASH_OUT_OF_MEMORY, "no memory for a cache");
  intflash_cache* created = new (memory) intflash_cache{};
  created->context = shape.context;
  created->layout = shape.layout;
  created->num_kv_heads = shape.num_kv_heads;
  created->num_pages = shape.num_pages;
  created->rotate = shape.rotate;
  if (!allocate_parts(*created, *options)) {
    intflash_cache_destroy(created);
    return fail(INTFLASH_OUT_OF_MEMORY, "no memory for a cache of %lld pages of %lld bytes",
                static_cast<i64>(shape.num_pages), static_cast<i64>(shape.page_bytes()));
  }
  for (std::int64_t i = 0;
       options->key_center != nullptr && i < shape.num_kv_heads * shape.layout.head_dim; ++i)
    created->largest_key_center =
        std::max(created->largest_key_center, std::fabs(options->key_center[i]));
  // Page 0 is taken first.
  for (std::int64_t i = 0; i < created->num_pages; ++i) {
    new (created->largest_key + i) std::atomic<std::uint32_t>(0);
    created->references[i] = 0;
    created->free_pages[i] = static_cast<std::int32_t>(created->num_pages - 1 - i);
  }
  created->num_free = created->num_pages;
  *cache = created;
  return INTFLASH_OK;
}

void intflash_cache_destroy(intflash_cache* cache) {
  if (cache == nullptr) return;
  const intflash_context& context = *cache->context;
  const auto release = [&](void* memory) {
    if (memory != nullptr) context.deallocate(context.allocator_user, memory);
  };
  for (std::int64_t i = 0; i < cache->sequences.size(); ++i)
    cache->sequences[i].pages.release(context);
  cache->sequences.release(context);
  release(cache->references);
  release(cache->free_pages);
  release(cache->largest_key);
  release(cache->page_set);
  release(cache->codes);
  release(cache->key_center);
  release(cache->value_center);
  if (cache->owns_pages) release(cache->pages);
  release(cache);
}

intflash_status intflash_cache_get_info(const intflash_cache* cache, intflash_cache_info* info) {
  if (cache == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "cache = NULL: create one first");
  if (info == nullptr || info->struct_size != sizeof *info) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "info: must point to a struct with struct_size = sizeof(intflash_cache_info) = %zu",
                sizeof *info);
  }
  info->page_size = cache->layout.page_size;
  info->num_pages = cache->num_pages;
  info->free_pages = cache->num_free;
  info->num_sequences = cache->num_sequences;
  info->page_bytes = static_cast<std::size_t>(cache->page_bytes());
  info->bytes_per_token = info->page_bytes / static_cast<std::size_t>(cache->layout.page_size);
  return INTFLASH_OK;
}

intflash_status intflash_cache_copy_page(intflash_cache* cache, int32_t from, int32_t to) {
  if (cache == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "cache = NULL: create one first");
  for (const std::int32_t id : {from, to}) {
    if (id >= 0 && id < cache->num_pages) continue;
    return fail(INTFLASH_INVALID_ARGUMENT, "from = %d, to = %d: must be 0 ... %lld", from, to,
                static_cast<i64>(cache->num_pages - 1));
  }
  const CacheChange change(*cache);
  const intflash_status status = change.status();
  if (status != INTFLASH_OK) return status;
  if (cache->references[to] > 0)
    return fail(INTFLASH_INVALID_ARGUMENT, "to = %d: a sequence holds that page", to);
  if (from != to) copy_page(*cache, from, to);
  return INTFLASH_OK;
}

}  // extern "C"
