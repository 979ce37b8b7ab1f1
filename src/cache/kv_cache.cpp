// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "cache/kv_cache.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <new>

#include "core/checks.h"
#include "core/limits.h"
#include "core/structs.h"
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
  status = check_option("huge_pages", options.huge_pages, INTFLASH_HUGE_PAGES_AVOID);
  return status == INTFLASH_OK ? check_option("numa", options.numa, INTFLASH_NUMA_LOCAL) : status;
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
  const intflash_status status = choose_rotation(options.rotation, shape.layout.head_dim,
                                                 shape.layout.head_dim_v, shape.rotation);
  if (status != INTFLASH_OK) return status;
  std::int64_t bytes = 0;
  if (!__builtin_mul_overflow(shape.num_kv_heads * shape.num_pages, shape.layout.bytes(), &bytes) &&
      !__builtin_mul_overflow(bytes, shape.num_layers, &bytes))
    return INTFLASH_OK;
  return fail(INTFLASH_SIZE_OVERFLOW,
              "num_pages = %lld of %lld kv heads in %lld layers: the pages do not fit the address "
              "space",
              static_cast<i64>(shape.num_pages), static_cast<i64>(shape.num_kv_heads),
              static_cast<i64>(shape.num_layers));
}

// Arenas that are given, by layer: large enough, and aligned.
intflash_status check_arenas(const intflash_cache& shape, const intflash_cache_options& options) {
  const std::int64_t layer_bytes = shape.num_pages * shape.page_bytes();
  const auto check = [&](const char* name, const void* arena, std::int64_t bytes) {
    if (reinterpret_cast<std::uintptr_t>(arena) % kAlignment == 0 && arena != nullptr &&
        options.arena_bytes >= static_cast<std::size_t>(bytes))
      return INTFLASH_OK;
    return fail(INTFLASH_INVALID_ARGUMENT,
                "%s = %p of %zu bytes: must be %lld bytes at a multiple of %zu", name, arena,
                options.arena_bytes, static_cast<i64>(bytes), kAlignment);
  };
  if (options.layer_arenas == nullptr) {
    return options.arena == nullptr ? INTFLASH_OK
                                    : check("arena", options.arena, shape.num_layers * layer_bytes);
  }
  if (options.arena != nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "arena = %p, layer_arenas = %p: at most one of both must be given", options.arena,
                static_cast<const void*>(options.layer_arenas));
  }
  intflash_status status = INTFLASH_OK;
  for (std::int64_t layer = 0; status == INTFLASH_OK && layer < shape.num_layers; ++layer) {
    char name[40];
    std::snprintf(name, sizeof name, "layer_arenas[%lld]", static_cast<i64>(layer));
    status = check(name, options.layer_arenas[layer], layer_bytes);
  }
  return status;
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

template <class T>
bool allocate(const intflash_context& context, std::int64_t count, T*& memory) {
  memory = static_cast<T*>(context.allocate(
      context.allocator_user, static_cast<std::size_t>(count) * sizeof(T), kAlignment));
  return memory != nullptr;
}

// A copy of centres, or nullptr where none were given.
bool copy_center(const intflash_context& context, const float* given, std::int64_t count,
                 float*& copy) {
  if (given == nullptr) return true;
  if (!allocate(context, count, copy)) return false;
  std::copy_n(given, count, copy);
  return true;
}

bool allocate_pages(intflash_cache& cache, const intflash_cache_options& options) {
  if (options.arena != nullptr || options.layer_arenas != nullptr) return true;
  const std::int64_t bytes = cache.num_layers * cache.num_pages * cache.page_bytes();
  if (!allocate(*cache.context, bytes, cache.own_pages)) return false;
  advise_huge_pages(cache.own_pages, static_cast<std::size_t>(bytes), options.huge_pages);
  advise_numa(cache.own_pages, static_cast<std::size_t>(bytes), options.numa);
  return true;
}

// Everything that the cache allocates; false: no memory.
bool allocate_parts(intflash_cache& cache, const intflash_cache_options& options) {
  const intflash_context& context = *cache.context;
  const std::int64_t heads = cache.num_layers * cache.num_kv_heads;
  const std::int64_t slots = cache.num_pages * cache.layout.page_size;
  return allocate(context, cache.num_layers, cache.layers) &&
         allocate(context, cache.num_layers * cache.num_pages, cache.largest_key) &&
         allocate(context, cache.num_pages, cache.references) &&
         allocate(context, cache.num_pages, cache.free_pages) &&
         allocate(context, PageSet::bytes(slots) / 8, cache.slot_set) &&
         allocate(context, context.num_threads * cache.code_bytes(), cache.codes) &&
         allocate_pages(cache, options) &&
         copy_center(context, options.key_center, heads * cache.layout.head_dim,
                     cache.key_center) &&
         copy_center(context, options.value_center, heads * cache.layout.head_dim_v,
                     cache.value_center);
}

