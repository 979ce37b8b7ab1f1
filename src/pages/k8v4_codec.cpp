// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Codec k8v4: keys as codec int8 has them, values in four bits.
#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "pages/codec.h"
#include "pages/int8_blocks.h"
#include "tile/float_math.h"
#include "tile/scale_grid.h"
#include "tile/value_levels.h"

namespace intflash::internal {
namespace {

constexpr std::int64_t kGroupBytes = 16 * kBlockTokens / 2;  // of 16 channels

// ---- Keys ----

std::int64_t key_block_bytes(std::int64_t head_dim) { return kInt8Codec.key_block_bytes(head_dim); }
void store_keys(const KernelTable& kernels, const PageLayout& layout, const WritableBlock& block,
                const TokenCodes& tokens) {
  kInt8Codec.store_keys(kernels, layout, block, tokens);
}
void load_key(const PageLayout& layout, const KvBlock& block, std::int64_t at, std::int8_t* codes) {
  kInt8Codec.load_key(layout, block, at, codes);
}

// ---- Values ----

std::int64_t value_block_bytes(std::int64_t head_dim_v) {
  return round_up(head_dim_v, 16) / 16 * kGroupBytes;
}

// Where a token's first nibble lies: the low one of its byte, or the high one.
std::int64_t value_offset(std::int64_t at) { return at % 32 / 4 * 64 + at % 4; }
std::int64_t channel_offset(std::int64_t c) { return c / 16 * kGroupBytes + c % 16 * 4; }
int shift_of(std::int64_t at) { return at < 32 ? 0 : 4; }

// The power of 2^(1/64) that is nearest to a scale.
float nearest_on_grid(float scale) {
  const std::int32_t steps =
      round_to_int(log2_of_mantissa(mantissa_of(scale)) * static_cast<float>(kScaleSteps));
  return kScaleGrid.mantissa[kScaleSteps + steps] * power_of_two(exponent_of(scale));
}

// Levels stand for INT8 codes that are 1, 2^-0.15 or 2^-0.3 times as large, in 128ths: the best of
// three for a row is taken, whatever the scale that then fits it best.
constexpr std::int32_t kNumSteps = 3;
constexpr std::int32_t kSteps[kNumSteps] = {128, 115, 104};

// Codes above bound[s][i] are nearer to step s times level i + 1 than to that of level i.
struct LevelBounds {
  std::int8_t bound[kNumSteps][kNumLevels - 1];
};
constexpr LevelBounds level_bounds() {
  LevelBounds bounds{};
  for (std::int32_t s = 0; s < kNumSteps; ++s) {
    for (std::int32_t i = 0; i + 1 < kNumLevels; ++i) {
      const std::int32_t sum = kSortedLevels[i] + kSortedLevels[i + 1];
      bounds.bound[s][i] = static_cast<std::int8_t>(sum * kSteps[s] >> 8);
    }
  }
  return bounds;
}
constexpr LevelBounds kLevelBounds = level_bounds();

// Rows are padded with zeros to whole vectors of this many bytes: loops over one of them vectorize
// at -O2 as well, with nothing left over.
constexpr std::int64_t kVector = 16;

// Of 16 codes the levels that are nearest.
void levels_of_16(const std::int8_t* INTFLASH_RESTRICT codes, const std::int8_t* bound,
                  std::int8_t* INTFLASH_RESTRICT levels) {
  for (std::int64_t c = 0; c < kVector; ++c) {
    std::int8_t level = kSortedLevels[0];
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i + 1 < kNumLevels; ++i) {
      const std::int32_t height = kSortedLevels[i + 1] - kSortedLevels[i];
      level = static_cast<std::int8_t>(level + (-(codes[c] > bound[i]) & height));
    }
    levels[c] = level;
  }
}
// Their codes.
void codes_of_16(const std::int8_t* INTFLASH_RESTRICT levels,
                 std::uint8_t* INTFLASH_RESTRICT nibbles) {
  for (std::int64_t c = 0; c < kVector; ++c) {
    std::int8_t index = 0;
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i + 1 < kNumLevels; ++i)
      index = static_cast<std::int8_t>(index + (levels[c] > kSortedLevels[i]));
    nibbles[c] = static_cast<std::uint8_t>(index ^ kZeroLevel);
  }
}

// codes . levels and levels . levels.
struct LevelFit {
  std::int32_t product;
  std::int32_t square;
};
void add_16(const std::int8_t* codes, const std::int8_t* levels, LevelFit& fit) {
  for (std::int64_t c = 0; c < kVector; ++c) fit.product += codes[c] * levels[c];
  for (std::int64_t c = 0; c < kVector; ++c) fit.square += levels[c] * levels[c];
}

