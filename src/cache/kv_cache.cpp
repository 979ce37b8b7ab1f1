// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "cache/kv_cache.h"

#include <algorithm>
#include <cstdio>
#include <new>

#include "cache/storage.h"
#include "core/checks.h"
#include "core/structs.h"
#include "tile/limits.h"

namespace intflash::internal {
namespace {

intflash_status check_option(const char* name, int value, int most) {
  if (value >= 0 && value <= most) return INTFLASH_OK;
  return fail(INTFLASH_INVALID_ARGUMENT, "%s = %d: must be 0 ... %d", name, value, most);
}

intflash_status check_cache_options(const intflash_cache_options& options) {
  intflash_status status = check_extent("num_kv_heads", options.num_kv_heads, 1);
  if (status == INTFLASH_OK) status = check_extent("num_pages", options.num_pages, 1);
  if (status == INTFLASH_OK) status = check_extent("num_layers", options.num_layers, 0);
  if (status == INTFLASH_OK) status = check_head_dim("head_dim", options.head_dim);
  if (status == INTFLASH_OK && options.head_dim_v != 0)
    status = check_head_dim("head_dim_v", options.head_dim_v);
  if (status != INTFLASH_OK) return status;
  const std::int64_t page_size = options.page_size;
  if (page_size != 0 && page_size != 64 && page_size != 128 && page_size != 256) {
    return fail(INTFLASH_BAD_SHAPE,
                "page_size = %lld: must be 64, 128 or 256; let one page stand for several "
                "consecutive smaller blocks, 64 / page_size of them where that is a whole number",
                static_cast<i64>(page_size));
  }
  status = check_extent("window_blocks", options.window_blocks, 0);
  if (status == INTFLASH_OK) status = check_extent("sink_blocks", options.sink_blocks, 0);
  if (status == INTFLASH_OK) status = check_extent("num_window_pages", options.num_window_pages, 0);
  if (status != INTFLASH_OK) return status;
  status = check_option("huge_pages", options.huge_pages, INTFLASH_HUGE_PAGES_AVOID);
  return status == INTFLASH_OK ? check_option("numa", options.numa, INTFLASH_NUMA_BY_NODE) : status;
}

// What codecs and windows there are together.
intflash_status check_window_options(const intflash_context& context,
                                     const intflash_cache_options& options, const Codec& codec) {
  const bool has_windows = context.device->storage->code_block != nullptr;
  if (!has_windows && (options.window_blocks > 0 || codec.is_by_block)) {
    return fail(INTFLASH_UNSUPPORTED,
                "window_blocks = %lld, codec %s: device %s has no windows, nor what needs one",
                static_cast<i64>(options.window_blocks), codec.name, context.device->name);
  }
  if (options.window_blocks > 0 && !codec.is_expanded) {
    return fail(INTFLASH_UNSUPPORTED,
                "window_blocks = %lld with codec %s: must be 0, it has no fewer bits than INT8",
                static_cast<i64>(options.window_blocks), codec.name);
  }
  if (options.window_blocks == 0 && codec.is_by_block) {
    return fail(INTFLASH_UNSUPPORTED,
                "window_blocks = 0 with codec %s: must be at least 1, for blocks are stored once "
                "they are full",
                codec.name);
  }
  if (options.window_blocks == 0 && (options.sink_blocks > 0 || options.num_window_pages > 0)) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "sink_blocks = %lld, num_window_pages = %lld: must be 0 without window_blocks",
                static_cast<i64>(options.sink_blocks), static_cast<i64>(options.num_window_pages));
  }
  if (options.window_blocks > 0 && options.numa == INTFLASH_NUMA_BY_NODE)
    return fail(INTFLASH_UNSUPPORTED, "numa = BY_NODE with window_blocks = %lld: must be another",
                static_cast<i64>(options.window_blocks));
  return INTFLASH_OK;
}

