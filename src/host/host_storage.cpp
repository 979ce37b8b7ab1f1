// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "host/host_storage.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <new>

#include "cache/sequence_file.h"
#include "core/checks.h"
#include "host/host_pages.h"
#include "inputs/scan.h"
#include "machine/page_memory.h"

namespace intflash::internal {
namespace {

constexpr std::size_t kAlignment = 64;

// Rows below which starting a team costs more than it brings.
constexpr std::int64_t kRowsPerWorker = 256;

// ---- Pages ----

// Arenas that are given, by layer: large enough, and aligned.
intflash_status check_arenas(const intflash_cache& cache, const intflash_cache_options& options) {
  const std::int64_t layer_bytes = cache.layer_bytes();
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
                                    : check("arena", options.arena, cache.num_layers * layer_bytes);
  }
  if (options.arena != nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "arena = %p, layer_arenas = %p: at most one of both must be given", options.arena,
                static_cast<const void*>(options.layer_arenas));
  }
  intflash_status status = INTFLASH_OK;
  for (std::int64_t layer = 0; status == INTFLASH_OK && layer < cache.num_layers; ++layer) {
    char name[40];
    std::snprintf(name, sizeof name, "layer_arenas[%lld]", static_cast<i64>(layer));
    status = check(name, options.layer_arenas[layer], layer_bytes);
  }
  return status;
}

// Of a block of tokens, and of its keys' second digits.
std::int64_t code_bytes(const Codec& codec, const PageLayout& layout) {
  const std::int64_t codes =
      round_up(std::max(layout.head_dim, value_row_bytes(codec, layout.head_dim_v)), 64);
  const std::int64_t digits = layout.has_digits ? round_up(layout.head_dim, 64) : 0;
  return kBlockTokens * (codes + digits);
}

bool allocate_pages(const intflash_cache& cache, const intflash_cache_options& options,
                    HostPages& pages) {
  if (options.arena != nullptr || options.layer_arenas != nullptr) return true;
  const std::int64_t bytes = cache.num_layers * cache.layer_bytes();
  if (!allocate(*cache.context, bytes, pages.own_pages)) return false;
  advise_huge_pages(pages.own_pages, static_cast<std::size_t>(bytes), options.huge_pages);
  pages.has_nodes = options.numa != INTFLASH_NUMA_DEFAULT;
  advise_numa(pages.own_pages, static_cast<std::size_t>(bytes), options.numa);
  // With a window there is one node.
  for (std::int64_t i = 0; i < cache.num_layers * cache.num_nodes; ++i) {
    const NodePages& own = cache.nodes[i % cache.num_nodes];
    const std::int64_t first = i / cache.num_nodes * cache.num_pages + own.begin;
    advise_node(pages.own_pages + first * pages.page_bytes,
                static_cast<std::size_t>((own.end - own.begin) * pages.page_bytes), own.id);
  }
  return true;
}

// What the layers have of the parts.
void lay_out_layers(const intflash_cache& cache, const intflash_cache_options& options,
                    HostPages& host) {
  const std::int64_t layer_bytes = cache.layer_bytes();
  const std::int64_t center_count = cache.num_kv_heads * cache.layout.head_dim;
  char* pages = options.arena == nullptr ? host.own_pages : static_cast<char*>(options.arena);
  for (std::int64_t l = 0; l < cache.num_layers; ++l) {
    HostLayer& layer = host.layers[l];
    layer = {};
    layer.pages = options.layer_arenas == nullptr ? pages + l * layer_bytes
                                                  : static_cast<char*>(options.layer_arenas[l]);
    layer.window_pages = layer.pages + cache.num_pages * host.page_bytes;
    layer.largest_key = host.largest_key + l * cache.num_pages;
    for (std::int64_t i = 0; i < cache.num_pages; ++i)
      new (layer.largest_key + i) std::atomic<std::uint32_t>(0);
    const float* center = cache.key_center_of(l, 0);
    for (std::int64_t i = 0; center != nullptr && i < center_count; ++i)
      layer.largest_key_center = std::max(layer.largest_key_center, std::fabs(center[i]));
  }
}

void destroy(intflash_cache& cache) {
  HostPages& host = host_pages(cache);
  const intflash_context& context = *cache.context;
  if (host.own_pages != nullptr && host.has_nodes)
    forget_node(host.own_pages, static_cast<std::size_t>(cache.num_layers * cache.layer_bytes()));
  release(context, host.largest_key);
  release(context, host.codes);
  release(context, host.own_pages);
  release(context, host.layers);
  release(context, &host);
  cache.stored = nullptr;
}

