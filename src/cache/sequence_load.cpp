// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "cache/kv_cache.h"
#include "cache/sequence_file.h"
#include "cache/storage.h"
#include "core/checks.h"
#include "pages/codec.h"

namespace intflash::internal {
namespace {

// Records from the caller's function.
class RecordReader {
 public:
  RecordReader(intflash_read_fn read, void* user) : read_(read), user_(user) {}

  // Of the last record.
  std::int64_t offset() const { return record_offset_; }

  intflash_status get(void* bytes, std::int64_t num_bytes) {
    const intflash_status status = get_bytes(bytes, num_bytes);
    return status == INTFLASH_OK ? verify(bytes, num_bytes) : status;
  }
  // The two halves of get.
  intflash_status get_bytes(void* bytes, std::int64_t num_bytes) {
    record_offset_ = offset_;
    return fill(bytes, static_cast<std::size_t>(num_bytes));
  }
  intflash_status verify(const void* bytes, std::int64_t num_bytes) {
    std::uint64_t checksum = 0;
    const intflash_status status = fill(&checksum, sizeof checksum);
    if (status != INTFLASH_OK ||
        checksum == record_checksum(bytes, static_cast<std::size_t>(num_bytes), record_offset_))
      return status;
    return fail(INTFLASH_BAD_FILE, "byte %lld: %lld bytes from here do not have their checksum",
                static_cast<i64>(record_offset_), static_cast<i64>(num_bytes));
  }

 private:
  intflash_status fill(void* bytes, std::size_t num_bytes) {
    for (std::size_t done = 0; done < num_bytes;) {
      const std::size_t wanted = num_bytes - done;
      const std::size_t given = read_(user_, static_cast<char*>(bytes) + done, wanted);
      if (given == 0 || given > wanted) {
        return fail(INTFLASH_BAD_FILE, "byte %lld: read returned %zu of %zu bytes",
                    static_cast<i64>(offset_), given, wanted);
      }
      done += given;
      offset_ += static_cast<std::int64_t>(given);
    }
    return INTFLASH_OK;
  }

