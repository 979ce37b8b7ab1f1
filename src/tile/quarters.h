// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Blocks of keys and of values from two bits to page layout version 1: each byte has the codes of
// four rows, whose channels have steps and offsets. In vectors of the instruction set that it is
// compiled for.
#pragma once

#include <cstdint>

#include "tile/key_codes.h"
#include "tile/portability.h"
#include "tile/types.h"
#include "tile/value_steps.h"

namespace intflash::internal {
namespace {

#if defined(__AVX512BW__)
constexpr std::int64_t kQuarterLanes = 64;
#elif defined(__AVX2__)
constexpr std::int64_t kQuarterLanes = 32;
#else
constexpr std::int64_t kQuarterLanes = 16;
#endif
using QuarterBytes = std::uint8_t __attribute__((vector_size(kQuarterLanes)));
using QuarterWords = std::uint32_t __attribute__((vector_size(kQuarterLanes)));

// An INT8 code of value_steps.h or key_codes.h is first + code * step, in 8 bits that wrap.
INTFLASH_INLINE void expand_quarters(const std::uint8_t* bytes, QuarterBytes step,
                                     QuarterBytes first, std::int8_t* rows,
                                     std::int64_t row_stride) {
  const auto quarters = load_as<QuarterBytes>(bytes);
  const QuarterBytes twice = step + step;
  const QuarterBytes none{};
  INTFLASH_UNROLL
  for (std::int32_t part = 0; part < 4; ++part) {
    const auto low = static_cast<std::uint8_t>(1 << 2 * part);
    const auto high = static_cast<std::uint8_t>(2 << 2 * part);
    const QuarterBytes codes = first + ((quarters & low) != none ? step : none) +
                               ((quarters & high) != none ? twice : none);
    store_as(rows + part * row_stride, codes);
  }
}

inline void expand_quarter_keys(const std::uint8_t* packed, std::int64_t head_dim,
                                std::int8_t* codes) {
  const std::int64_t tile = key_code_bytes<2>(head_dim);
  const std::uint8_t* const steps = packed + tile;
  for (std::int64_t quad = 0; quad < head_dim / 4; ++quad) {
    const QuarterWords step = QuarterWords{} + load_as<std::uint32_t>(steps + quad * 4);
    const QuarterWords offset =
        QuarterWords{} + load_as<std::uint32_t>(steps + head_dim + quad * 4);
    for (std::int64_t i = quad * 64; i < quad * 64 + 64; i += kQuarterLanes)
      expand_quarters(packed + i, bits_as<QuarterBytes>(step),
                      bits_as<QuarterBytes>(offset ^ 0x80808080u), codes + i, tile);
  }
}

inline void expand_quarter_values(const std::uint8_t* packed, std::int64_t padded_dim_v,
                                  std::int8_t* codes) {
  // Four tokens' bytes for each channel; made for all channels before they are read as vectors.
  alignas(64) std::uint32_t steps[kMaxHeadDim];
  alignas(64) std::uint32_t firsts[kMaxHeadDim];
  const std::uint8_t* const of_channels = packed + quarter_code_bytes(padded_dim_v);
  for (std::int64_t c = 0; c < padded_dim_v; ++c) {
    const ChannelLevels levels = channel_levels(of_channels[c]);
    steps[c] = static_cast<std::uint32_t>(levels.step) * 0x01010101u;
    firsts[c] = static_cast<std::uint8_t>(levels.first) * 0x01010101u;
  }
  for (std::int64_t channel = 0; channel < padded_dim_v; channel += 16) {
    for (std::int64_t i = 0; i < 64; i += kQuarterLanes) {
      const auto step = load_as<QuarterBytes>(steps + channel + i / 4);
      const auto first = load_as<QuarterBytes>(firsts + channel + i / 4);
      for (std::int64_t row = i; row < kQuarterBytes; row += 64)
        expand_quarters(packed + row, step, first, codes + row, kQuarterBytes);
    }
    packed += kQuarterBytes;
    codes += 4 * kQuarterBytes;
  }
}

}  // namespace
}  // namespace intflash::internal
