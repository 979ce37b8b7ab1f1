// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "cache/kv_cache.h"
#include "cache/sequence_file.h"
#include "cache/storage.h"
#include "core/checks.h"

namespace intflash::internal {
namespace {

// Records to the caller's function.
class RecordWriter {
 public:
  RecordWriter(intflash_write_fn write, void* user) : write_(write), user_(user) {}

  intflash_status put(const void* bytes, std::int64_t num_bytes) {
    const std::size_t size = static_cast<std::size_t>(num_bytes);
    const std::uint64_t checksum = record_checksum(bytes, size, offset_);
    const intflash_status status = put_bytes(bytes, size);
    return status == INTFLASH_OK ? put_bytes(&checksum, sizeof checksum) : status;
  }

 private:
  intflash_status put_bytes(const void* bytes, std::size_t num_bytes) {
    for (std::size_t done = 0; done < num_bytes;) {
      const std::size_t wanted = num_bytes - done;
      const std::size_t taken = write_(user_, static_cast<const char*>(bytes) + done, wanted);
      if (taken == 0 || taken > wanted) {
        return fail(INTFLASH_BAD_FILE, "byte %lld: write returned %zu of %zu bytes",
                    static_cast<i64>(offset_), taken, wanted);
      }
      done += taken;
      offset_ += static_cast<std::int64_t>(taken);
    }
    return INTFLASH_OK;
  }

  intflash_write_fn write_;
  void* user_;
  std::int64_t offset_ = 0;
};

FileHeader header_of(const intflash_cache& cache, const Sequence& sequence) {
  FileHeader header{};
  std::memcpy(header.magic, kFileMagic, sizeof kFileMagic);
  header.version = INTFLASH_SEQUENCE_FILE_VERSION;
  header.codec = static_cast<std::uint32_t>(cache.codec->id);
  header.page_layout = static_cast<std::uint32_t>(cache.codec->layout_version);
  header.rotation = file_rotation(cache.rotation);
  header.parts = static_cast<std::uint16_t>((cache.key_center != nullptr ? kKeyCenter : 0) |
                                            (cache.value_center != nullptr ? kValueCenter : 0) |
                                            (cache.window.is_none() ? 0 : kWindow));
  header.num_layers = cache.num_layers;
  header.num_kv_heads = cache.num_kv_heads;
  header.head_dim = cache.layout.head_dim;
  header.head_dim_v = cache.layout.head_dim_v;
  header.first_key_position = sequence.first_key_position;
  header.kv_len = sequence.kv_len;
  return header;
}

intflash_status save_centers(const float* center, std::int64_t heads, std::int64_t dim,
                             RecordWriter& writer) {
  intflash_status status = INTFLASH_OK;
  for (std::int64_t h = 0; center != nullptr && status == INTFLASH_OK && h < heads; ++h)
    status = writer.put(center + h * dim, dim * 4);
  return status;
}

// Zeros for tokens of a page from `tokens` on: they may be what a truncated sequence once held.
void clear_tail(const intflash_cache& cache, const FileBlock& file, std::int64_t tokens,
                char* page) {
  if (tokens == kBlockTokens) return;
  const PageLayout& layout = file.layout;
  const WritableBlock block = writable_block(layout, page, 0);
  const std::int8_t no_codes[2 * kMaxHeadDim] = {};  // of a row of f16 too
  const KernelTable& kernels = *cache.context->port->kernels;
  const TokenCodes absent = {no_codes, no_codes, 0, tokens, kBlockTokens - tokens};
  file.codec.store_keys(kernels, layout, block, absent);
  file.codec.store_values(kernels, layout, block, absent);
  std::fill(block.key_scale + tokens, block.key_scale + kBlockTokens, 0.0f);
  std::fill(block.value_scale + tokens, block.value_scale + kBlockTokens, 0.0f);
}

intflash_status save_sequence(const intflash_cache& cache, const Sequence& sequence,
                              RecordWriter& writer, char* page) {
  const PageLayout& layout = cache.layout;
  const FileHeader header = header_of(cache, sequence);
  intflash_status status = writer.put(&header, sizeof header);
  const FileWindow window = {cache.window.num_blocks, cache.window.sink_blocks};
  if (status == INTFLASH_OK && !cache.window.is_none()) status = writer.put(&window, sizeof window);
  const std::int64_t heads = cache.num_layers * cache.num_kv_heads;
  if (status == INTFLASH_OK)
    status = save_centers(cache.key_center, heads, layout.head_dim, writer);
  if (status == INTFLASH_OK)
    status = save_centers(cache.value_center, heads, layout.head_dim_v, writer);
  const PageRun run = file_run(cache, sequence);
  for (std::int64_t position = sequence.first_key_position; position < sequence.kv_len;
       position += kBlockTokens) {
    const FileBlock file = file_block(cache, run, position);
    const std::int64_t tokens = std::min<std::int64_t>(kBlockTokens, sequence.kv_len - position);
    for (std::int64_t h = 0; status == INTFLASH_OK && h < heads; ++h) {
      status = cache.storage->read_block(cache, place_of(cache, run, h, position), page);
      if (status != INTFLASH_OK) break;
      clear_tail(cache, file, tokens, page);
      status = writer.put(page, file.layout.bytes());
    }
  }
  return status;
}

}  // namespace
}  // namespace intflash::internal

using namespace intflash::internal;

extern "C" {

intflash_status intflash_sequence_save(const intflash_cache* cache, int32_t sequence,
                                       intflash_write_fn write, void* user) {
  if (cache == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "cache = NULL: create one first");
  if (write == nullptr)
    return fail(INTFLASH_INVALID_ARGUMENT, "write = NULL: must be a function that takes bytes");
  intflash_status status = check_sequence(*cache, sequence);
  if (status == INTFLASH_OK) status = check_layers(*cache, sequence);
  if (status != INTFLASH_OK) return status;
  const intflash_context& context = *cache->context;
  const auto bytes = static_cast<std::size_t>(file_block_bytes(*cache));
  char* page = static_cast<char*>(context.allocate(context.allocator_user, bytes, 64));
  if (page == nullptr)
    return fail(INTFLASH_OUT_OF_MEMORY, "no memory for a block of %zu bytes", bytes);
  RecordWriter writer(write, user);
  status = save_sequence(*cache, cache->sequences[sequence], writer, page);
  context.deallocate(context.allocator_user, page);
  return status;
}

}  // extern "C"
