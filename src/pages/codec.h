// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the bytes of keys and values in a page mean. Tokens come to a codec as INT8 codes with a
// scale, keys with second digits where it has them, and values in f16 where it has these, and are
// given back as such; what kernels read is codec int8's, or expanded to it by the port
// (RowKernels::expand), or of values in f16.
#pragma once

#include <cstdint>

#include "intflash/cache.h"
#include "pages/page.h"

namespace intflash::internal {

struct PortEntry;

// Codes of consecutive tokens of a block.
struct TokenCodes {
  const std::int8_t* codes;   // [count] rows; of values in f16 these
  const std::int8_t* digits;  // likewise; of keys, where the codec has them
  std::int64_t stride;        // bytes from row to row
  std::int64_t at;            // place of the first one in the block
  std::int64_t count;         // 64: every byte of the block is theirs
};

struct Codec {
  intflash_codec id;  // below kMaxCodecs: the place of its expand in KernelTable
  const char* name;
  std::int32_t layout_version;  // of its pages, from 1 on
  bool is_expanded;             // its blocks are not int8's
  bool has_digits;              // keys have second digits
  bool is_by_block;             // 64 tokens are stored at once, or none of them
  bool has_f16_values;          // in place of codes
  std::int32_t packed;          // what is in four bits, in the layout that ports know
  // Of 64 tokens; multiples of 64.
  std::int64_t (*key_block_bytes)(std::int64_t head_dim);
  std::int64_t (*value_block_bytes)(std::int64_t head_dim_v);
  // The codes of keys with key_sum, and of values. Scales are there already. The bytes of a token
  // whose codes are zeros are zeros.
  void (*store_keys)(const KernelTable& kernels, const PageLayout& layout,
                     const WritableBlock& block, const TokenCodes& tokens);
  void (*store_values)(const KernelTable& kernels, const PageLayout& layout,
                       const WritableBlock& block, const TokenCodes& tokens);
  // The codes of the token at a place of a block; of a value in f16 these, as TokenCodes has them.
  void (*load_key)(const PageLayout& layout, const KvBlock& block, std::int64_t at,
                   std::int8_t* codes);
  void (*load_value)(const PageLayout& layout, const KvBlock& block, std::int64_t at,
                     std::int8_t* codes);
  // The key's second digits; nullptr where there are none.
  void (*load_digits)(const PageLayout& layout, const KvBlock& block, std::int64_t at,
                      std::int8_t* digits);
  // Whether a page of 64 tokens is one that append could have written, as far as kernels rely on
  // it, with its first tokens present. What is not is returned as the place in the page; else
  // nullptr.
  const void* (*find_damage)(const PageLayout& layout, const KvBlock& block, std::int64_t tokens);
};

extern const Codec kInt8Codec;
extern const Codec kInt8WideCodec;
extern const Codec kK8v4Codec;
extern const Codec kK4v4Codec;
extern const Codec kK4v2Codec;
extern const Codec kK2v2Codec;
extern const Codec kK8v16Codec;

// Bytes of a row of values, as it comes to the codec.
inline std::int64_t value_row_bytes(const Codec& codec, std::int64_t head_dim_v) {
  return codec.has_f16_values ? 2 * head_dim_v : head_dim_v;
}

PageLayout page_layout(const Codec& codec, std::int64_t head_dim, std::int64_t head_dim_v,
                       std::int64_t page_size);

// The codec of an id, with pages of this version of its layout, 0 = the newest; or the error that
// says what there is.
intflash_status choose_codec(std::int32_t id, std::int32_t layout_version, const Codec*& codec);
// That the port's kernels read the codec's blocks, or it expands them.
intflash_status check_codec(const Codec& codec, const PortEntry& port);
// "unknown" where this library has none of that id.
const char* codec_name(std::uint32_t id);

}  // namespace intflash::internal
