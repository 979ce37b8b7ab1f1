// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "pages/f16_values.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "tile/float_math.h"

namespace intflash::internal {
namespace {

constexpr std::int64_t kGroupBytes = 2 * 16 * kBlockTokens;  // of 16 channels
constexpr std::uint16_t kMostBits = 0x5800;                  // 128, that of the largest element

// Where the 16 channels from c on of a token lie.
std::int64_t offset_of(std::int64_t at, std::int64_t c) { return c / 16 * kGroupBytes + at * 32; }

// Bytes from c on that are a row's, of as many.
std::size_t piece_bytes(const PageLayout& layout, std::int64_t c) {
  return static_cast<std::size_t>(2 * std::min<std::int64_t>(layout.head_dim_v - c, 16));
}

}  // namespace

std::int64_t F16Values::block_bytes(std::int64_t head_dim_v) {
  return round_up(head_dim_v, 16) / 16 * kGroupBytes;
}

void F16Values::store(const KernelTable&, const PageLayout& layout, const WritableBlock& block,
                      const TokenCodes& tokens) {
  for (std::int64_t i = 0; i < tokens.count; ++i) {
    const std::int8_t* row = tokens.codes + i * tokens.stride;
    for (std::int64_t c = 0; c < layout.head_dim_v; c += 16) {
      std::int8_t* const to = block.value_codes + offset_of(tokens.at + i, c);
      const std::size_t bytes = piece_bytes(layout, c);
      std::memcpy(to, row + 2 * c, bytes);
      std::memset(to + bytes, 0, 32 - bytes);
    }
  }
}

void F16Values::load(const PageLayout& layout, const KvBlock& block, std::int64_t at,
                     std::int8_t* codes) {
  for (std::int64_t c = 0; c < layout.head_dim_v; c += 16)
    std::memcpy(codes + 2 * c, block.value_codes + offset_of(at, c), piece_bytes(layout, c));
}

const void* F16Values::find_damage(const PageLayout& layout, const KvBlock& block,
                                   std::int64_t tokens) {
  for (std::int64_t at = 0; at < kBlockTokens; ++at) {
    const float scale = block.value_scale[at];
    if (scale > 0 && mantissa_of(scale) != 0.5f) return block.value_scale + at;
    const std::int64_t channels = at < tokens && scale > 0 ? layout.head_dim_v : 0;
    for (std::int64_t c = 0; c < round_up(layout.head_dim_v, 16); ++c) {
      const std::int8_t* half = block.value_codes + offset_of(at, c) + c % 16 * 2;
      const int bits = load_as<std::uint16_t>(half);
      if ((bits & 0x7fff) > kMostBits || (c >= channels && bits != 0)) return half;
    }
  }
  return nullptr;
}

}  // namespace intflash::internal
