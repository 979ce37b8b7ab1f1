// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Codec k4v4: keys in four bits by channel, values as codec k8v4 has them.
#include <algorithm>
#include <cstdint>

#include "pages/block_damage.h"
#include "pages/codec.h"
#include "tile/key_codes.h"

namespace intflash::internal {
namespace {

// ---- Keys ----

std::uint8_t* bytes_of(std::int8_t* codes) { return reinterpret_cast<std::uint8_t*>(codes); }
const std::uint8_t* bytes_of(const std::int8_t* codes) {
  return reinterpret_cast<const std::uint8_t*>(codes);
}

std::int64_t key_block_bytes(std::int64_t head_dim) { return packed_key_bytes(head_dim); }

// Of all 64 tokens.
void store_keys(const KernelTable& kernels, const PageLayout& layout, const WritableBlock& block,
                const TokenCodes& tokens) {
  kernels.rows->code_keys(tokens.codes, tokens.stride, static_cast<std::int32_t>(layout.head_dim),
                          bytes_of(block.key_codes), block.key_sum);
}

void load_key(const PageLayout& layout, const KvBlock& block, std::int64_t at, std::int8_t* codes) {
  const std::uint8_t* const packed = bytes_of(block.key_codes);
  const std::uint8_t* const step = packed + nibble_key_bytes(layout.head_dim);
  const std::uint8_t* const offset = step + layout.head_dim;
  const std::int64_t first = at % kHalfBlock / 16 * 16 * layout.head_dim + at % 16 * 4;
  const int shift = at < kHalfBlock ? 0 : 4;
  for (std::int64_t c = 0; c < layout.head_dim; ++c) {
    const int nibble = packed[first + c / 4 * 64 + c % 4] >> shift & 15;
    codes[c] = static_cast<std::int8_t>(key_code(nibble, step[c], offset[c]));
  }
}

// ---- Values ----

std::int64_t value_block_bytes(std::int64_t head_dim_v) {
  return kK8v4Codec.value_block_bytes(head_dim_v);
}
void store_values(const KernelTable& kernels, const PageLayout& layout, const WritableBlock& block,
                  const TokenCodes& tokens) {
  kK8v4Codec.store_values(kernels, layout, block, tokens);
}
void load_value(const PageLayout& layout, const KvBlock& block, std::int64_t at,
                std::int8_t* codes) {
  kK8v4Codec.load_value(layout, block, at, codes);
}

// ---- Blocks of files ----

// Steps and offsets of each channel, what is behind them, and the sums of the keys.
const void* find_damaged_four_bit_keys(const PageLayout& layout, const KvBlock& block) {
  const std::uint8_t* const step = bytes_of(block.key_codes) + nibble_key_bytes(layout.head_dim);
  const std::uint8_t* const offset = step + layout.head_dim;
  const std::uint8_t* const end = bytes_of(block.key_codes) + packed_key_bytes(layout.head_dim);
  for (std::int64_t c = 0; c < layout.head_dim; ++c) {
    if (step[c] > kMaxKeyStep) return step + c;
    if (offset[c] == 0 || offset[c] + 15 * step[c] > 255) return offset + c;
  }
  const std::uint8_t* const padding = offset + layout.head_dim;
  const std::uint8_t* const found =
      std::find_if(padding, end, [](std::uint8_t byte) { return byte != 0; });
  if (found != end) return found;
  for (std::int64_t at = 0; at < kBlockTokens; ++at) {
    std::int8_t codes[kMaxHeadDim];
    load_key(layout, block, at, codes);
    std::int32_t sum = 0;
    for (std::int64_t c = 0; c < layout.head_dim; ++c) sum += codes[c];
    if (block.key_sum[at] != sum) return block.key_sum + at;
  }
  return nullptr;
}

const void* find_damage(const PageLayout& layout, const KvBlock& block, std::int64_t tokens) {
  if (tokens != kBlockTokens) return block.key_codes;
  const void* damaged = find_damaged_four_bit_keys(layout, block);
  if (damaged == nullptr) damaged = find_damaged_scale(block, tokens);
  return damaged != nullptr ? damaged : find_damaged_four_bit_values(layout, block, tokens);
}

}  // namespace

const Codec kK4v4Codec = {
    .id = INTFLASH_CODEC_K4V4,
    .name = "k4v4",
    .layout_version = 1,
    .is_expanded = true,
    .has_digits = false,
    .is_by_block = true,
    .packed = kPackedKeys | kPackedValues,
    .key_block_bytes = key_block_bytes,
    .value_block_bytes = value_block_bytes,
    .store_keys = store_keys,
    .store_values = store_values,
    .load_key = load_key,
    .load_value = load_value,
    .load_digits = nullptr,
    .find_damage = find_damage,
};

}  // namespace intflash::internal
