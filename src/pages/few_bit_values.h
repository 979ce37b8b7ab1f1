// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Values of fewer bits than INT8 codes: parts of a Codec.
#pragma once

#include <cstdint>

#include "pages/codec.h"
#include "pages/page.h"

namespace intflash::internal {

// Four bits, one of 16 levels.
struct LevelValues {
  static std::int64_t block_bytes(std::int64_t head_dim_v);
  static void store(const KernelTable& kernels, const PageLayout& layout,
                    const WritableBlock& block, const TokenCodes& tokens);
  static void load(const PageLayout& layout, const KvBlock& block, std::int64_t at,
                   std::int8_t* codes);
  // Tokens that are absent have no values, and none have channels that there are not.
  static const void* find_damage(const PageLayout& layout, const KvBlock& block,
                                 std::int64_t tokens);
};

// Two bits by channel, of all 64 tokens at once.
struct QuarterValues {
  static std::int64_t block_bytes(std::int64_t head_dim_v);
  static void store(const KernelTable& kernels, const PageLayout& layout,
                    const WritableBlock& block, const TokenCodes& tokens);
  static void load(const PageLayout& layout, const KvBlock& block, std::int64_t at,
                   std::int8_t* codes);
  // Channels that there are not, and what is behind them.
  static const void* find_damage(const PageLayout& layout, const KvBlock& block,
                                 std::int64_t tokens);
};

}  // namespace intflash::internal
