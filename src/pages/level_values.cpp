// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Values in four bits, one of 16 levels each.
#include <algorithm>
#include <cstdint>

#include "pages/few_bit_values.h"
#include "tile/value_levels.h"

namespace intflash::internal {
namespace {

// Where a token's first nibble lies: the low one of its byte, or the high one.
std::int64_t value_offset(std::int64_t at) { return at % 32 / 4 * 64 + at % 4; }
std::int64_t channel_offset(std::int64_t c) { return c / 16 * kNibbleBytes + c % 16 * 4; }
int shift_of(std::int64_t at) { return at < 32 ? 0 : 4; }

// Those of four tokens and 16 channels into a row; stored: the low four bits of those that are
// stored, whose others stay.
void store_quads(const std::uint8_t (*nibbles)[kMaxHeadDim], std::int64_t channel,
                 std::uint32_t stored, int shift, std::uint8_t* INTFLASH_RESTRICT row) {
  const std::uint32_t kept = ~(stored << shift);
  for (std::int64_t i = 0; i < 16; ++i) {
    const std::int64_t c = channel + i;
    const std::uint32_t four = nibbles[0][c] | std::uint32_t{nibbles[1][c]} << 8 |
                               std::uint32_t{nibbles[2][c]} << 16 |
                               std::uint32_t{nibbles[3][c]} << 24;
    store_as(row + 4 * i, (load_as<std::uint32_t>(row + 4 * i) & kept) | four << shift);
  }
}

}  // namespace

std::int64_t LevelValues::block_bytes(std::int64_t head_dim_v) {
  return round_up(head_dim_v, 16) / 16 * kNibbleBytes;
}

void LevelValues::store(const KernelTable& kernels, const PageLayout& layout,
                        const WritableBlock& block, const TokenCodes& tokens) {
  std::uint8_t nibbles[4][kMaxHeadDim];
  const std::int64_t channels = round_up(layout.head_dim_v, 16);
  const std::int64_t end = tokens.at + tokens.count;
  for (std::int64_t first = tokens.at / 4 * 4; first < end; first += 4) {
    // Of four tokens those that are stored; the others stay.
    std::uint32_t stored = 0;
    for (std::int64_t t = 0; t < 4; ++t) {
      const std::int64_t at = first + t;
      std::fill_n(nibbles[t], channels, std::uint8_t{0});
      if (at < tokens.at || at >= end) continue;
      stored |= 15u << (8 * t);
      kernels.rows->code_values(tokens.codes + (at - tokens.at) * tokens.stride, layout.head_dim_v,
                                block.value_scale[at], nibbles[t]);
    }
    auto* const row = reinterpret_cast<std::uint8_t*>(block.value_codes) + value_offset(first);
    for (std::int64_t c = 0; c < channels; c += 16)
      store_quads(nibbles, c, stored, shift_of(first), row + channel_offset(c));
  }
}

void LevelValues::load(const PageLayout& layout, const KvBlock& block, std::int64_t at,
                       std::int8_t* codes) {
  const auto* first = reinterpret_cast<const std::uint8_t*>(block.value_codes) + value_offset(at);
  for (std::int64_t c = 0; c < layout.head_dim_v; ++c)
    codes[c] = kLevels.level[first[channel_offset(c)] >> shift_of(at) & 15];
}

const void* LevelValues::find_damage(const PageLayout& layout, const KvBlock& block,
                                     std::int64_t tokens) {
  std::int8_t codes[kMaxHeadDim];
  PageLayout padded = layout;
  padded.head_dim_v = round_up(layout.head_dim_v, 16);
  for (std::int64_t at = 0; at < kBlockTokens; ++at) {
    load(padded, block, at, codes);
    const std::int64_t channels = at < tokens ? layout.head_dim_v : 0;
    if (std::any_of(codes + channels, codes + padded.head_dim_v,
                    [](int code) { return code != 0; }))
      return block.value_codes;
  }
  return nullptr;
}

}  // namespace intflash::internal
