// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Codecs int8, codes as kernels read them, and int8_wide, keys with their second digits behind
// them.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "pages/block_damage.h"
#include "pages/codec.h"

namespace intflash::internal {
namespace {

// ---- Tokens in and out ----

std::int64_t key_block_bytes(std::int64_t head_dim) { return kBlockTokens * head_dim; }
std::int64_t wide_key_block_bytes(std::int64_t head_dim) {
  return 2 * key_block_bytes(head_dim) + kBlockTokens * 4;
}
std::int64_t value_block_bytes(std::int64_t head_dim_v) {
  return kBlockTokens * round_up(head_dim_v, 16);
}

// Where a token's first bytes lie in the codes of a block.
std::int64_t key_offset(const PageLayout& layout, std::int64_t at) {
  return at / 16 * 16 * layout.head_dim + at % 16 * 4;
}
std::int64_t value_offset(std::int64_t at) { return at / 4 * 64 + at % 4; }
std::int64_t channel_offset(std::int64_t c) { return c / 16 * 1024 + c % 16 * 4; }

// Codes of a key, or its digits, into those of a block, with their sum.
void store_key(const PageLayout& layout, std::int64_t at, const std::int8_t* codes,
               std::int8_t* block_codes, std::int32_t* block_sum) {
  std::int8_t* first = block_codes + key_offset(layout, at);
  std::int32_t sum = 0;
  for (std::int64_t c = 0; c < layout.head_dim; ++c) sum += codes[c];
  for (std::int64_t quad = 0; quad < layout.head_dim / 4; ++quad)
    std::memcpy(first + quad * 64, codes + quad * 4, 4);
  block_sum[at] = sum;
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
    kernels.rows->pack_keys(tokens.codes, tokens.stride, static_cast<std::int32_t>(layout.head_dim),
                            block.key_codes, block.key_sum);
    return;
  }
  for (std::int64_t i = 0; i < tokens.count; ++i)
    store_key(layout, tokens.at + i, tokens.codes + i * tokens.stride, block.key_codes,
              block.key_sum);
}

void store_wide_keys(const KernelTable& kernels, const PageLayout& layout,
                     const WritableBlock& block, const TokenCodes& tokens) {
  store_keys(kernels, layout, block, tokens);
  WritableBlock digits = block;
  digits.key_codes = block.key_digits;
  digits.key_sum = block.digit_sum;
  store_keys(kernels, layout, digits,
             {tokens.digits, nullptr, tokens.stride, tokens.at, tokens.count});
}

void store_values(const KernelTable& kernels, const PageLayout& layout, const WritableBlock& block,
                  const TokenCodes& tokens) {
  if (tokens.count == kBlockTokens) {
    kernels.rows->pack_values(tokens.codes, tokens.stride,
                              static_cast<std::int32_t>(layout.head_dim_v), block.value_codes);
    return;
  }
  for (std::int64_t i = 0; i < tokens.count; ++i)
    store_value(layout, block, tokens.at + i, tokens.codes + i * tokens.stride);
}

void load_key_row(const PageLayout& layout, const std::int8_t* block_codes, std::int64_t at,
                  std::int8_t* codes) {
  const std::int8_t* first = block_codes + key_offset(layout, at);
  for (std::int64_t quad = 0; quad < layout.head_dim / 4; ++quad)
    std::memcpy(codes + quad * 4, first + quad * 64, 4);
}
void load_key(const PageLayout& layout, const KvBlock& block, std::int64_t at, std::int8_t* codes) {
  load_key_row(layout, block.key_codes, at, codes);
}
void load_digits(const PageLayout& layout, const KvBlock& block, std::int64_t at,
                 std::int8_t* digits) {
  load_key_row(layout, block.key_digits, at, digits);
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

const std::int8_t* find_minus_128(const std::int8_t* codes, std::int64_t count) {
  const std::int8_t* found = std::find(codes, codes + count, std::int8_t{-128});
  return found == codes + count ? nullptr : found;
}

// Codes of a block's keys, or their digits, and the sums of them.
const void* find_damaged_key(const PageLayout& layout, const std::int8_t* codes,
                             const std::int32_t* sums, std::int64_t tokens) {
  const std::int64_t count = key_block_bytes(layout.head_dim);
  if (const std::int8_t* found = find_minus_128(codes, count)) return found;
  std::int32_t right[kBlockTokens] = {};
  for (std::int64_t i = 0; i < count; ++i)
    right[i / (16 * layout.head_dim) * 16 + i / 4 % 16] += codes[i];
  std::int8_t row[kMaxHeadDim];
  for (std::int64_t at = 0; at < kBlockTokens; ++at) {
    if (sums[at] != right[at]) return sums + at;
    if (at < tokens) continue;
    load_key_row(layout, codes, at, row);
    if (find_nonzero(row, layout.head_dim) != nullptr) return codes;
  }
  return nullptr;
}

// Tokens that are absent have no values, and none have channels that there are not.
const void* find_damaged_values(const PageLayout& layout, const KvBlock& block,
                                std::int64_t tokens) {
  if (const void* found = find_minus_128(block.value_codes, layout.value_bytes())) return found;
  std::int8_t codes[kMaxHeadDim];
  for (std::int64_t at = tokens; at < kBlockTokens; ++at) {
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

const void* find_damage(const PageLayout& layout, const KvBlock& block, std::int64_t tokens) {
  const void* damaged = find_damaged_keys(layout, block, tokens);
  if (damaged == nullptr) damaged = find_damaged_scale(block, tokens);
  return damaged != nullptr ? damaged : find_damaged_values(layout, block, tokens);
}

}  // namespace

const void* find_damaged_keys(const PageLayout& layout, const KvBlock& block, std::int64_t tokens) {
  const void* damaged = find_damaged_key(layout, block.key_codes, block.key_sum, tokens);
  return damaged != nullptr || !layout.has_digits
             ? damaged
             : find_damaged_key(layout, block.key_digits, block.digit_sum, tokens);
}

const void* find_damaged_scale(const KvBlock& block, std::int64_t tokens) {
  for (std::int64_t at = 0; at < kBlockTokens; ++at) {
    if (!is_scale(block.key_scale[at], at < tokens ? kMaxKeyScale : 0.0f))
      return block.key_scale + at;
    if (!is_scale(block.value_scale[at], at < tokens ? kMaxValueScale : 0.0f))
      return block.value_scale + at;
  }
  return nullptr;
}

const Codec kInt8Codec = {
    .id = INTFLASH_CODEC_INT8,
    .name = "int8",
    .layout_version = INTFLASH_PAGE_LAYOUT_VERSION,
    .is_expanded = false,
    .has_digits = false,
    .is_by_block = false,
    .has_f16_values = false,
    .packed = 0,
    .key_block_bytes = key_block_bytes,
    .value_block_bytes = value_block_bytes,
    .store_keys = store_keys,
    .store_values = store_values,
    .load_key = load_key,
    .load_value = load_value,
    .load_digits = nullptr,
    .find_damage = find_damage,
};

const Codec kInt8WideCodec = {
    .id = INTFLASH_CODEC_INT8_WIDE,
    .name = "int8_wide",
    .layout_version = 1,
    .is_expanded = false,
    .has_digits = true,
    .is_by_block = false,
    .has_f16_values = false,
    .packed = 0,
    .key_block_bytes = wide_key_block_bytes,
    .value_block_bytes = value_block_bytes,
    .store_keys = store_wide_keys,
    .store_values = store_values,
    .load_key = load_key,
    .load_value = load_value,
    .load_digits = load_digits,
    .find_damage = find_damage,
};

}  // namespace intflash::internal
