// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Values in two bits, by channel, on top of INT8 codes, of 64 tokens at a time. docs/numerics.md,
// section "Codecs".
//   codes  [head_dim_v padded to 16 / 16][4 token quads][16 channels][4], lowest bits of the first
//          16 tokens, the next ones of the next 16
//   steps  u8 [head_dim_v padded to 16], of each channel: low bits its step, high ones where the
//          middle of its four levels lies
#pragma once

#include <cstdint>

#include "tile/portability.h"

namespace intflash::internal {
namespace {

constexpr std::int64_t kQuarterRows = 4;
constexpr std::int64_t kQuarterBytes = kQuarterRows * 64;  // of 16 channels

constexpr std::int64_t quarter_code_bytes(std::int64_t padded_dim_v) {
  return padded_dim_v / 16 * kQuarterBytes;
}
// With steps.
constexpr std::int64_t quarter_value_bytes(std::int64_t padded_dim_v) {
  return round_up(quarter_code_bytes(padded_dim_v) + padded_dim_v, 64);
}

// Each about 5/4 of the one before; 0: all of the channel is 0.
constexpr std::int32_t kNumValueSteps = 16;
constexpr std::uint8_t kValueSteps[kNumValueSteps] = {0,  3,  4,  5,  6,  8,  10, 12,
                                                      15, 19, 24, 30, 38, 48, 60, 76};
// Middles lie 3/16 of a step apart, this one at 0.
constexpr std::int32_t kZeroMiddle = 8;

// The levels of a channel: first + n * step, n = 0 ... 3.
struct ChannelLevels {
  std::int32_t step;
  std::int32_t first;
};
INTFLASH_INLINE ChannelLevels channel_levels(std::int32_t step, std::int32_t middle) {
  const std::int32_t first = ((3 * (middle - kZeroMiddle) * step + 8) >> 4) - (3 * step >> 1);
  return {step, min_of(max_of(first, -127), 127 - 3 * step)};
}
INTFLASH_INLINE ChannelLevels channel_levels(std::uint8_t code) {
  return channel_levels(kValueSteps[code & 15], code >> 4);
}

}  // namespace
}  // namespace intflash::internal