// What the layers have of the parts.
void lay_out_layers(intflash_cache& cache, const intflash_cache_options& options) {
  const std::int64_t layer_bytes = cache.num_pages * cache.page_bytes();
  char* pages = options.arena == nullptr ? cache.own_pages : static_cast<char*>(options.arena);
  for (std::int64_t l = 0; l < cache.num_layers; ++l) {
    CacheLayer& layer = cache.layers[l];
    layer = {};
    layer.pages = options.layer_arenas == nullptr ? pages + l * layer_bytes
                                                  : static_cast<char*>(options.layer_arenas[l]);
    layer.largest_key = cache.largest_key + l * cache.num_pages;
    for (std::int64_t i = 0; i < cache.num_pages; ++i)
      new (layer.largest_key + i) std::atomic<std::uint32_t>(0);
    const std::int64_t first_head = l * cache.num_kv_heads;
    if (cache.value_center != nullptr)
      layer.value_center = cache.value_center + first_head * cache.layout.head_dim_v;
    if (cache.key_center == nullptr) continue;
    layer.key_center = cache.key_center + first_head * cache.layout.head_dim;
    for (std::int64_t i = 0; i < cache.num_kv_heads * cache.layout.head_dim; ++i)
      layer.largest_key_center = std::max(layer.largest_key_center, std::fabs(layer.key_center[i]));
  }
}

}  // namespace

intflash_status CacheChange::status() const {
  if (is_alone_) return INTFLASH_OK;
  return fail(INTFLASH_BUSY,
              "cache = %p: another call is changing it: such calls must not overlap in time",
              static_cast<void*>(&cache_));
}

intflash_status check_layer(const intflash_cache& cache, std::int64_t layer) {
  if (layer >= 0 && layer < cache.num_layers) return INTFLASH_OK;
  return fail(INTFLASH_INVALID_ARGUMENT, "layer = %lld: must be 0 ... %lld",
              static_cast<i64>(layer), static_cast<i64>(cache.num_layers - 1));
}

void copy_page(intflash_cache& cache, std::int32_t from, std::int32_t to) {
  for (std::int64_t l = 0; l < cache.num_layers; ++l) {
    std::memcpy(cache.page(l, to, 0), cache.page(l, from, 0),
                static_cast<std::size_t>(cache.page_bytes()));
    std::atomic<std::uint32_t>* largest_key = cache.layers[l].largest_key;
    largest_key[to].store(largest_key[from].load(std::memory_order_relaxed),
                          std::memory_order_relaxed);
  }
}

intflash_status create_cache(const intflash_context& context, const intflash_cache_options& options,
                             const Codec& codec, intflash_cache*& cache) {
  intflash_cache shape{};
  intflash_status status = check_cache_options(options);
  if (status == INTFLASH_OK) status = check_codec(codec, *context.port);
  if (status == INTFLASH_OK) status = set_shape(context, options, codec, shape);
  if (status == INTFLASH_OK) status = check_arenas(shape, options);
  if (status == INTFLASH_OK)
    status = check_centers(shape, "key_center", options.key_center, shape.layout.head_dim,
                           kMaxKeyExponent);
  if (status == INTFLASH_OK)
    status = check_centers(shape, "value_center", options.value_center, shape.layout.head_dim_v,
                           kMaxValueExponent);
  if (status != INTFLASH_OK) return status;

  void* memory = context.allocate(context.allocator_user, sizeof(intflash_cache), kAlignment);
  if (memory == nullptr) return fail(INTFLASH_OUT_OF_MEMORY, "no memory for a cache");
  intflash_cache* created = new (memory) intflash_cache{};
  created->context = shape.context;
  created->codec = shape.codec;
  created->layout = shape.layout;
  created->num_kv_heads = shape.num_kv_heads;
  created->num_pages = shape.num_pages;
  created->num_layers = shape.num_layers;
  created->rotation = shape.rotation;
  if (!allocate_parts(*created, options)) {
    intflash_cache_destroy(created);
    return fail(INTFLASH_OUT_OF_MEMORY,
                "no memory for a cache of %lld layers of %lld pages of %lld bytes",
                static_cast<i64>(shape.num_layers), static_cast<i64>(shape.num_pages),
                static_cast<i64>(shape.page_bytes()));
  }
  lay_out_layers(*created, options);
  // Page 0 is taken first.
  for (std::int64_t i = 0; i < created->num_pages; ++i) {
    created->references[i] = 0;
    created->free_pages[i] = static_cast<std::int32_t>(created->num_pages - 1 - i);
  }
  created->num_free = created->num_pages;
  cache = created;
  return INTFLASH_OK;
}

std::int64_t workers_for(const intflash_context& context, std::int64_t rows) {
  return std::clamp<std::int64_t>(rows / kRowsPerWorker, 1, context.num_threads);
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
  const auto release = [&](void* memory) {
    if (memory != nullptr) context.deallocate(context.allocator_user, memory);
  };
  for (std::int64_t i = 0; i < cache->sequences.size(); ++i) {
    cache->sequences[i].pages.release(context);
    cache->sequences[i].later_lens.release(context);
  }
  cache->sequences.release(context);
  release(cache->references);
  release(cache->free_pages);
  release(cache->largest_key);
  release(cache->slot_set);
  release(cache->codes);
  release(cache->key_center);
  release(cache->value_center);
  release(cache->own_pages);
  release(cache->layers);
  release(cache);
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
  info.bytes_per_token = info.page_bytes / static_cast<std::size_t>(cache->layout.page_size);
  write_struct(info, target);
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
