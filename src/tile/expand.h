// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Blocks of codecs of fewer bits as those of codec int8: RowKernels::expand.
#pragma once

#include <cstdint>

#include "tile/key_codes.h"
#include "tile/portability.h"
#include "tile/types.h"
#include "tile/value_levels.h"

namespace intflash::internal {
namespace {

// Codec k8v4: keys are as they lie.
template <class Ops>
KvBlock expand_k8v4(const KvBlock& block, std::int32_t, std::int32_t head_dim_v,
                    std::int32_t packed, const WritableBlock& room) {
  KvBlock expanded = block;
  if ((packed & kPackedValues) != 0) return expanded;
  expand_values<Ops>(reinterpret_cast<const std::uint8_t*>(block.value_codes),
                     round_up(head_dim_v, 16), room.value_codes);
  expanded.value_codes = room.value_codes;
  return expanded;
}

template <class Ops>
KvBlock expand_k4v4(const KvBlock& block, std::int32_t head_dim, std::int32_t head_dim_v,
                    std::int32_t packed, const WritableBlock& room) {
  KvBlock expanded = expand_k8v4<Ops>(block, head_dim, head_dim_v, packed, room);
  if ((packed & kPackedKeys) != 0) return expanded;
  expand_keys<Ops>(reinterpret_cast<const std::uint8_t*>(block.key_codes), head_dim,
                   room.key_codes);
  expanded.key_codes = room.key_codes;
  return expanded;
}

}  // namespace
}  // namespace intflash::internal
