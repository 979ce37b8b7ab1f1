// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Codec int8: codes as kernels read them.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "pages/codec.h"

namespace intflash::internal {
namespace {

// ---- Tokens in and out ----

std::int64_t key_block_bytes(std::int64_t head_dim) { return kBlockTokens * head_dim; }
std::int64_t value_block_bytes(std::int64_t head_dim_v) {
  return kBlockTokens * round_up(head_dim_v, 16);
}

// Where a token's first bytes lie in the codes of a block.
std::int64_t key_offset(const PageLayout& layout, std::int64_t at) {
  return at / 16 * 16 * layout.head_dim + at % 16 * 4;
}
std::int64_t value_offset(std::int64_t at) { return at / 4 * 64 + at % 4; }
std::int64_t channel_offset(std::int64_t c) { return c / 16 * 1024 + c % 16 * 4; }

void store_key(const PageLayout& layout, const WritableBlock& block, std::int64_t at,
               const std::int8_t* codes) {
  std::int8_t* first = block.key_codes + key_offset(layout, at);
  std::int32_t sum = 0;
  for (std::int64_t c = 0; c < layout.head_dim; ++c) sum += codes[c];
  for (std::int64_t quad = 0; quad < layout.head_dim / 4; ++quad)
    std::memcpy(first + quad * 64, codes + quad * 4, 4);
  block.key_sum[at] = sum;
}

void store_value(const PageLayout& layout, const WritableBlock& block, std::int64_t at,
                 const std::int8_t* codes) {
  std::int8_t* first = block.value_codes + value_offset(at);
  for (std::int64_t c = 0; c < layout.head_dim_v; ++c) first[channel_offset(c)] = codes[c];
}

// The port packs whole blocks; the tokens of others are stored one by one, to the same bytes.
void store_keys(const KernelTable& kernels, const PageLayout& layout, const WritableBlock& block,
                const TokenCodes& tokens) {
  if (tokens.count == kBlockTokens) {
    kernels.pack_keys(tokens.codes, tokens.stride, static_cast<std::int32_t>(layout.head_dim),
                      block.key_codes, block.key_sum);
    return;
  }
  for (std::int64_t i = 0; i < tokens.count; ++i)
    store_key(layout, block, tokens.at + i, tokens.codes + i * tokens.stride);
}

void store_values(const KernelTable& kernels, const PageLayout& layout, const WritableBlock& block,
                  const TokenCodes& tokens) {
  if (tokens.count == kBlockTokens) {
    kernels.pack_values(tokens.codes, tokens.stride, static_cast<std::int32_t>(layout.head_dim_v),
                        block.value_codes);
    return;
  }
  for (std::int64_t i = 0; i < tokens.count; ++i)
    store_value(layout, block, tokens.at + i, tokens.codes + i * tokens.stride);
}

void load_key(const PageLayout& layout, const KvBlock& block, std::int64_t at, std::int8_t* codes) {
  const std::int8_t* first = block.key_codes + key_offset(layout, at);
  for (std::int64_t quad = 0; quad < layout.head_dim / 4; ++quad)
    std::memcpy(codes + quad * 4, first + quad * 64, 4);
}

void load_value(const PageLayout& layout, const KvBlock& block, std::int64_t at,
                std::int8_t* codes) {
  const std::int8_t* first = block.value_codes + value_offset(at);
  for (std::int64_t c = 0; c < layout.head_dim_v; ++c) codes[c] = first[channel_offset(c)];
}

// ---- Blocks of files ----

// No scale that append writes reaches these: elements stay below 2^91 and 2^106, whatever a
// rotation of 1024 channels and an embedding make of them.
constexpr float kMaxKeyScale = 0x1p110f;
constexpr float kMaxValueScale = 0x1p90f;
constexpr float kMinScale = kTinyMagnitude / 127.0f;

bool is_scale(float scale, float limit) {
  return scale == 0.0f ? !std::signbit(scale) : scale >= kMinScale && scale < limit;
}

// The first code that is not 0; nullptr: none.
const std::int8_t* find_nonzero(const std::int8_t* codes, std::int64_t count) {
  const std::int8_t* found =
      std::find_if(codes, codes + count, [](std::int8_t code) { return code != 0; });
  return found == codes + count ? nullptr : found;
}

const void* find_damage(const PageLayout& layout, const KvBlock& block, std::int64_t tokens) {
  const std::int64_t code_bytes = layout.key_bytes() + layout.value_bytes();
  const std::int8_t* end = block.key_codes + code_bytes;
  const std::int8_t* minus_128 = std::find(block.key_codes, end, std::int8_t{-128});
  if (minus_128 != end) return minus_128;
  std::int32_t sums[kBlockTokens] = {};
  for (std::int64_t i = 0; i < layout.key_bytes(); ++i)
    sums[i / (16 * layout.head_dim) * 16 + i / 4 % 16] += block.key_codes[i];
  for (std::int64_t at = 0; at < kBlockTokens; ++at) {
    if (!is_scale(block.key_scale[at], at < tokens ? kMaxKeyScale : 0.0f))
      return block.key_scale + at;
    if (!is_scale(block.value_scale[at], at < tokens ? kMaxValueScale : 0.0f))
      return block.value_scale + at;
    if (block.key_sum[at] != sums[at]) return block.key_sum + at;
  }
  std::int8_t codes[kMaxHeadDim];
  for (std::int64_t at = tokens; at < kBlockTokens; ++at) {
    load_key(layout, block, at, codes);
    if (find_nonzero(codes, layout.head_dim) != nullptr) return block.key_codes;
    load_value(layout, block, at, codes);
    if (find_nonzero(codes, layout.head_dim_v) != nullptr) return block.value_codes;
  }
  // Half of the last 16 channels, where head_dim_v is an odd multiple of 8.
  for (std::int64_t row = 0; layout.head_dim_v % 16 != 0 && row < 16; ++row) {
    const std::int8_t* padding = block.value_codes + layout.head_dim_v / 16 * 1024 + row * 64 + 32;
    if (const std::int8_t* found = find_nonzero(padding, 32)) return found;
  }
  return nullptr;
}

}  // namespace

const Codec kInt8Codec = {
    .id = INTFLASH_CODEC_INT8,
    .name = "int8",
    .layout_version = INTFLASH_PAGE_LAYOUT_VERSION,
    .is_expanded = false,
    .key_block_bytes = key_block_bytes,
    .value_block_bytes = value_block_bytes,
    .store_keys = store_keys,
    .store_values = store_values,
    .load_key = load_key,
    .load_value = load_value,
    .find_damage = find_damage,
};

}  // namespace intflash::internal
