// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A saved sequence, version 2. Little-endian, and made of records: bytes, then their u64 checksum,
// XXH64 seeded with the file offset of the bytes, so that a record in another's place is found too.
//   FileHeader
//   FileWindow                                                     where there is kWindow
//   of each layer, of each kv head  key_center    f32 [head_dim]    where there is kKeyCenter
//   of each layer, of each kv head  value_center  f32 [head_dim_v]  where there is kValueCenter
//   of each 64 positions from first_key_position on, of each layer, of each kv head
//                    its keys and values as a page of page_size 64 (page.h): of codec int8 where
//                    the next query's window has them in INT8, else of the cache's codec
// Positions from kv_len on, and the padding of values, are zeros: equal tokens give equal files.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "cache/kv_cache.h"
#include "core/rotation.h"
#include "intflash/cache.h"
#include "pages/page.h"

namespace intflash::internal {

static_assert(std::endian::native == std::endian::little, "files and pages are little-endian");

constexpr char kFileMagic[8] = {'i', 'n', 't', 'f', 'l', 'a', 's', 'h'};
constexpr std::uint16_t kKeyCenter = 1;
constexpr std::uint16_t kValueCenter = 2;
constexpr std::uint16_t kWindow = 4;
constexpr std::uint16_t kRotatedKeys = 1;
constexpr std::uint16_t kRotatedValues = 2;

struct FileHeader {
  char magic[8];
  std::uint32_t version;      // INTFLASH_SEQUENCE_FILE_VERSION
  std::uint32_t codec;        // intflash_codec
  std::uint32_t page_layout;  // its version, of the codec
  std::uint16_t rotation;     // kRotatedKeys, kRotatedValues, both or none
  std::uint16_t parts;        // any of kKeyCenter, kValueCenter, kWindow
  std::int64_t num_layers;
  std::int64_t num_kv_heads;
  std::int64_t head_dim;
  std::int64_t head_dim_v;
  std::int64_t first_key_position;
  std::int64_t kv_len;
};
static_assert(sizeof(FileHeader) == 72);

// Int8Window of the cache.
struct FileWindow {
  std::int64_t window_blocks;
  std::int64_t sink_blocks;
};

inline std::uint16_t file_rotation(const Rotation& rotation) {
  return static_cast<std::uint16_t>((rotation.keys ? kRotatedKeys : 0) |
                                    (rotation.values ? kRotatedValues : 0));
}

std::uint64_t record_checksum(const void* bytes, std::size_t num_bytes, std::int64_t offset);

// The pages of a sequence as far as they are in its file: what no later query sees in INT8 is not.
inline PageRun file_run(const intflash_cache& cache, const Sequence& sequence) {
  PageRun run = sequence.run(0);
  if (!cache.window.is_none()) run.coded_keys = cache.window.coded_keys(sequence.kv_len);
  return run;
}

// One block of one kv head in a file.
inline PageLayout file_page(PageLayout layout) {
  layout.page_size = kBlockTokens;
  return layout;
}
// That of a position, and whose it is.
struct FileBlock {
  const Codec& codec;
  PageLayout layout;
};
inline FileBlock file_block(const intflash_cache& cache, const PageRun& run,
                            std::int64_t position) {
  if (run.is_int8(position)) return {kInt8Codec, file_page(cache.window_layout)};
  return {*cache.codec, file_page(cache.layout)};
}
// Room for any of them.
inline std::int64_t file_block_bytes(const intflash_cache& cache) {
  const std::int64_t in_window =
      cache.window.is_none() ? 0 : file_page(cache.window_layout).bytes();
  return std::max(file_page(cache.layout).bytes(), in_window);
}
// Room for 64 rows of codes, where full blocks are coded anew.
inline std::int64_t file_rows_bytes(const intflash_cache& cache) {
  const PageLayout& layout = cache.layout;
  return cache.window.is_none()
             ? 0
             : kBlockTokens * round_up(std::max(layout.head_dim, layout.head_dim_v), 64);
}

}  // namespace intflash::internal
