// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Blocks of codecs of fewer bits as those of codec int8: RowKernels::expand.
#pragma once

#include <cstdint>

#include "tile/key_codes.h"
#include "tile/portability.h"
#include "tile/quarters.h"
#include "tile/types.h"
#include "tile/value_levels.h"

namespace intflash::internal {
namespace {

// Of a codec whose keys and values have so many bits.
template <class Ops, std::int32_t kKeyBits, std::int32_t kValueBits>
KvBlock expand_block(const KvBlock& block, std::int32_t head_dim, std::int32_t head_dim_v,
                     std::int32_t packed, const WritableBlock& room) {
  KvBlock expanded = block;
  const auto* keys = reinterpret_cast<const std::uint8_t*>(block.key_codes);
  const auto* values = reinterpret_cast<const std::uint8_t*>(block.value_codes);
  if ((packed & kPackedValues) == 0) {
    const std::int64_t padded_dim_v = round_up(head_dim_v, 16);
    if constexpr (kValueBits == 4) expand_values<Ops>(values, padded_dim_v, room.value_codes);
    if constexpr (kValueBits == 2) expand_quarter_values(values, padded_dim_v, room.value_codes);
    expanded.value_codes = room.value_codes;
  }
  if (kKeyBits < 8 && (packed & kPackedKeys) == 0) {
    if constexpr (kKeyBits == 4) expand_keys<Ops>(keys, head_dim, room.key_codes);
    if constexpr (kKeyBits == 2) expand_quarter_keys(keys, head_dim, room.key_codes);
    expanded.key_codes = room.key_codes;
  }
  return expanded;
}

}  // namespace
}  // namespace intflash::internal