// Codes of four bits, in bytes of their own, for a padded row of INT8 codes whose largest magnitude
// is near 127; returns the factor of the row's scale. Of the three steps the one whose levels, with
// the scale that fits them best, are nearest to the codes: by the largest product^2 / square, the
// first of equals. 0: all codes are 0.
float code_values(const std::int8_t* codes, std::int64_t count, std::uint8_t* nibbles) {
  std::int8_t levels[2][kMaxHeadDim];
  std::int32_t chosen = 0;
  double most = 0;
  float factor = 0;
  for (std::int32_t s = 0; s < kNumSteps; ++s) {
    const std::int32_t other = s == 0 ? 0 : 1 - chosen;
    LevelFit fit = {0, 0};
    for (std::int64_t c = 0; c < count; c += kVector) {
      levels_of_16(codes + c, kLevelBounds.bound[s], levels[other] + c);
      add_16(codes + c, levels[other] + c, fit);
    }
    const double product = fit.product;
    const double merit = fit.square == 0 ? 0 : product * product / fit.square;
    if (merit <= most) continue;
    most = merit;
    factor = static_cast<float>(product / fit.square);
    chosen = other;
  }
  for (std::int64_t c = 0; c < count; c += kVector) codes_of_16(levels[chosen] + c, nibbles + c);
  return factor;
}

// Rows that came as INT8 may have small codes: these are stretched to 127, by the returned factor.
float stretch(const std::int8_t* codes, std::int64_t count, std::int8_t* stretched) {
  std::int32_t largest = 0;
  for (std::int64_t c = 0; c < count; ++c) largest = std::max(largest, std::abs(+codes[c]));
  if (largest == 0 || largest >= 120) {
    std::copy_n(codes, count, stretched);
    return 1;
  }
  const float factor = 127.0f / static_cast<float>(largest);
  for (std::int64_t c = 0; c < count; ++c)
    stretched[c] = static_cast<std::int8_t>(round_to_int(static_cast<float>(codes[c]) * factor));
  return factor;
}

// Of one token; its scale becomes that of its levels.
void code_token(const std::int8_t* codes, std::int64_t count, float& scale, std::uint8_t* nibbles) {
  std::int8_t stretched[kMaxHeadDim];
  const std::int64_t padded = round_up(count, kVector);
  std::fill_n(stretched, padded, std::int8_t{0});
  const float stretching = stretch(codes, count, stretched);
  const float factor = code_values(stretched, padded, nibbles);
  scale = factor == 0 || scale == 0 ? 0 : nearest_on_grid(scale / stretching * factor);
}

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

void store_values(const KernelTable& /*kernels*/, const PageLayout& layout,
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
      code_token(tokens.codes + (at - tokens.at) * tokens.stride, layout.head_dim_v,
                 block.value_scale[at], nibbles[t]);
    }
    auto* const row = reinterpret_cast<std::uint8_t*>(block.value_codes) + value_offset(first);
    for (std::int64_t c = 0; c < channels; c += 16)
      store_quads(nibbles, c, stored, shift_of(first), row + channel_offset(c));
  }
}

void load_value(const PageLayout& layout, const KvBlock& block, std::int64_t at,
                std::int8_t* codes) {
  const auto* first = reinterpret_cast<const std::uint8_t*>(block.value_codes) + value_offset(at);
  for (std::int64_t c = 0; c < layout.head_dim_v; ++c)
    codes[c] = kLevels.level[first[channel_offset(c)] >> shift_of(at) & 15];
}

// Tokens that are absent have no values, and none have channels that there are not.
const void* find_damaged_values(const PageLayout& layout, const KvBlock& block,
                                std::int64_t tokens) {
  std::int8_t codes[kMaxHeadDim];
  PageLayout padded = layout;
  padded.head_dim_v = round_up(layout.head_dim_v, 16);
  for (std::int64_t at = 0; at < kBlockTokens; ++at) {
    load_value(padded, block, at, codes);
    const std::int64_t channels = at < tokens ? layout.head_dim_v : 0;
    if (std::any_of(codes + channels, codes + padded.head_dim_v,
                    [](int code) { return code != 0; }))
      return block.value_codes;
  }
  return nullptr;
}

const void* find_damage(const PageLayout& layout, const KvBlock& block, std::int64_t tokens) {
  const void* damaged = find_damaged_keys(layout, block, tokens);
  if (damaged == nullptr) damaged = find_damaged_scale(block, tokens);
  return damaged != nullptr ? damaged : find_damaged_values(layout, block, tokens);
}

}  // namespace

const Codec kK8v4Codec = {
    .id = INTFLASH_CODEC_K8V4,
    .name = "k8v4",
    .layout_version = 1,
    .is_expanded = true,
    .has_digits = false,
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
