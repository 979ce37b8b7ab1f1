// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Which keys a query sees in INT8 where a cache's codec has fewer bits: blocks of 64 positions that
// it stands near, and the first ones. By positions alone: how tokens came, and what came after
// them, is of no account. docs/numerics.md, section "Codecs".
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/mask.h"
#include "tile/types.h"

namespace intflash::internal {

struct Int8Window {
  std::int64_t num_blocks;  // up to the query's own; 0: all keys are seen as the codec has them
  std::int64_t sink_blocks;

  bool is_none() const { return num_blocks == 0; }
  std::int64_t sink_end() const { return sink_blocks * kBlockTokens; }
  // Keys that a query at a position sees as the codec has them; in INT8 those before and behind.
  KeyRange coded_keys(std::int64_t position) const {
    const std::int64_t block = position / kBlockTokens - num_blocks + 1;
    return {sink_end(), std::max(sink_end(), block * kBlockTokens)};
  }
  // The lowest position from which on queries see no key at [0, end) in INT8 but the first ones.
  std::int64_t first_without(std::int64_t end) const {
    return end <= sink_end() ? 0 : end + (num_blocks - 1) * kBlockTokens;
  }
  bool operator==(const Int8Window& other) const {
    return num_blocks == other.num_blocks && sink_blocks == other.sink_blocks;
  }
};

}  // namespace intflash::internal
