// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Keys in four or two bits by channel, of all 64 tokens at once: a part of a Codec.
#pragma once

#include <algorithm>
#include <cstdint>

#include "pages/codec.h"
#include "pages/page.h"
#include "tile/key_codes.h"

namespace intflash::internal {
namespace {

inline std::uint8_t* bytes_of(std::int8_t* codes) { return reinterpret_cast<std::uint8_t*>(codes); }
inline const std::uint8_t* bytes_of(const std::int8_t* codes) {
  return reinterpret_cast<const std::uint8_t*>(codes);
}

template <std::int32_t kBits>
struct FewBitKeys {
  static std::int64_t block_bytes(std::int64_t head_dim);
  static void store(const KernelTable& kernels, const PageLayout& layout,
                    const WritableBlock& block, const TokenCodes& tokens);
  static void load(const PageLayout& layout, const KvBlock& block, std::int64_t at,
                   std::int8_t* codes);
  // Steps and offsets of each channel, what is behind them, and the sums of the keys.
  static const void* find_damage(const PageLayout& layout, const KvBlock& block,
                                 std::int64_t tokens);
};

template <std::int32_t kBits>
std::int64_t FewBitKeys<kBits>::block_bytes(std::int64_t head_dim) {
  return packed_key_bytes<kBits>(head_dim);
}

template <std::int32_t kBits>
void FewBitKeys<kBits>::store(const KernelTable& kernels, const PageLayout& layout,
                              const WritableBlock& block, const TokenCodes& tokens) {
  kernels.rows->code_keys[kBits / 4](tokens.codes, tokens.stride,
                                     static_cast<std::int32_t>(layout.head_dim),
                                     bytes_of(block.key_codes), block.key_sum);
}

template <std::int32_t kBits>
void FewBitKeys<kBits>::load(const PageLayout& layout, const KvBlock& block, std::int64_t at,
                             std::int8_t* codes) {
  const std::uint8_t* const packed = bytes_of(block.key_codes);
  const std::uint8_t* const step = packed + key_code_bytes<kBits>(layout.head_dim);
  const std::uint8_t* const offset = step + layout.head_dim;
  const std::int64_t first = at % kPartTokens<kBits> / 16 * 16 * layout.head_dim + at % 16 * 4;
  const auto shift = static_cast<std::int32_t>(at / kPartTokens<kBits> * kBits);
  for (std::int64_t c = 0; c < layout.head_dim; ++c) {
    const std::int32_t code = packed[first + c / 4 * 64 + c % 4] >> shift & kMostCode<kBits>;
    codes[c] = static_cast<std::int8_t>(key_code(code, step[c], offset[c]));
  }
}

template <std::int32_t kBits>
const void* FewBitKeys<kBits>::find_damage(const PageLayout& layout, const KvBlock& block,
                                           std::int64_t tokens) {
  if (tokens != kBlockTokens) return block.key_codes;
  const std::uint8_t* const packed = bytes_of(block.key_codes);
  const std::uint8_t* const step = packed + key_code_bytes<kBits>(layout.head_dim);
  const std::uint8_t* const offset = step + layout.head_dim;
  const std::uint8_t* const end = packed + packed_key_bytes<kBits>(layout.head_dim);
  for (std::int64_t c = 0; c < layout.head_dim; ++c) {
    if (step[c] > kMaxKeyStep<kBits>) return step + c;
    if (offset[c] == 0 || offset[c] + kMostCode<kBits> * step[c] > 255) return offset + c;
  }
  const std::uint8_t* const padding = offset + layout.head_dim;
  const std::uint8_t* const found =
      std::find_if(padding, end, [](std::uint8_t byte) { return byte != 0; });
  if (found != end) return found;
  for (std::int64_t at = 0; at < kBlockTokens; ++at) {
    std::int8_t codes[kMaxHeadDim];
    load(layout, block, at, codes);
    std::int32_t sum = 0;
    for (std::int64_t c = 0; c < layout.head_dim; ++c) sum += codes[c];
    if (block.key_sum[at] != sum) return block.key_sum + at;
  }
  return nullptr;
}

}  // namespace
}  // namespace intflash::internal