  intflash_read_fn read_;
  void* user_;
  std::int64_t offset_ = 0;
  std::int64_t record_offset_ = 0;
};

// ---- The header ----

// The file's part of the contract with the cache.
intflash_status check_shape(const FileHeader& header, const intflash_cache& cache) {
  if (header.codec != static_cast<std::uint32_t>(cache.codec->id)) {
    return fail(INTFLASH_BAD_FILE, "byte %zu: codec = %u (%s) in the file, %d (%s) in the cache",
                offsetof(FileHeader, codec), header.codec, codec_name(header.codec),
                cache.codec->id, cache.codec->name);
  }
  const struct {
    const char* name;
    std::size_t offset;
    std::int64_t in_file, in_cache;
  } fields[] = {
      {"page layout", offsetof(FileHeader, page_layout), header.page_layout,
       cache.codec->layout_version},
      {"rotation", offsetof(FileHeader, rotation), header.rotation, file_rotation(cache.rotation)},
      {"num_layers", offsetof(FileHeader, num_layers), header.num_layers, cache.num_layers},
      {"num_kv_heads", offsetof(FileHeader, num_kv_heads), header.num_kv_heads, cache.num_kv_heads},
      {"head_dim", offsetof(FileHeader, head_dim), header.head_dim, cache.layout.head_dim},
      {"head_dim_v", offsetof(FileHeader, head_dim_v), header.head_dim_v, cache.layout.head_dim_v}};
  for (const auto& field : fields) {
    if (field.in_file == field.in_cache) continue;
    return fail(INTFLASH_BAD_FILE, "byte %zu: %s = %lld in the file, %lld in the cache",
                field.offset, field.name, static_cast<i64>(field.in_file),
                static_cast<i64>(field.in_cache));
  }
  return INTFLASH_OK;
}

intflash_status check_positions(const FileHeader& header, const intflash_cache& cache) {
  if (header.kv_len < 0 || header.kv_len > kMaxExtent) {
    return fail(INTFLASH_BAD_FILE, "byte %zu: kv_len = %lld: must be 0 ... %lld",
                offsetof(FileHeader, kv_len), static_cast<i64>(header.kv_len),
                static_cast<i64>(kMaxExtent));
  }
  if (header.first_key_position < 0 || header.first_key_position > header.kv_len ||
      header.first_key_position % cache.layout.page_size != 0) {
    return fail(INTFLASH_BAD_FILE,
                "byte %zu: first_key_position = %lld: must be a multiple of page_size = %lld up to "
                "kv_len = %lld",
                offsetof(FileHeader, first_key_position),
                static_cast<i64>(header.first_key_position),
                static_cast<i64>(cache.layout.page_size), static_cast<i64>(header.kv_len));
  }
  if (header.parts <= (kKeyCenter | kValueCenter | kWindow)) return INTFLASH_OK;
  return fail(INTFLASH_BAD_FILE, "byte %zu: parts = %u: must be 0 ... 7",
              offsetof(FileHeader, parts), header.parts);
}

// That it is the cache's, or that there is none in both.
intflash_status check_file_window(RecordReader& reader, const intflash_cache& cache, bool in_file) {
  FileWindow saved{};
  const intflash_status status = in_file ? reader.get(&saved, sizeof saved) : INTFLASH_OK;
  if (status != INTFLASH_OK) return status;
  const Int8Window window = {saved.window_blocks, saved.sink_blocks};
  if (in_file != cache.window.is_none() && window == cache.window) return INTFLASH_OK;
  return fail(
      INTFLASH_BAD_FILE,
      "byte %lld: a window of %lld and %lld blocks in the file, %lld and %lld in the cache",
      static_cast<i64>(in_file ? reader.offset() : static_cast<i64>(offsetof(FileHeader, parts))),
      static_cast<i64>(window.num_blocks), static_cast<i64>(window.sink_blocks),
      static_cast<i64>(cache.window.num_blocks), static_cast<i64>(cache.window.sink_blocks));
}

intflash_status load_header(RecordReader& reader, const intflash_cache& cache, FileHeader& header) {
  intflash_status status = reader.get_bytes(&header, sizeof header);
  if (status != INTFLASH_OK) return status;
  if (std::memcmp(header.magic, kFileMagic, sizeof kFileMagic) != 0)
    return fail(INTFLASH_BAD_FILE, "byte 0: not a saved sequence");
  // A later version's header may be another one.
  if (header.version != INTFLASH_SEQUENCE_FILE_VERSION) {
    return fail(INTFLASH_BAD_FILE, "byte %zu: file version %u: this library reads version %d",
                offsetof(FileHeader, version), header.version, INTFLASH_SEQUENCE_FILE_VERSION);
  }
  status = reader.verify(&header, sizeof header);
  if (status == INTFLASH_OK) status = check_shape(header, cache);
  return status == INTFLASH_OK ? check_positions(header, cache) : status;
}

// Centres that are absent, in the file or in the cache, are zeros.
intflash_status check_centers(RecordReader& reader, const intflash_cache& cache, const char* name,
                              bool in_file, const float* center, std::int64_t dim) {
  float saved[kMaxHeadDim] = {};
  for (std::int64_t h = 0; h < cache.num_layers * cache.num_kv_heads; ++h) {
    if (in_file) {
      const intflash_status status = reader.get(saved, dim * 4);
      if (status != INTFLASH_OK) return status;
    }
    for (std::int64_t c = 0; c < dim; ++c) {
      const float own = center == nullptr ? 0.0f : center[h * dim + c];
      if (saved[c] == own) continue;
      return fail(INTFLASH_BAD_FILE,
                  "byte %lld: %s[layer %lld][head %lld][%lld] = %g in the file, %g in the cache",
                  static_cast<i64>(in_file ? reader.offset() + c * 4
                                           : static_cast<i64>(offsetof(FileHeader, parts))),
                  name, static_cast<i64>(h / cache.num_kv_heads),
                  static_cast<i64>(h % cache.num_kv_heads), static_cast<i64>(c),
                  static_cast<double>(saved[c]), static_cast<double>(own));
    }
  }
  return INTFLASH_OK;
}

// ---- Blocks ----

// Fills pages with tokens up to kv_len; page: room for a block of the file, and for rows of codes.
intflash_status load_blocks(RecordReader& reader, intflash_cache& cache, const PageRun& run,
                            std::int64_t kv_len, char* page) {
  for (std::int64_t position = run.first_key_position; position < kv_len;
       position += kBlockTokens) {
    const FileBlock file = file_block(cache, run, position);
    const KvBlock from = file.layout.block(page, 0);
    const std::int64_t tokens = std::min<std::int64_t>(kBlockTokens, kv_len - position);
    for (std::int64_t h = 0; h < cache.num_layers * cache.num_kv_heads; ++h) {
      intflash_status status = reader.get(page, file.layout.bytes());
      if (status != INTFLASH_OK) return status;
      if (const void* damage = file.codec.find_damage(file.layout, from, tokens)) {
        return fail(INTFLASH_BAD_FILE, "byte %lld: no such block of tokens is ever saved",
                    static_cast<i64>(reader.offset() + (static_cast<const char*>(damage) - page)));
      }
      const BlockPlace place = place_of(cache, run, h, position);
      status = cache.storage->write_block(cache, place, page);
      if (status != INTFLASH_OK) return status;
      if (place.window_page != kNoPage && tokens == kBlockTokens)
        cache.storage->code_block(cache, place,
                                  reinterpret_cast<std::int8_t*>(page + file_block_bytes(cache)));
    }
  }
  return INTFLASH_OK;
}

// Takes a slot, and pages for the header's tokens, which no other call touches until the slot is
// given a length.
intflash_status reserve_sequence(intflash_cache& cache, const FileHeader& header,
                                 std::int32_t& slot, PageRun& run) {
  const CacheChange change(cache);
  intflash_status status = change.status();
  if (status == INTFLASH_OK) status = create_sequence(cache, slot);
  if (status != INTFLASH_OK) return status;
  Sequence& reserved = cache.sequences[slot];
  reserved.first_key_position = reserved.kv_len = header.first_key_position;
  if (!cache.window.is_none()) reserved.coded_keys = cache.window.coded_keys(header.kv_len);
  const std::int64_t token_indptr[] = {0, header.kv_len - header.first_key_position};
  status = extend_sequences(cache, &slot, 1, token_indptr);
  if (status != INTFLASH_OK) {
    free_sequence(cache, slot);
    return status;
  }
  for (std::int64_t layer = 1; layer < cache.num_layers; ++layer)
    reserved.length(layer) = header.kv_len;
  reserved.kv_len = kLoadingSlot;
  run = reserved.run(0);
  return INTFLASH_OK;
}

// A new sequence of the header's tokens; where that fails, none. The caller's function is called
// while nothing is held but the slot and its pages.
intflash_status load_tokens(RecordReader& reader, intflash_cache& cache, const FileHeader& header,
                            char* page, std::int32_t& sequence) {
  std::int32_t slot = -1;
  PageRun run{};
  intflash_status status = reserve_sequence(cache, header, slot, run);
  if (status != INTFLASH_OK) return status;
  status = load_blocks(reader, cache, run, header.kv_len, page);
  // What has been read cannot be read again: a change at work is waited for.
  const CacheChange change(cache, CacheChange::Waiting{});
  if (status != INTFLASH_OK) {
    free_sequence(cache, slot);
    return status;
  }
  cache.sequences[slot].kv_len = header.kv_len;
  sequence = slot;
  return INTFLASH_OK;
}

}  // namespace
}  // namespace intflash::internal

