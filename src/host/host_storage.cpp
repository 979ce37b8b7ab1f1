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
  const std::int64_t layer_bytes = cache.num_pages * cache.page_bytes();
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
std::int64_t code_bytes(const PageLayout& layout) {
  const std::int64_t codes = round_up(std::max(layout.head_dim, layout.head_dim_v), 64);
  const std::int64_t digits = layout.has_digits ? round_up(layout.head_dim, 64) : 0;
  return kBlockTokens * (codes + digits);
}

bool allocate_pages(const intflash_cache& cache, const intflash_cache_options& options,
                    HostPages& pages) {
  if (options.arena != nullptr || options.layer_arenas != nullptr) return true;
  const std::int64_t bytes = cache.num_layers * cache.num_pages * pages.page_bytes;
  if (!allocate(*cache.context, bytes, pages.own_pages)) return false;
  advise_huge_pages(pages.own_pages, static_cast<std::size_t>(bytes), options.huge_pages);
  advise_numa(pages.own_pages, static_cast<std::size_t>(bytes), options.numa);
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
  const std::int64_t layer_bytes = cache.num_pages * host.page_bytes;
  const std::int64_t center_count = cache.num_kv_heads * cache.layout.head_dim;
  char* pages = options.arena == nullptr ? host.own_pages : static_cast<char*>(options.arena);
  for (std::int64_t l = 0; l < cache.num_layers; ++l) {
    HostLayer& layer = host.layers[l];
    layer = {};
    layer.pages = options.layer_arenas == nullptr ? pages + l * layer_bytes
                                                  : static_cast<char*>(options.layer_arenas[l]);
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
    host->code_bytes = code_bytes(cache.layout);
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

void copy_page(intflash_cache& cache, std::int32_t from, std::int32_t to) {
  const HostPages& host = host_pages(cache);
  for (std::int64_t l = 0; l < cache.num_layers; ++l) {
    std::memcpy(host.page(l, to, 0), host.page(l, from, 0),
                static_cast<std::size_t>(host.page_bytes));
    std::atomic<std::uint32_t>* largest_key = host.layers[l].largest_key;
    largest_key[to].store(largest_key[from].load(std::memory_order_relaxed),
                          std::memory_order_relaxed);
  }
}

// ---- Blocks of files ----

void read_block(const intflash_cache& cache, const BlockPlace& place, char* page) {
  const HostPages& host = host_pages(cache);
  const PageLayout layout = file_page(host.layout);
  copy_block(layout,
             host.layout.block(host.page(place.layer, place.page, place.kv_head), place.index),
             writable_block(layout, page, 0));
}

void write_block(intflash_cache& cache, const BlockPlace& place, const char* page) {
  const HostPages& host = host_pages(cache);
  const PageLayout layout = file_page(host.layout);
  const KvBlock block = layout.block(page, 0);
  copy_block(
      layout, block,
      writable_block(host.layout, host.page(place.layer, place.page, place.kv_head), place.index));
  std::atomic<std::uint32_t>& largest_key = host.layers[place.layer].largest_key[place.page];
  if (place.index == 0 && place.kv_head == 0) largest_key.store(0, std::memory_order_relaxed);
  // What keys may be at most: 127 * scale, and what the scale's rounding may have taken from it.
  const float largest = *std::max_element(block.key_scale, block.key_scale + kBlockTokens);
  raise_to(largest_key, std::bit_cast<std::uint32_t>(largest * 127.001f));
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
    .export_rows = export_rows,
    .read_block = read_block,
    .write_block = write_block,
};

}  // namespace intflash::internal
