// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Values in two bits by channel.
#include <algorithm>
#include <cstdint>

#include "pages/few_bit_values.h"
#include "tile/value_steps.h"

namespace intflash::internal {
namespace {

// Where a token's bits lie in those of 16 channels.
std::int64_t value_offset(std::int64_t at) { return at % 16 / 4 * 64 + at % 4; }
std::int64_t channel_offset(std::int64_t c) { return c / 16 * kQuarterBytes + c % 16 * 4; }
std::int32_t shift_of(std::int64_t at) { return static_cast<std::int32_t>(at / 16 * 2); }

const std::uint8_t* bytes_of(const KvBlock& block) {
  return reinterpret_cast<const std::uint8_t*>(block.value_codes);
}

}  // namespace

std::int64_t QuarterValues::block_bytes(std::int64_t head_dim_v) {
  return quarter_value_bytes(round_up(head_dim_v, 16));
}

void QuarterValues::store(const KernelTable& kernels, const PageLayout& layout,
                          const WritableBlock& block, const TokenCodes& tokens) {
  kernels.rows->code_quarters(tokens.codes, tokens.stride,
                              static_cast<std::int32_t>(layout.head_dim_v),
                              reinterpret_cast<std::uint8_t*>(block.value_codes));
}

void QuarterValues::load(const PageLayout& layout, const KvBlock& block, std::int64_t at,
                         std::int8_t* codes) {
  const std::uint8_t* const first = bytes_of(block) + value_offset(at);
  const std::uint8_t* const of_channels =
      bytes_of(block) + quarter_code_bytes(round_up(layout.head_dim_v, 16));
  for (std::int64_t c = 0; c < layout.head_dim_v; ++c) {
    const ChannelLevels levels = channel_levels(of_channels[c]);
    const std::int32_t code = first[channel_offset(c)] >> shift_of(at) & 3;
    codes[c] = static_cast<std::int8_t>(levels.first + code * levels.step);
  }
}

const void* QuarterValues::find_damage(const PageLayout& layout, const KvBlock& block,
                                       std::int64_t) {
  const std::int64_t padded = round_up(layout.head_dim_v, 16);
  const std::uint8_t* const end = bytes_of(block) + layout.value_block_bytes;
  const std::uint8_t* const padding =
      bytes_of(block) + quarter_code_bytes(padded) + layout.head_dim_v;
  const std::uint8_t* const found =
      std::find_if(padding, end, [](std::uint8_t byte) { return byte != 0; });
  if (found != end) return found;
  for (std::int64_t c = layout.head_dim_v; c < padded; ++c) {
    for (std::int64_t at = 0; at < 16; ++at) {
      const std::uint8_t* const byte = bytes_of(block) + channel_offset(c) + value_offset(at);
      if (*byte != 0) return byte;
    }
  }
  return nullptr;
}

}  // namespace intflash::internal
