// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Values in f16, beside a power of two for each token: a part of a Codec.
#pragma once

#include <cstdint>

#include "pages/codec.h"
#include "pages/page.h"

namespace intflash::internal {

struct F16Values {
  static std::int64_t block_bytes(std::int64_t head_dim_v);
  static void store(const KernelTable& kernels, const PageLayout& layout,
                    const WritableBlock& block, const TokenCodes& tokens);
  static void load(const PageLayout& layout, const KvBlock& block, std::int64_t at,
                   std::int8_t* codes);
  // Scales that are no powers of two, elements that are larger than a row's can be, and what stands
  // where no token or no channel is.
  static const void* find_damage(const PageLayout& layout, const KvBlock& block,
                                 std::int64_t tokens);
};

}  // namespace intflash::internal
