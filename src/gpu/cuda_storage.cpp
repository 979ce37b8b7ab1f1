// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda_storage.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <new>

#include "cache/sequence_file.h"
#include "gpu/cuda_plan.h"
#include "host/host_storage.h"

namespace intflash::internal {
namespace {

constexpr std::size_t kAlignment = 64;
// Kernels count blocks of 64 tokens in 32 bits, four of them in the largest page.
constexpr std::int64_t kMaxPages = std::int64_t{1} << 29;
// Of a grid's second dimension.
constexpr std::int64_t kMaxHeads = 65535;

CudaError copy(const CudaStored& stored, const void* from, std::int64_t bytes, void* to) {
  return stored.device->table->copy(stored.device->index, stored.stream, from,
                                    static_cast<std::size_t>(bytes), to);
}
CudaError wait(const CudaStored& stored) {
  return stored.device->table->wait(stored.device->index, stored.stream);
}

// ---- Creation ----

intflash_status check_served(const intflash_cache& cache) {
  const intflash_context& context = *cache.context;
  if (cache.codec != &kInt8Codec && cache.codec != &kInt8WideCodec)
    return refuse(context, "a cache of a codec other than int8 and int8_wide");
  if (cache.num_pages > kMaxPages) return refuse(context, "a cache of more than 2^29 pages");
  if (cache.num_kv_heads > kMaxHeads) return refuse(context, "more than 65535 kv heads");
  return INTFLASH_OK;
}

// Memory of the device's with a copy of the host's.
intflash_status copy_to_device(const intflash_cache& cache, const void* from, std::int64_t bytes,
                               void*& to) {
  const CudaStored& stored = cuda_stored(cache);
  const intflash_status status = allocate_on(*cache.context, bytes, to);
  if (status != INTFLASH_OK) return status;
  CudaError error = copy(stored, from, bytes, to);
  if (error.is_none()) error = wait(stored);
  return check_cuda(*stored.device, "a new cache", error);
}
intflash_status copy_centers(const intflash_cache& cache, const float* centers, std::int64_t dim,
                             float*& on_device) {
  if (centers == nullptr) return INTFLASH_OK;
  void* memory = nullptr;
  const intflash_status status =
      copy_to_device(cache, centers, cache.num_layers * cache.num_kv_heads * dim * 4, memory);
  on_device = static_cast<float*>(memory);
  return status;
}

// Pages hold no key yet.
intflash_status clear_largest_keys(const intflash_cache& cache, CudaStored& stored) {
  const intflash_context& context = *cache.context;
  const std::int64_t count = cache.num_layers * cache.num_pages;
  std::uint32_t* zeros = nullptr;
  if (!allocate(context, count, zeros))
    return fail(INTFLASH_OUT_OF_MEMORY, "no memory for %lld numbers", static_cast<i64>(count));
  std::fill_n(zeros, count, 0u);
  void* memory = nullptr;
  const intflash_status status = copy_to_device(cache, zeros, count * 4, memory);
  stored.largest_key = static_cast<std::uint32_t*>(memory);
  release(context, zeros);
  return status;
}

intflash_status check_arena(const CudaStored& stored, const char* name, const void* arena,
                            std::size_t bytes, std::int64_t wanted) {
  if (reinterpret_cast<std::uintptr_t>(arena) % kAlignment == 0 && arena != nullptr &&
      bytes >= static_cast<std::size_t>(wanted))
    return check_place(*stored.device, name, arena);
  return fail(INTFLASH_INVALID_ARGUMENT,
              "%s = %p of %zu bytes: must be %lld bytes at a multiple of %zu", name, arena, bytes,
              static_cast<i64>(wanted), kAlignment);
}

// Where each layer's pages lie.
intflash_status place_layers(const intflash_cache& cache, const intflash_cache_options& options,
                             CudaStored& stored) {
  const std::int64_t layer_bytes = cache.num_pages * cache.page_bytes();
  const std::int64_t bytes = cache.num_layers * layer_bytes;
  if (options.arena != nullptr && options.layer_arenas != nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "arena = %p, layer_arenas = %p: at most one of both must be given", options.arena,
                static_cast<const void*>(options.layer_arenas));
  }
  intflash_status status = INTFLASH_OK;
  auto* pages = static_cast<char*>(options.arena);
  if (options.arena != nullptr)
    status = check_arena(stored, "arena", options.arena, options.arena_bytes, bytes);
  if (options.arena == nullptr && options.layer_arenas == nullptr) {
    status = allocate_on(*cache.context, bytes, stored.own_pages);
    pages = static_cast<char*>(stored.own_pages);
  }
  for (std::int64_t l = 0; status == INTFLASH_OK && l < cache.num_layers; ++l) {
    if (options.layer_arenas == nullptr) {
      stored.layers[l] = pages + l * layer_bytes;
      continue;
    }
    char name[40];
    std::snprintf(name, sizeof name, "layer_arenas[%lld]", static_cast<i64>(l));
    stored.layers[l] = static_cast<char*>(options.layer_arenas[l]);
    status = check_arena(stored, name, stored.layers[l], options.arena_bytes, layer_bytes);
  }
  return status;
}

void find_largest_centers(const intflash_cache& cache, CudaStored& stored) {
  const std::int64_t count = cache.num_kv_heads * cache.layout.head_dim;
  for (std::int64_t l = 0; l < cache.num_layers; ++l) {
    const float* const center = cache.key_center_of(l, 0);
    float largest = 0;
    for (std::int64_t i = 0; center != nullptr && i < count; ++i)
      largest = std::max(largest, std::fabs(center[i]));
    stored.largest_key_center[l] = largest;
  }
}

void destroy(intflash_cache& cache) {
  CudaStored& stored = cuda_stored(cache);
  const intflash_context& context = *cache.context;
  for (void* const memory : {stored.own_pages, static_cast<void*>(stored.largest_key),
                             static_cast<void*>(stored.key_center),
                             static_cast<void*>(stored.value_center), stored.device_staging}) {
    if (memory != nullptr)
      stored.device->table->release(stored.device->index, stored.stream, memory);
  }
  wait(stored);  // for copies from what the host has
  // A cache may have most of the device's memory, which others may want now.
  stored.device->table->trim_pool(stored.device->index, context.memory_pool);
  release(context, stored.host_staging);
  release(context, stored.largest_key_center);
  release(context, stored.layers);
  release(context, &stored);
  cache.stored = nullptr;
}

intflash_status create(intflash_cache& cache, const intflash_cache_options& options) {
  const intflash_context& context = *cache.context;
  const CudaDevice& device = cuda_device(context);
  intflash_status status = check_served(cache);
  if (status == INTFLASH_OK)
    status = check_cuda(device, "a new cache",
                        device.table->check_capture(device.index, context.stream));
  if (status != INTFLASH_OK) return status;
  CudaStored* stored = nullptr;
  if (!allocate(context, 1, stored))
    return fail(INTFLASH_OUT_OF_MEMORY, "no memory for a cache's storage");
  cache.stored = new (stored) CudaStored{};
  stored->device = &device;
  stored->stream = context.stream;
  stored->shape = cuda_pages(cache.layout, cache.num_kv_heads);
  if (!allocate(context, cache.num_layers, stored->layers) ||
      !allocate(context, cache.num_layers, stored->largest_key_center))
    status = fail(INTFLASH_OUT_OF_MEMORY, "no memory for %lld layers",
                  static_cast<i64>(cache.num_layers));
  if (status == INTFLASH_OK) find_largest_centers(cache, *stored);
  if (status == INTFLASH_OK) status = place_layers(cache, options, *stored);
  if (status == INTFLASH_OK) status = clear_largest_keys(cache, *stored);
  if (status == INTFLASH_OK)
    status = copy_centers(cache, cache.key_center, cache.layout.head_dim, stored->key_center);
  if (status == INTFLASH_OK)
    status = copy_centers(cache, cache.value_center, cache.layout.head_dim_v, stored->value_center);
  if (status != INTFLASH_OK) destroy(cache);
  return status;
}

// ---- Pages ----

intflash_status copy_page(intflash_cache& cache, std::int32_t from, std::int32_t to) {
  constexpr char kWhat[] = "copying a page";
  CudaStored& stored = cuda_stored(cache);
  const intflash_status status = stored.begin(kWhat);
  if (status != INTFLASH_OK) return status;
  const std::int64_t bytes = cache.page_bytes();
  CudaError error{};
  for (std::int64_t l = 0; error.is_none() && l < cache.num_layers; ++l) {
    std::uint32_t* const largest = stored.largest_key + l * cache.num_pages;
    error = copy(stored, stored.layers[l] + from * bytes, bytes, stored.layers[l] + to * bytes);
    if (error.is_none()) error = copy(stored, largest + from, 4, largest + to);
  }
  if (error.is_none()) error = wait(stored);
  return stored.check(kWhat, error);
}

// Addresses in the device's memory.
KvBlock block_of(const intflash_cache& cache, const BlockPlace& place) {
  const CudaStored& stored = cuda_stored(cache);
  return cache.layout.block(stored.layers[place.layer] + place.page * cache.page_bytes() +
                                place.kv_head * cache.layout.bytes(),
                            place.index);
}

// All parts of a block, between the device's pages and one of the host's.
CudaError copy_parts(const CudaStored& stored, const PageLayout& layout, const KvBlock& from,
                     const KvBlock& to) {
  const struct {
    const void *from, *to;
    std::int64_t bytes;
  } parts[] = {{from.key_codes, to.key_codes, layout.key_block_bytes},
               {from.value_codes, to.value_codes, layout.value_block_bytes},
               {from.key_scale, to.key_scale, kBlockTokens * 4},
               {from.value_scale, to.value_scale, kBlockTokens * 4},
               {from.key_sum, to.key_sum, kBlockTokens * 4}};
  for (const auto& part : parts) {
    const CudaError error = copy(stored, part.from, part.bytes, const_cast<void*>(part.to));
    if (!error.is_none()) return error;
  }
  return {};
}

intflash_status read_block(const intflash_cache& cache, const BlockPlace& place, char* page) {
  constexpr char kWhat[] = "reading a page";
  CudaStored& stored = cuda_stored(cache);
  const intflash_status status = stored.begin(kWhat);
  if (status != INTFLASH_OK) return status;
  const PageLayout layout = file_page(cache.layout);
  const CudaError error = copy_parts(stored, layout, block_of(cache, place), layout.block(page, 0));
  // What was enqueued goes to the caller's memory.
  const CudaError waited = wait(stored);
  return stored.check(kWhat, waited.is_none() ? error : waited);
}

intflash_status write_block(intflash_cache& cache, const BlockPlace& place, const char* page) {
  constexpr char kWhat[] = "writing a page";
  CudaStored& stored = cuda_stored(cache);
  const intflash_status status = stored.begin(kWhat);
  if (status != INTFLASH_OK) return status;
  const PageLayout layout = file_page(cache.layout);
  const KvBlock to = block_of(cache, place);
  CudaError error = copy_parts(stored, layout, layout.block(page, 0), to);
  if (error.is_none()) {
    error = stored.device->table->note_scales(
        stored.device->index, stored.stream, to.key_scale,
        stored.largest_key + place.layer * cache.num_pages + place.page,
        place.index == 0 && place.kv_head == 0);
  }
  const CudaError waited = wait(stored);  // for copies from the caller's memory
  return stored.check(kWhat, waited.is_none() ? error : waited);
}

// ---- Tokens in f32 ----

// Rows of a block, to wherever the caller's tensor lies.
intflash_status copy_rows(CudaStored& stored, const float* rows, std::int64_t count,
                          std::int64_t dim, const intflash_tensor& tensor, const BlockPlace& place,
                          std::int64_t first_row) {
  auto* const to = static_cast<float*>(tensor.data) +
                   (place.layer == 0 ? 0 : place.layer * tensor.stride_batch) +
                   place.kv_head * tensor.stride_head + first_row * tensor.stride_token;
  CudaError error{};
  for (std::int64_t i = 0; error.is_none() && i < count; ++i)
    error = copy(stored, rows + i * dim, dim * 4, to + i * tensor.stride_token);
  const CudaError waited = wait(stored);  // for copies from the rows
  return stored.check("exporting tokens", waited.is_none() ? error : waited);
}

// page: room for a block of a file; rows: for its tokens.
intflash_status export_by_blocks(const Export& wanted, const PageLayout& layout, char* page,
                                 float* rows) {
  const intflash_cache& cache = wanted.cache;
  CudaStored& stored = cuda_stored(cache);
  for (std::int64_t h = 0; h < cache.num_layers * cache.num_kv_heads; ++h) {
    for (std::int64_t first = wanted.begin; first < wanted.end;) {
      const std::int64_t position = first / kBlockTokens * kBlockTokens;
      const std::int64_t end = std::min(wanted.end, position + kBlockTokens);
      const BlockPlace place = place_of(cache, wanted.run, h, position);
      intflash_status status = read_block(cache, place, page);
      if (status != INTFLASH_OK) return status;
      const KvBlock block = layout.block(page, 0);
      const std::int64_t at = first - position, count = end - first;
      for (std::int64_t i = 0; wanted.key != nullptr && i < count; ++i)
        export_key(cache, *cache.codec, place.layer, place.kv_head, block, at + i,
                   rows + i * layout.head_dim);
      if (wanted.key != nullptr)
        status = copy_rows(stored, rows, count, layout.head_dim, *wanted.key, place,
                           first - wanted.begin);
      for (std::int64_t i = 0; wanted.value != nullptr && i < count; ++i)
        export_value(cache, *cache.codec, place.layer, place.kv_head, block, at + i,
                     rows + i * layout.head_dim_v);
      if (wanted.value != nullptr && status == INTFLASH_OK)
        status = copy_rows(stored, rows, count, layout.head_dim_v, *wanted.value, place,
                           first - wanted.begin);
      if (status != INTFLASH_OK) return status;
      first = end;
    }
  }
  return INTFLASH_OK;
}

intflash_status export_cuda_rows(const Export& wanted) {
  const intflash_context& context = *wanted.cache.context;
  const PageLayout layout = file_page(wanted.cache.layout);
  const std::int64_t page_bytes = round_up(layout.bytes(), kAlignment);
  const std::int64_t bytes =
      page_bytes + kBlockTokens * std::max(layout.head_dim, layout.head_dim_v) * 4;
  char* room = nullptr;
  if (!allocate(context, bytes, room))
    return fail(INTFLASH_OUT_OF_MEMORY, "no memory of %lld bytes", static_cast<i64>(bytes));
  const intflash_status status =
      export_by_blocks(wanted, layout, room, reinterpret_cast<float*>(room + page_bytes));
  release(context, room);
  return status;
}

}  // namespace

intflash_status CudaStored::status() const {
  const char* const text = loss.load(std::memory_order_relaxed);
  if (text == nullptr) return INTFLASH_OK;
  return check_cuda(*device, "its cache", {CudaErrorKind::kFatal, text});
}

intflash_status CudaStored::begin(const char* what) const {
  const intflash_status lost = status();
  if (lost != INTFLASH_OK) return lost;
  return check_cuda(*device, what, device->table->check_capture(device->index, stream));
}

intflash_status CudaStored::check(const char* what, const CudaError& error) {
  const char* none = nullptr;
  if (error.kind == CudaErrorKind::kFatal)
    loss.compare_exchange_strong(none, error.text, std::memory_order_relaxed);
  return check_cuda(*device, what, error);
}

const Storage kCudaStorage = {
    .name = "cuda",
    .create = create,
    .destroy = destroy,
    .check_tokens = check_cuda_tokens,
    .append = append_cuda_tokens,
    .copy_page = copy_page,
    .copy_window_page = nullptr,
    .export_rows = export_cuda_rows,
    .read_block = read_block,
    .write_block = write_block,
    .code_block = nullptr,
};

}  // namespace intflash::internal