intflash_status create(intflash_cache& cache, const intflash_cache_options& options) {
  const intflash_status status = check_arenas(cache, options);
  if (status != INTFLASH_OK) return status;
  const intflash_context& context = *cache.context;
  HostPages* host = nullptr;
  if (allocate(context, 1, host)) {
    cache.stored = new (host) HostPages{};
    host->layout = cache.layout;
    host->page_bytes = cache.page_bytes();
    host->window_layout = cache.window_layout;
    host->window_page_bytes = cache.window_page_bytes();
    host->code_bytes = code_bytes(*cache.codec, cache.layout);
    if (allocate(context, cache.num_layers, host->layers) &&
        allocate(context, cache.num_layers * cache.num_pages, host->largest_key) &&
        allocate(context, context.num_threads * host->code_bytes, host->codes) &&
        allocate_pages(cache, options, *host)) {
      lay_out_layers(cache, options, *host);
      return INTFLASH_OK;
    }
    destroy(cache);
  }
  return fail(INTFLASH_OUT_OF_MEMORY, "no memory for %lld layers of %lld pages of %lld bytes",
              static_cast<i64>(cache.num_layers), static_cast<i64>(cache.num_pages),
              static_cast<i64>(cache.page_bytes()));
}

intflash_status copy_page(intflash_cache& cache, std::int32_t from, std::int32_t to) {
  const HostPages& host = host_pages(cache);
  for (std::int64_t l = 0; l < cache.num_layers; ++l) {
    std::memcpy(host.page(l, to, 0), host.page(l, from, 0),
                static_cast<std::size_t>(host.page_bytes));
    std::atomic<std::uint32_t>* largest_key = host.layers[l].largest_key;
    largest_key[to].store(largest_key[from].load(std::memory_order_relaxed),
                          std::memory_order_relaxed);
  }
  return INTFLASH_OK;
}

void copy_window_page(intflash_cache& cache, std::int32_t from, std::int32_t to) {
  const HostPages& host = host_pages(cache);
  for (std::int64_t l = 0; l < cache.num_layers; ++l)
    std::memcpy(host.window_page(l, to, 0), host.window_page(l, from, 0),
                static_cast<std::size_t>(host.window_page_bytes));
}

// ---- Blocks of files ----

// Where a block lies as the codec has it, and in INT8.
WritableBlock coded_block(const HostPages& host, const BlockPlace& place) {
  return writable_block(host.layout, host.page(place.layer, place.page, place.kv_head),
                        place.index);
}
WritableBlock window_block(const HostPages& host, const BlockPlace& place) {
  return writable_block(host.window_layout,
                        host.window_page(place.layer, place.window_page, place.kv_head),
                        place.index);
}

intflash_status read_block(const intflash_cache& cache, const BlockPlace& place, char* page) {
  const HostPages& host = host_pages(cache);
  const bool is_int8 = place.window_page != kNoPage;
  const PageLayout layout = file_page(is_int8 ? host.window_layout : host.layout);
  const WritableBlock from = is_int8 ? window_block(host, place) : coded_block(host, place);
  copy_block(layout, readable(from), writable_block(layout, page, 0));
  return INTFLASH_OK;
}

intflash_status write_block(intflash_cache& cache, const BlockPlace& place, const char* page) {
  const HostPages& host = host_pages(cache);
  const bool is_int8 = place.window_page != kNoPage;
  const PageLayout layout = file_page(is_int8 ? host.window_layout : host.layout);
  const KvBlock block = layout.block(page, 0);
  copy_block(layout, block, is_int8 ? window_block(host, place) : coded_block(host, place));
  std::atomic<std::uint32_t>& largest_key = host.layers[place.layer].largest_key[place.page];
  if (place.index == 0 && place.kv_head == 0) largest_key.store(0, std::memory_order_relaxed);
  // What keys may be at most: 127 * scale, and what the scale's rounding may have taken from it.
  const float largest = *std::max_element(block.key_scale, block.key_scale + kBlockTokens);
  raise_to(largest_key, std::bit_cast<std::uint32_t>(largest * 127.001f));
  return INTFLASH_OK;
}

void code_block(intflash_cache& cache, const BlockPlace& place, std::int8_t* rows) {
  const HostPages& host = host_pages(cache);
  code_full_block(cache, readable(window_block(host, place)), coded_block(host, place), rows);
}

}  // namespace

std::int64_t workers_for(const intflash_context& context, std::int64_t rows) {
  return std::clamp<std::int64_t>(rows / kRowsPerWorker, 1, context.num_threads);
}

const Storage kHostStorage = {
    .name = "host",
    .create = create,
    .destroy = destroy,
    .check_tokens = check_tokens,
    .append = append_tokens,
    .copy_page = copy_page,
    .copy_window_page = copy_window_page,
    .export_rows = export_rows,
    .read_block = read_block,
    .write_block = write_block,
    .code_block = code_block,
};

}  // namespace intflash::internal
