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

// Of a kv head and a request: blocks of 64 tokens by their absolute position.
// kPads: heads may have fewer channels than kDim.
template <int kDim, bool kPads>
struct HeadPages {
  const CudaCall& call;
  const CudaPages& pages;      // of the call
  const char* first;           // the head's part of page 0
  const std::int32_t* blocks;  // as CudaCall has them, by position

  INTFLASH_DEVICE std::int32_t head_dim() const { return head_dim_of<kDim, kPads>(call); }
  INTFLASH_DEVICE std::int32_t head_dim_v() const { return head_dim_v_of<kDim, kPads>(call); }

  // nullptr: no token of it is seen.
  INTFLASH_DEVICE const char* head_of(std::int32_t entry) const {
    const std::int32_t per_page = pages.page_size / kBlockTokens;
    return entry < 0 ? nullptr : first + entry / per_page * pages.page_bytes;
  }
  INTFLASH_DEVICE std::int32_t place_of(std::int32_t entry) const {
    return entry % (pages.page_size / kBlockTokens);
  }

  INTFLASH_DEVICE const std::int8_t* keys(std::int32_t block) const {
    const std::int32_t entry = blocks[block];
    const char* const head = head_of(entry);
    return head == nullptr ? nullptr
                           : reinterpret_cast<const std::int8_t*>(head + place_of(entry) *
                                                                             pages.key_block_bytes);
  }
  INTFLASH_DEVICE const std::int8_t* values(std::int32_t block) const {
    const std::int32_t entry = blocks[block];
    const char* const head = head_of(entry);
    return head == nullptr ? nullptr
                           : reinterpret_cast<const std::int8_t*>(
                                 head + pages.values + place_of(entry) * pages.value_block_bytes);
  }
  INTFLASH_DEVICE PageTiles digits(std::int32_t block) const {
    const std::int8_t* const codes = keys(block);
    return {codes == nullptr ? nullptr
                             : reinterpret_cast<const TwoWords*>(codes + kBlockTokens * head_dim()),
            head_dim() / 4};
  }
  // Of a lane's four keys of a score block.
  INTFLASH_DEVICE LaneScales scales(std::int32_t score_block, std::int32_t lane) const {
    LaneScales scales{};
    const std::int32_t entry = blocks[2 * score_block + lane / (kWarpThreads / 2)];
    const char* const head = head_of(entry);
    if (head == nullptr) return scales;
    const auto* const scale = reinterpret_cast<const std::int32_t*>(head + pages.scales) +
                              place_of(entry) * kBlockTokens +
                              lane % (kWarpThreads / 2) * kLaneKeys;
    for (std::int32_t i = 0; i < kLaneKeys; ++i) {
      scales.key[i] = scale[i];
      scales.value[i] = scale[pages.page_size + i];
    }
    return scales;
  }
  INTFLASH_DEVICE void copy_keys(std::int32_t score_block, std::int32_t thread) const {
    // Four tiles of 64 bytes to four channels.
    copy<4>(Place<kDim>::kKeys, keys(2 * score_block), keys(2 * score_block + 1), head_dim(),
            thread);
  }
  INTFLASH_DEVICE void copy_values(std::int32_t score_block, std::int32_t thread) const {
    // 1024 bytes to 16 channels.
    copy<1>(Place<kDim>::kValues, values(2 * score_block), values(2 * score_block + 1),
            (head_dim_v() + 15) / 16 * 64, thread);
  }

 private:
  // Two halves of kRuns runs each, of `own` times 16 bytes in a page.
  template <std::int32_t kRuns>
  static INTFLASH_DEVICE void copy(std::size_t to, const std::int8_t* first,
                                   const std::int8_t* second, std::int32_t own,
                                   std::int32_t thread) {
    for (std::int32_t half = 0; half < 2; ++half) {
      const std::int8_t* const from = half == 0 ? first : second;
      if constexpr (kPads) {
        BlockCopy<kDim>::begin_padded(Shared<Bytes16>(to), half, from, kDim * 4 / kRuns, own,
                                      thread, kThreads<kDim>);
      } else {
        BlockCopy<kDim>::begin(Shared<Bytes16>(to), half, from, thread, kThreads<kDim>);
      }
    }
    end_copies();
  }
};

}  // namespace
}  // namespace intflash::internal
