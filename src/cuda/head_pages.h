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

  // Of an entry that is not -1.
  INTFLASH_DEVICE const char* head_of(std::int32_t entry) const {
    return first + static_cast<std::uint32_t>(entry) / kCudaPlaces * pages.page_bytes;
  }
  INTFLASH_DEVICE std::int32_t place_of(std::int32_t entry) const {
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(entry) % kCudaPlaces);
  }

  // nullptr: no token of it is seen.
  INTFLASH_DEVICE const std::int8_t* keys(std::int32_t block) const {
    const std::int32_t entry = blocks[block];
    return entry < 0 ? nullptr
                     : reinterpret_cast<const std::int8_t*>(
                           head_of(entry) + place_of(entry) * pages.key_block_bytes);
  }
  INTFLASH_DEVICE const std::int8_t* values(std::int32_t block) const {
    const std::int32_t entry = blocks[block];
    return entry < 0
               ? nullptr
               : reinterpret_cast<const std::int8_t*>(head_of(entry) + pages.values +
                                                      place_of(entry) * pages.value_block_bytes);
  }
  INTFLASH_DEVICE PageTiles digits(std::int32_t block) const {
    const std::int8_t* const codes = keys(block);
    return {codes == nullptr ? nullptr
                             : reinterpret_cast<const TwoWords*>(codes + kBlockTokens * head_dim()),
            head_dim() / 4};
  }
  // Of a lane's four keys of a score block.
  INTFLASH_DEVICE LaneScales scales(std::int32_t score_block, std::int32_t lane) const {
    return scales_and_own(score_block, lane, 0).first;
  }
  struct ScalesAndOwn {
    LaneScales first;
    OneScale own;
  };
  // And of the one of them that has such a number.
  INTFLASH_DEVICE ScalesAndOwn scales_and_own(std::int32_t score_block, std::int32_t lane,
                                              std::int32_t number) const {
    const std::int32_t entry = blocks[2 * score_block + lane / (kWarpThreads / 2)];
    if (entry < 0) return {};
    const auto* const key =
        reinterpret_cast<const std::int32_t*>(head_of(entry) + pages.scales) +
        (place_of(entry) * kBlockTokens + lane % (kWarpThreads / 2) * kLaneKeys);
    const std::int32_t* const value = key + pages.page_size;
    ScalesAndOwn scales{};
    const Bytes16 keys = load_words(key), values = load_words(value);
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < kLaneKeys; ++i) {
      scales.first.key[i] = static_cast<std::int32_t>(keys.word[i]);
      scales.first.value[i] = static_cast<std::int32_t>(values.word[i]);
    }
    scales.own = {key[number], value[number]};
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
  // 16 bytes that are aligned as such.
  static INTFLASH_DEVICE Bytes16 load_words(const std::int32_t* from) {
    return *reinterpret_cast<const Bytes16*>(from);
  }
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
        BlockCopy<kDim>::template begin<kThreads<kDim>>(Shared<Bytes16>(to), half, from, thread);
      }
    }
    end_copies();
  }
};

}  // namespace
}  // namespace intflash::internal
