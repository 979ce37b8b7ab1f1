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
KvBlock expand_k8v4(const KvBlock& packed, std::int32_t, std::int32_t head_dim_v, bool with_values,
                    const WritableBlock& room) {
  KvBlock block = packed;
  if (!with_values) return block;
  expand_values<Ops>(reinterpret_cast<const std::uint8_t*>(packed.value_codes),
                     round_up(head_dim_v, 16), room.value_codes);
  block.value_codes = room.value_codes;
  return block;
}

template <class Ops>
KvBlock expand_k4v4(const KvBlock& packed, std::int32_t head_dim, std::int32_t head_dim_v,
                    bool with_values, const WritableBlock& room) {
  KvBlock block = expand_k8v4<Ops>(packed, head_dim, head_dim_v, with_values, room);
  expand_keys<Ops>(reinterpret_cast<const std::uint8_t*>(packed.key_codes), head_dim,
                   room.key_codes);
  block.key_codes = room.key_codes;
  return block;
}

}  // namespace
}  // namespace intflash::internal