// What the options say of a cache's shape, where its pages fit the address space.
intflash_status set_shape(const intflash_context& context, const intflash_cache_options& options,
                          const Codec& codec, intflash_cache& shape) {
  shape.context = &context;
  shape.codec = &codec;
  shape.layout = page_layout(codec, options.head_dim,
                             options.head_dim_v == 0 ? options.head_dim : options.head_dim_v,
                             options.page_size == 0 ? kBlockTokens : options.page_size);
  shape.num_kv_heads = options.num_kv_heads;
  shape.num_pages = options.num_pages;
  shape.num_layers = options.num_layers == 0 ? 1 : options.num_layers;
  shape.window = {options.window_blocks, options.sink_blocks};
  shape.window_layout = page_layout(kInt8Codec, shape.layout.head_dim, shape.layout.head_dim_v,
                                    shape.layout.page_size);
  if (!shape.window.is_none())
    shape.window_pages.num_pages =
        options.num_window_pages == 0 ? options.num_pages : options.num_window_pages;
  const intflash_status status = choose_rotation(options.rotation, shape.layout.head_dim,
                                                 shape.layout.head_dim_v, shape.rotation);
  if (status != INTFLASH_OK) return status;
  std::int64_t bytes = 0;
  std::int64_t window_bytes = 0;
  if (!__builtin_mul_overflow(shape.num_kv_heads * shape.num_pages, shape.layout.bytes(), &bytes) &&
      !__builtin_mul_overflow(shape.num_kv_heads * shape.window_pages.num_pages,
                              shape.window_layout.bytes(), &window_bytes) &&
      !__builtin_add_overflow(bytes, window_bytes, &bytes) &&
      !__builtin_mul_overflow(bytes, shape.num_layers, &bytes))
    return INTFLASH_OK;
  return fail(INTFLASH_SIZE_OVERFLOW,
              "num_pages = %lld of %lld kv heads in %lld layers: the pages do not fit the address "
              "space",
              static_cast<i64>(shape.num_pages), static_cast<i64>(shape.num_kv_heads),
              static_cast<i64>(shape.num_layers));
}

// Centres of all layers.
intflash_status check_centers(const intflash_cache& shape, const char* name, const float* centers,
                              std::int64_t dim, int max_exponent) {
  intflash_status status = check_pointer(name, centers);
  for (std::int64_t layer = 0;
       centers != nullptr && status == INTFLASH_OK && layer < shape.num_layers; ++layer) {
    char numbered[48];
    std::snprintf(numbered, sizeof numbered, "%s[layer %lld]", name, static_cast<i64>(layer));
    status = check_center(numbered, centers + layer * shape.num_kv_heads * dim, shape.num_kv_heads,
                          dim, max_exponent);
  }
  return status;
}

// A copy of centres, or nullptr where none were given.
bool copy_center(const intflash_context& context, const float* given, std::int64_t count,
                 float*& copy) {
  if (given == nullptr) return true;
  if (!allocate(context, count, copy)) return false;
  std::copy_n(given, count, copy);
  return true;
}

// The pages, all free, by node: so many to each as it has CPUs.
void divide_pages(intflash_numa numa, intflash_cache& cache) {
  const NumaNodes& nodes = cache.context->nodes;
  const bool by_node = numa == INTFLASH_NUMA_BY_NODE && nodes.count > 1;
  cache.num_nodes = by_node ? nodes.count : 1;
  cache.nodes[0] = {-1, 0, cache.num_pages, 0};
  std::int64_t cpus = 0;
  std::int64_t all_cpus = 0;
  for (std::int32_t i = 0; i < nodes.count; ++i)
    all_cpus += static_cast<std::int64_t>(nodes.nodes[i].cpus.count());
  for (std::int32_t i = 0; by_node && i < nodes.count; ++i) {
    const std::int64_t begin = cache.num_pages * cpus / all_cpus;
    cpus += static_cast<std::int64_t>(nodes.nodes[i].cpus.count());
    cache.nodes[i] = {nodes.nodes[i].id, begin, cache.num_pages * cpus / all_cpus, 0};
  }
  for (std::int32_t i = 0; i < cache.num_nodes; ++i) {
    NodePages& own = cache.nodes[i];
    // The first one is taken first.
    for (std::int64_t page = own.end - 1; page >= own.begin; --page) {
      cache.references[page] = 0;
      cache.free_pages[own.begin + own.num_free++] = static_cast<std::int32_t>(page);
    }
  }
  cache.num_free = cache.num_pages;
}

