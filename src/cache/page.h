// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Page layout version 1: one kv head's keys and values of page_size tokens.
//   key codes    [page_size / 16][head_dim / 4][16 tokens][4]
//   value codes  [page_size / 64][head_dim_v padded to 16 / 16][16 token quads][16 channels][4]
//   key_scale    f32 [page_size]
//   value_scale  f32 [page_size]
//   key_sum      i32 [page_size]
// Little-endian, every part at a multiple of 64 bytes. A token that is absent has zero scales.
#pragma once

#include <cstdint>

#include "tile/portability.h"
#include "tile/types.h"

namespace intflash::internal {

struct PageLayout {
  std::int64_t head_dim = 0;
  std::int64_t head_dim_v = 0;
  std::int64_t page_size = kBlockTokens;

  std::int64_t key_bytes() const { return page_size * head_dim; }
  std::int64_t value_bytes() const { return page_size * round_up(head_dim_v, 16); }
  std::int64_t bytes() const { return key_bytes() + value_bytes() + 3 * page_size * 4; }

  // 64 tokens of a page.
  KvBlock block(const char* page, std::int64_t index) const {
    const std::int64_t first = index * kBlockTokens;
    const char* scales = page + key_bytes() + value_bytes();
    return {
        reinterpret_cast<const std::int8_t*>(page + first * head_dim),
        reinterpret_cast<const std::int8_t*>(page + key_bytes() + first * round_up(head_dim_v, 16)),
        reinterpret_cast<const float*>(scales) + first,
        reinterpret_cast<const float*>(scales + page_size * 4) + first,
        reinterpret_cast<const std::int32_t*>(scales + 2 * page_size * 4) + first};
  }
};

// The same for writing.
struct WritableBlock {
  std::int8_t* key_codes;
  std::int8_t* value_codes;
  float* key_scale;
  float* value_scale;
  std::int32_t* key_sum;
};
inline WritableBlock writable_block(const PageLayout& layout, char* page, std::int64_t index) {
  const KvBlock block = layout.block(page, index);
  return {const_cast<std::int8_t*>(block.key_codes), const_cast<std::int8_t*>(block.value_codes),
          const_cast<float*>(block.key_scale), const_cast<float*>(block.value_scale),
          const_cast<std::int32_t*>(block.key_sum)};
}

// All 64 tokens of a block, between pages whose rows are as long.
void copy_block(const PageLayout& layout, const KvBlock& from, const WritableBlock& to);

// The codes of one token to and from its place `at` in a block; a key with the sum of its codes.
void store_key(const PageLayout& layout, const WritableBlock& block, std::int64_t at,
               const std::int8_t* codes);
void store_value(const PageLayout& layout, const WritableBlock& block, std::int64_t at,
                 const std::int8_t* codes);
void load_key(const PageLayout& layout, const KvBlock& block, std::int64_t at, std::int8_t* codes);
void load_value(const PageLayout& layout, const KvBlock& block, std::int64_t at,
                std::int8_t* codes);

}  // namespace intflash::internal