using namespace intflash::internal;

extern "C" {

intflash_status intflash_sequence_load(intflash_cache* cache, intflash_read_fn read, void* user,
                                       int32_t* sequence) {
  if (cache == nullptr || read == nullptr || sequence == nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT, "cache = %p, read = %s, sequence = %p: must not be NULL",
                static_cast<void*>(cache), read == nullptr ? "NULL" : "given",
                static_cast<void*>(sequence));
  }
  RecordReader reader(read, user);
  FileHeader header{};
  intflash_status status = load_header(reader, *cache, header);
  if (status == INTFLASH_OK)
    status = check_file_window(reader, *cache, (header.parts & kWindow) != 0);
  if (status == INTFLASH_OK)
    status = check_centers(reader, *cache, "key_center", (header.parts & kKeyCenter) != 0,
                           cache->key_center, cache->layout.head_dim);
  if (status == INTFLASH_OK)
    status = check_centers(reader, *cache, "value_center", (header.parts & kValueCenter) != 0,
                           cache->value_center, cache->layout.head_dim_v);
  if (status != INTFLASH_OK) return status;
  const intflash_context& context = *cache->context;
  const auto bytes = static_cast<std::size_t>(file_block_bytes(*cache) + file_rows_bytes(*cache));
  char* page = static_cast<char*>(context.allocate(context.allocator_user, bytes, 64));
  if (page == nullptr)
    return fail(INTFLASH_OUT_OF_MEMORY, "no memory for a block of %zu bytes", bytes);
  status = load_tokens(reader, *cache, header, page, *sequence);
  context.deallocate(context.allocator_user, page);
  return status;
}

}  // extern "C"