// All free, the first one to be taken first.
bool allocate_pool(const intflash_context& context, PagePool& pool) {
  if (pool.num_pages == 0) return true;
  if (!allocate(context, pool.num_pages, pool.references) ||
      !allocate(context, pool.num_pages, pool.free_pages))
    return false;
  std::fill_n(pool.references, pool.num_pages, 0);
  std::iota(pool.free_pages, pool.free_pages + pool.num_pages, 0);
  std::reverse(pool.free_pages, pool.free_pages + pool.num_pages);
  pool.num_free = pool.num_pages;
  return true;
}

// The books; false: no memory.
bool allocate_parts(intflash_cache& cache, const intflash_cache_options& options) {
  const intflash_context& context = *cache.context;
  const std::int64_t heads = cache.num_layers * cache.num_kv_heads;
  const std::int64_t slots = cache.num_pages * cache.layout.page_size;
  return allocate(context, cache.num_pages, cache.references) &&
         allocate(context, cache.num_pages, cache.free_pages) &&
         allocate_pool(context, cache.window_pages) &&
         allocate(context, PageSet::bytes(slots) / 8, cache.slot_set) &&
         copy_center(context, options.key_center, heads * cache.layout.head_dim,
                     cache.key_center) &&
         copy_center(context, options.value_center, heads * cache.layout.head_dim_v,
                     cache.value_center);
}

}  // namespace

intflash_status CacheChange::status() const {
  if (is_alone_) return INTFLASH_OK;
  return fail(INTFLASH_BUSY,
              "cache = %p: another call is changing it: such calls must not overlap in time",
              static_cast<void*>(&cache_));
}

intflash_status check_pages_are_callers(const intflash_cache& cache) {
  if (cache.window.is_none()) return INTFLASH_OK;
  return fail(INTFLASH_UNSUPPORTED,
              "cache with window_blocks = %lld: its pages are its sequences': must be named by "
              "these",
              static_cast<i64>(cache.window.num_blocks));
}

intflash_status check_layer(const intflash_cache& cache, std::int64_t layer) {
  if (layer >= 0 && layer < cache.num_layers) return INTFLASH_OK;
  return fail(INTFLASH_INVALID_ARGUMENT, "layer = %lld: must be 0 ... %lld",
              static_cast<i64>(layer), static_cast<i64>(cache.num_layers - 1));
}

intflash_status create_cache(const intflash_context& context, const intflash_cache_options& options,
                             const Codec& codec, intflash_cache*& cache) {
  intflash_cache shape{};
  intflash_status status = check_cache_options(options);
  if (status == INTFLASH_OK) status = check_codec(codec, *context.port);
  if (status == INTFLASH_OK) status = check_window_options(context, options, codec);
  if (status == INTFLASH_OK) status = set_shape(context, options, codec, shape);
  if (status == INTFLASH_OK)
    status = check_centers(shape, "key_center", options.key_center, shape.layout.head_dim,
                           kMaxKeyExponent);
  if (status == INTFLASH_OK)
    status = check_centers(shape, "value_center", options.value_center, shape.layout.head_dim_v,
                           kMaxValueExponent);
  if (status != INTFLASH_OK) return status;

  void* memory = context.allocate(context.allocator_user, sizeof(intflash_cache), 64);
  if (memory == nullptr) return fail(INTFLASH_OUT_OF_MEMORY, "no memory for a cache");
  intflash_cache* created = new (memory) intflash_cache{};
  created->context = shape.context;
  created->codec = shape.codec;
  created->layout = shape.layout;
  created->window = shape.window;
  created->window_layout = shape.window_layout;
  created->window_pages = shape.window_pages;
  created->num_kv_heads = shape.num_kv_heads;
  created->num_pages = shape.num_pages;
  created->num_layers = shape.num_layers;
  created->rotation = shape.rotation;
  created->storage = context.device->storage;
  if (allocate_parts(*created, options)) {
    divide_pages(options.numa, *created);
    status = created->storage->create(*created, options);
  } else {
    status = fail(INTFLASH_OUT_OF_MEMORY, "no memory for the books of %lld pages",
                  static_cast<i64>(shape.num_pages));
  }
  if (status != INTFLASH_OK) {
    intflash_cache_destroy(created);
    return status;
  }
  cache = created;
  return INTFLASH_OK;
}

}  // namespace intflash::internal

