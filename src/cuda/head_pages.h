// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The pages of a kv head: where in them a block of threads finds a score block, and how it comes
// into shared memory.
#pragma once

#include <cstdint>

#include "cuda/products.h"
#include "cuda/simt.h"
#include "cuda/tile_rows.h"
#include "cuda/weights.h"

namespace intflash::internal {
namespace {

// Pages of a kv head.
template <int kDim>
struct HeadPages {
  const char* first;
  std::int64_t page_bytes, key_block_bytes;

  INTFLASH_DEVICE const std::int8_t* keys(std::int64_t page) const {
    return reinterpret_cast<const std::int8_t*>(first + page * page_bytes);
  }
  INTFLASH_DEVICE const std::int8_t* values(std::int64_t page) const {
    return keys(page) + key_block_bytes;
  }
  INTFLASH_DEVICE PageTiles digits(std::int64_t page) const {
    return {reinterpret_cast<const TwoWords*>(keys(page) + kBlockTokens * kDim)};
  }
  INTFLASH_DEVICE LaneScales scales(std::int64_t block, std::int32_t lane) const {
    const std::int64_t page = block * 2 + lane / (kWarpThreads / 2);
    const auto* scale = reinterpret_cast<const std::int32_t*>(values(page) + kBlockTokens * kDim) +
                        lane % (kWarpThreads / 2) * kLaneKeys;
    LaneScales scales;
    for (std::int32_t i = 0; i < kLaneKeys; ++i) {
      scales.key[i] = scale[i];
      scales.value[i] = scale[kBlockTokens + i];
    }
    return scales;
  }
  INTFLASH_DEVICE void copy_keys(std::int64_t block, std::int32_t thread) const {
    BlockCopy<kDim>::begin(Shared<Bytes16>(Place<kDim>::kKeys), keys(2 * block),
                           keys(2 * block + 1), thread, kThreads);
    end_copies();
  }
  INTFLASH_DEVICE void copy_values(std::int64_t block, std::int32_t thread) const {
    BlockCopy<kDim>::begin(Shared<Bytes16>(Place<kDim>::kValues), values(2 * block),
                           values(2 * block + 1), thread, kThreads);
    end_copies();
  }
};

}  // namespace
}  // namespace intflash::internal
