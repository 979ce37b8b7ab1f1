// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Keys of a score block by their places.
#pragma once

#include <cstdint>

#include "tile/portability.h"
#include "tile/types.h"

namespace intflash::internal {
namespace {

constexpr KeyList all_keys() {
  KeyList list{{kBlockTokens, kBlockTokens}, {}};
  for (std::int32_t i = 0; i < kBlockTokens; ++i)
    list.keys[0][i] = list.keys[1][i] = static_cast<std::uint8_t>(i);
  return list;
}
constexpr KeyList kAllKeys = all_keys();

// Those that two keep words name.
INTFLASH_INLINE void list_keys(const std::uint64_t* keep, KeyList& list) {
  for (std::int32_t half = 0; half < 2; ++half) {
    list.count[half] = 0;
    for (std::uint64_t left = keep[half]; left != 0; left &= left - 1)
      list.keys[half][list.count[half]++] = static_cast<std::uint8_t>(__builtin_ctzll(left));
  }
}

}  // namespace
}  // namespace intflash::internal