using namespace intflash::internal;

extern "C" {

intflash_status intflash_cache_create(intflash_context* context,
                                      const intflash_cache_options* given, intflash_cache** cache) {
  if (context == nullptr || cache == nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT, "context = %p, cache = %p: must not be NULL",
                static_cast<void*>(context), static_cast<void*>(cache));
  }
  intflash_cache_options options;
  const Codec* codec = nullptr;
  intflash_status status = read_struct("options", "intflash_cache_options", given, options);
  if (status == INTFLASH_OK)
    status = choose_codec(options.codec, options.page_layout_version, codec);
  return status == INTFLASH_OK ? create_cache(*context, options, *codec, *cache) : status;
}

void intflash_cache_destroy(intflash_cache* cache) {
  if (cache == nullptr) return;
  const intflash_context& context = *cache->context;
  if (cache->stored != nullptr) cache->storage->destroy(*cache);
  for (std::int64_t i = 0; i < cache->sequences.size(); ++i) {
    cache->sequences[i].pages.release(context);
    cache->sequences[i].later_lens.release(context);
    cache->sequences[i].window_pages.release(context);
  }
  cache->sequences.release(context);
  release(context, cache->references);
  release(context, cache->free_pages);
  release(context, cache->window_pages.references);
  release(context, cache->window_pages.free_pages);
  release(context, cache->slot_set);
  release(context, cache->key_center);
  release(context, cache->value_center);
  release(context, cache);
}

intflash_status intflash_cache_get_info(const intflash_cache* cache, intflash_cache_info* target) {
  if (cache == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "cache = NULL: create one first");
  const intflash_status status = check_struct("info", "intflash_cache_info", target);
  if (status != INTFLASH_OK) return status;
  intflash_cache_info info{};
  info.page_size = cache->layout.page_size;
  info.num_pages = cache->num_pages;
  info.free_pages = cache->num_free;
  info.num_sequences = cache->num_sequences;
  info.page_bytes = static_cast<std::size_t>(cache->page_bytes());
  info.num_layers = cache->num_layers;
  info.codec = cache->codec->id;
  info.page_layout_version = cache->codec->layout_version;
  info.rotates_keys = cache->rotation.keys ? 1 : 0;
  info.rotates_values = cache->rotation.values ? 1 : 0;
  info.window_blocks = cache->window.num_blocks;
  info.sink_blocks = cache->window.sink_blocks;
  info.num_window_pages = cache->window_pages.num_pages;
  info.free_window_pages = cache->window_pages.num_free;
  info.window_page_bytes = static_cast<std::size_t>(cache->window_page_bytes());
  info.bytes_per_token = info.page_bytes / static_cast<std::size_t>(cache->layout.page_size);
  write_struct(info, target);
  return INTFLASH_OK;
}

int32_t intflash_cache_get_page_node(const intflash_cache* cache, int32_t page) {
  if (cache == nullptr || page < 0 || page >= cache->num_pages) return -1;
  return cache->nodes[cache->node_of(page)].id;
}

intflash_status intflash_cache_copy_page(intflash_cache* cache, int32_t from, int32_t to) {
  if (cache == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "cache = NULL: create one first");
  for (const std::int32_t id : {from, to}) {
    if (id >= 0 && id < cache->num_pages) continue;
    return fail(INTFLASH_INVALID_ARGUMENT, "from = %d, to = %d: must be 0 ... %lld", from, to,
                static_cast<i64>(cache->num_pages - 1));
  }
  const intflash_status callers = check_pages_are_callers(*cache);
  if (callers != INTFLASH_OK) return callers;
  const CacheChange change(*cache);
  const intflash_status status = change.status();
  if (status != INTFLASH_OK) return status;
  if (cache->references[to] > 0)
    return fail(INTFLASH_INVALID_ARGUMENT, "to = %d: a sequence holds that page", to);
  return from == to ? INTFLASH_OK : cache->storage->copy_page(*cache, from, to);
}

}  // extern "C"
