// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Values in four bits: each is one of 16 levels times its token's scale. The levels are those of
// Lloyd and Max for normal numbers (S. P. Lloyd, "Least squares quantization in PCM", IEEE Trans.
// Inf. Theory 28, 1982), with one at 0, and the largest at 127: they are INT8 codes. A code of 0 is
// level 0. docs/numerics.md, section "Codecs".
#pragma once

#include <cstdint>

#include "tile/portability.h"
#include "tile/types.h"

namespace intflash::internal {
namespace {

constexpr std::int32_t kNumLevels = 16;
constexpr std::int32_t kZeroLevel = 7;
constexpr std::int8_t kSortedLevels[kNumLevels] = {-123, -91, -71, -54, -39, -25, -13, 0,
                                                   11,   23,  34,  47,  61,  77,  97,  127};

// By the codes of four bits.
struct LevelTable {
  std::int8_t level[kNumLevels];
};
constexpr LevelTable level_table() {
  LevelTable table{};
  for (std::int32_t code = 0; code < kNumLevels; ++code)
    table.level[code] = kSortedLevels[code ^ kZeroLevel];
  return table;
}
alignas(16) constexpr LevelTable kLevels = level_table();

// By the high four bits of an INT8 code + 128, how many bounds between levels lie below all such
// codes, and above which low four bits a code is above the next one, and above the one after that.
struct LevelBounds {
  alignas(16) std::uint8_t below[16];
  alignas(16) std::uint8_t first[16];
  alignas(16) std::uint8_t second[16];
};
// codes . levels and levels . levels of a row.
struct LevelFit {
  std::int32_t product;
  std::int32_t square;
};

// Of 16 channels eight rows of 64 bytes, each of two rows of 16 channels and four tokens, eight
// rows apart: low bits are of the first 32 tokens, high ones of the others.
constexpr std::int64_t kNibbleRows = 8;
constexpr std::int64_t kNibbleBytes = kNibbleRows * 64;
// Lines that 16 channels of a block of values have, in INT8 and in four bits.
constexpr std::int32_t kValueLines = 16;
constexpr std::int32_t kPackedValueLines = 8;

// A block of values from four bits to page layout version 1.
template <class Ops>
void expand_values(const std::uint8_t* INTFLASH_RESTRICT packed, std::int64_t padded_dim_v,
                   std::int8_t* INTFLASH_RESTRICT codes) {
  for (std::int64_t channel = 0; channel < padded_dim_v; channel += 16) {
    for (std::int64_t row = 0; row < kNibbleBytes; row += 64)
      Ops::look_up_nibbles(packed + row, kLevels.level, codes + row, codes + kNibbleBytes + row);
    packed += kNibbleBytes;
    codes += 2 * kNibbleBytes;
  }
}

}  // namespace
}  // namespace intflash::internal
