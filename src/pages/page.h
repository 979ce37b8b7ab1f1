// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A page: one kv head's keys and values of page_size tokens.
//   keys         [page_size / 64] blocks
//   values       [page_size / 64] blocks
//   key_scale    f32 [page_size]
//   value_scale  f32 [page_size]
//   key_sum      i32 [page_size]
// Little-endian, every part at a multiple of 64 bytes. A token that is absent has zero scales. What
// a block holds is up to the codec. Page layout version 1 of codec int8:
//   keys         [4 tiles][head_dim / 4][16 tokens][4]
//   values       [head_dim_v padded to 16 / 16][16 token quads][16 channels][4]
// and of codec int8_wide, whose blocks of values are the same:
//   keys         those of int8, their second digits likewise, and i32 [64], the digits' sums
// and of codec k8v4, whose blocks of keys are those of int8, codes of four bits (value_levels.h):
//   values       [head_dim_v padded to 16 / 16][8 token quads][16 channels][4], low bits of the
//                first 32 tokens, high ones of the others
// and of codec k4v4, whose blocks of values are those of k8v4:
//   keys         four bits by channel (key_codes.h)
// and of codec k4v2, whose blocks of keys are those of k4v4:
//   values       two bits by channel (value_steps.h)
// and of codec k2v2, whose blocks of values are those of k4v2:
//   keys         two bits by channel (key_codes.h)
// and of codec k8v16, whose blocks of keys are those of int8:
//   values       f16 [head_dim_v padded to 16 / 16][64 tokens][16 channels]
#pragma once

#include <cstdint>

#include "tile/portability.h"
#include "tile/types.h"

namespace intflash::internal {

struct PageLayout {
  std::int64_t head_dim;
  std::int64_t head_dim_v;
  std::int64_t page_size;
  std::int64_t key_block_bytes;  // of 64 tokens
  std::int64_t value_block_bytes;
  bool has_digits;  // keys have second digits

  std::int64_t key_bytes() const { return page_size / kBlockTokens * key_block_bytes; }
  std::int64_t value_bytes() const { return page_size / kBlockTokens * value_block_bytes; }
  std::int64_t bytes() const { return key_bytes() + value_bytes() + 3 * page_size * 4; }

  // 64 tokens of a page.
  KvBlock block(const char* page, std::int64_t index) const {
    const std::int64_t first = index * kBlockTokens;
    const char* scales = page + key_bytes() + value_bytes();
    const auto* keys = reinterpret_cast<const std::int8_t*>(page + index * key_block_bytes);
    const std::int8_t* digits = has_digits ? keys + kBlockTokens * head_dim : nullptr;
    return {keys,
            reinterpret_cast<const std::int8_t*>(page + key_bytes() + index * value_block_bytes),
            reinterpret_cast<const float*>(scales) + first,
            reinterpret_cast<const float*>(scales + page_size * 4) + first,
            reinterpret_cast<const std::int32_t*>(scales + 2 * page_size * 4) + first,
            digits,
            has_digits ? reinterpret_cast<const std::int32_t*>(digits + kBlockTokens * head_dim)
                       : nullptr};
  }
};

// The same for writing.
inline WritableBlock writable_block(const PageLayout& layout, char* page, std::int64_t index) {
  const KvBlock block = layout.block(page, index);
  return {const_cast<std::int8_t*>(block.key_codes), const_cast<std::int8_t*>(block.value_codes),
          const_cast<float*>(block.key_scale),       const_cast<float*>(block.value_scale),
          const_cast<std::int32_t*>(block.key_sum),  const_cast<std::int8_t*>(block.key_digits),
          const_cast<std::int32_t*>(block.digit_sum)};
}

inline KvBlock readable(const WritableBlock& block) {
  return {block.key_codes, block.value_codes, block.key_scale, block.value_scale,
          block.key_sum,   block.key_digits,  block.digit_sum};
}

// No token in a block.
void clear_block(const PageLayout& layout, const WritableBlock& block);
// All 64 tokens of a block, between pages of one codec whose rows are as long.
void copy_block(const PageLayout& layout, const KvBlock& from, const WritableBlock& to);

}  // namespace intflash::internal
