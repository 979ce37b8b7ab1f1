// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Keys in four or two bits, by channel: FlashQ of TurboAttention (arXiv 2412.08585, section 3.2) on
// top of INT8 codes, of 64 tokens at a time. docs/numerics.md, section "Codecs".
//   codes    [bits / 2 tiles][head_dim / 4][16 tokens][4], lowest bits of the first 8 * bits
//   tokens,
//            the next ones of as many others
//   step     u8 [head_dim], 0 ... 254 / most, which is the largest of these codes: 15 or 3
//   offset   u8 [head_dim], 1 ... 255 - most * step
// An INT8 code is offset + code * step - 128.
#pragma once

#include <cstdint>

#include "tile/portability.h"
#include "tile/types.h"

namespace intflash::internal {
namespace {

constexpr std::int64_t kHalfBlock = kBlockTokens / 2;

// Tokens that have the same bits of their bytes.
template <std::int32_t kBits>
constexpr std::int64_t kPartTokens = 8 * kBits;
template <std::int32_t kBits>
constexpr std::int32_t kMostCode = (1 << kBits) - 1;
template <std::int32_t kBits>
constexpr std::int32_t kMaxKeyStep = 254 / kMostCode<kBits>;

template <std::int32_t kBits = 4>
constexpr std::int64_t key_code_bytes(std::int64_t head_dim) {
  return kPartTokens<kBits> * head_dim;
}
// With step and offset.
template <std::int32_t kBits = 4>
constexpr std::int64_t packed_key_bytes(std::int64_t head_dim) {
  return round_up(key_code_bytes<kBits>(head_dim) + 2 * head_dim, 64);
}

INTFLASH_INLINE std::int32_t key_code(std::int32_t code, std::int32_t step, std::int32_t offset) {
  return offset + code * step - 128;
}

// What the codes of each channel are divided by, so that kMostCode steps have them all, but for up
// to 7 at either end of the widest channels.
struct KeySteps {
  std::uint8_t step[kMaxHeadDim];
  std::uint8_t offset[kMaxHeadDim];
  std::uint16_t reciprocal[kMaxHeadDim];  // 2^16 / (2 step), rounded up
  std::int32_t offset_sum;                // of what codes of 0 stand for
};
template <std::int32_t kBits>
INTFLASH_INLINE void find_steps(const std::int8_t* codes, std::int64_t stride, std::int64_t dim,
                                KeySteps& steps) {
  constexpr std::int32_t kMost = kMostCode<kBits>;
  std::int8_t least[kMaxHeadDim];
  std::int8_t most[kMaxHeadDim];
  __builtin_memcpy(least, codes, static_cast<std::size_t>(dim));
  __builtin_memcpy(most, codes, static_cast<std::size_t>(dim));
  for (std::int64_t token = 1; token < kBlockTokens; ++token) {
    const std::int8_t* INTFLASH_RESTRICT row = codes + token * stride;
    for (std::int64_t c = 0; c < dim; ++c) least[c] = min_of(least[c], row[c]);
    for (std::int64_t c = 0; c < dim; ++c) most[c] = max_of(most[c], row[c]);
  }
  steps.offset_sum = 0;
  for (std::int64_t c = 0; c < dim; ++c) {
    const std::int32_t range = most[c] - least[c];
    const std::int32_t step = min_of((range + kMost - 1) / kMost, kMaxKeyStep<kBits>);
    // What the steps have more than the range lies on both sides of it, as far as there are codes.
    const std::int32_t first = max_of(least[c] + 128 - ((kMost * step - range) >> 1), 1);
    steps.step[c] = static_cast<std::uint8_t>(step);
    steps.offset[c] = static_cast<std::uint8_t>(min_of(first, 255 - kMost * step));
    steps.offset_sum += key_code(0, step, steps.offset[c]);
    steps.reciprocal[c] = static_cast<std::uint16_t>(step == 0 ? 0 : (32768 + step - 1) / step);
  }
}

// The nearest code for each channel, of two as near the larger one (a reciprocal is as good as a
// division for all that there are); returns the sum of what they stand for.
INTFLASH_NOINLINE inline std::int32_t find_codes(const std::int8_t* INTFLASH_RESTRICT codes,
                                                 std::int64_t dim, const KeySteps& steps,
                                                 std::uint8_t* INTFLASH_RESTRICT found) {
  std::uint32_t sum = 0;
  for (std::int64_t c = 0; c < dim; ++c) {
    const std::uint16_t step = steps.step[c];
    const auto twice = static_cast<std::uint16_t>(2 * (codes[c] + 128 - steps.offset[c]) + step);
    const auto code = static_cast<std::uint16_t>(std::uint32_t{twice} * steps.reciprocal[c] >> 16);
    found[c] = static_cast<std::uint8_t>(code);
    sum += static_cast<std::uint16_t>(code * step);
  }
  return steps.offset_sum + static_cast<std::int32_t>(sum);
}

// 64 rows of keys in INT8 codes to codes of fewer bits; key_sum: of what these stand for.
template <std::int32_t kBits>
void code_keys(const std::int8_t* codes, std::int64_t stride, std::int32_t head_dim,
               std::uint8_t* packed, std::int32_t* key_sum) {
  KeySteps steps;
  find_steps<kBits>(codes, stride, head_dim, steps);
  std::uint8_t* const step = packed + key_code_bytes<kBits>(head_dim);
  std::uint8_t* const end = packed + packed_key_bytes<kBits>(head_dim);
  __builtin_memcpy(step, steps.step, static_cast<std::size_t>(head_dim));
  __builtin_memcpy(step + head_dim, steps.offset, static_cast<std::size_t>(head_dim));
  __builtin_memset(step + 2 * head_dim, 0, static_cast<std::size_t>(end - step - 2 * head_dim));
  for (std::int64_t token = 0; token < kPartTokens<kBits>; ++token) {
    std::uint8_t bytes[kMaxHeadDim];
    key_sum[token] = find_codes(codes + token * stride, head_dim, steps, bytes);
    for (std::int32_t part = 1; part < 8 / kBits; ++part) {
      std::uint8_t higher[kMaxHeadDim];
      const std::int64_t at = token + part * kPartTokens<kBits>;
      key_sum[at] = find_codes(codes + at * stride, head_dim, steps, higher);
      for (std::int64_t c = 0; c < head_dim; ++c)
        bytes[c] = static_cast<std::uint8_t>(bytes[c] | higher[c] << part * kBits);
    }
    std::uint8_t* const first = packed + token / 16 * 16 * head_dim + token % 16 * 4;
    for (std::int64_t quad = 0; quad < head_dim / 4; ++quad)
      store_as(first + quad * 64, load_as<std::uint32_t>(bytes + quad * 4));
  }
}

// A block of keys from four bits to page layout version 1.
template <class Ops>
void expand_keys(const std::uint8_t* INTFLASH_RESTRICT packed, std::int64_t head_dim,
                 std::int8_t* INTFLASH_RESTRICT codes) {
  const std::int64_t half = key_code_bytes(head_dim);
  const std::uint8_t* const step = packed + half;
  for (std::int64_t quad = 0; quad < head_dim / 4; ++quad) {
    const auto steps = load_as<std::uint32_t>(step + quad * 4);
    const auto offsets = load_as<std::uint32_t>(step + head_dim + quad * 4);
    for (std::int64_t row = quad * 64; row < half; row += half / 2)
      Ops::expand_key_quads(packed + row, steps, offsets, codes + row, codes + half + row);
  }
}

}  // namespace
}  // namespace intflash::internal
