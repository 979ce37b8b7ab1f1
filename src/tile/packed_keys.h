// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Products of queries with keys that lie in four bits (key_codes.h), by a dot product of unsigned
// by signed bytes:
//   sum over channels of q * (offset + nibble * step - 128)
//     = sum of q * (offset - 128) + sum of q * (nibble * step).
// nibble * step is a byte, made in the registers that multiply it; the first sum, a number for each
// row and 64 keys, is where the sums begin.
#pragma once

#include <cstdint>

#include "tile/fetch.h"
#include "tile/key_codes.h"
#include "tile/portability.h"
#include "tile/types.h"

namespace intflash::internal {
namespace {

// A half's steps by quads of channels, in 16 bits: of channels 0 and 2, and of 1 and 3.
struct StepQuads {
  alignas(64) std::uint32_t even[kMaxHeadDim / 4];
  alignas(64) std::uint32_t odd[kMaxHeadDim / 4];
};
INTFLASH_INLINE const std::int8_t* steps_of(const std::int8_t* keys, std::int32_t head_dim) {
  return keys + key_code_bytes(head_dim);
}
INTFLASH_INLINE void widen_steps(const std::int8_t* keys, std::int32_t head_dim, StepQuads& quads) {
  for (std::int32_t quad = 0; quad < head_dim / 4; ++quad) {
    const auto four = load_as<std::uint32_t>(steps_of(keys, head_dim) + quad * 4);
    quads.even[quad] = four & 0x00ff00ff;
    quads.odd[quad] = four >> 8 & 0x00ff00ff;
  }
}

// sum of q * (offset - 128). The query is padded with zeros to 64 bytes, and a page goes on behind
// its keys.
template <class Isa>
INTFLASH_INLINE std::int32_t offset_product(const std::int8_t* query, const std::int8_t* keys,
                                            std::int32_t head_dim) {
  const std::int8_t* const offsets = steps_of(keys, head_dim) + head_dim;
  typename Isa::I32 product = Isa::zero();
  typename Isa::I32 sum = Isa::zero();
  for (std::int32_t c = 0; c < head_dim; c += 4 * Isa::kLanes) {
    const typename Isa::I32 codes = Isa::load(query + c);
    product = Isa::dot_u8_s8(product, Isa::load_any(offsets + c), codes);
    sum = Isa::dot_u8_s8(sum, Isa::broadcast32(0x01010101), codes);
  }
  return Isa::sum_lanes(Isa::add32(product, Isa::minus_128_times(sum)));
}

// Products of kRows rows with the keys of kLanes lanes of each line, by its low bits, and with
// those 32 behind them. kFetches: asks for lines that are read next.
template <class Isa, std::int32_t kRows, bool kFetches>
INTFLASH_INLINE void qk_packed_panel(const std::int8_t* query, std::int64_t query_stride,
                                     const std::int8_t* lines, const StepQuads& steps,
                                     const std::int32_t* start, std::int32_t head_dim, Fetch& fetch,
                                     std::int32_t* dots) {
  using I32 = typename Isa::I32;
  I32 sum[kRows][2];
  INTFLASH_UNROLL
  for (std::int32_t r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = Isa::broadcast32(start[r]);
  Fetch ahead = fetch;  // which stays in registers
  for (std::int32_t quad = 0; quad < head_dim / 4; ++quad) {
    if (kFetches) ahead.beside<1>(quad);
    const I32 both = Isa::load(lines + quad * 64);
    const I32 even = Isa::broadcast_load32(steps.even + quad);
    const I32 odd = Isa::broadcast_load32(steps.odd + quad);
    const I32 key[2] = {Isa::scaled_nibbles(both, even, odd),
                        Isa::scaled_nibbles(Isa::high_nibbles(both), even, odd)};
    INTFLASH_UNROLL
    for (std::int32_t r = 0; r < kRows; ++r) {
      const I32 four = Isa::broadcast_load32(query + r * query_stride + quad * 4);
      sum[r][0] = Isa::dot_u8_s8(sum[r][0], key[0], four);
      sum[r][1] = Isa::dot_u8_s8(sum[r][1], key[1], four);
    }
  }
  fetch = ahead;
  INTFLASH_UNROLL
  for (std::int32_t r = 0; r < kRows; ++r) {
    Isa::store(dots + r * kScoreBlock, sum[r][0]);
    Isa::store(dots + r * kScoreBlock + kHalfBlock, sum[r][1]);
  }
}

// dots [kRows][kScoreBlock] with num_keys keys: 64 or 128.
template <class Isa, std::int32_t kRows>
INTFLASH_NOINLINE void qk_packed_rows(const std::int8_t* query, std::int64_t query_stride,
                                      const ScoreBlock& block, const KvBlock* next,
                                      std::int32_t num_keys, std::int32_t head_dim,
                                      std::int32_t* dots) {
  Fetch fetch = Fetch::keys(next);
  for (std::int32_t half = 0; half < num_keys / kBlockTokens; ++half) {
    const std::int8_t* const keys = block.half[half].key_codes;
    StepQuads steps;
    widen_steps(keys, head_dim, steps);
    std::int32_t start[kRows];
    for (std::int32_t r = 0; r < kRows; ++r)
      start[r] = offset_product<Isa>(query + r * query_stride, keys, head_dim);
    std::int32_t* to = dots + half * kBlockTokens;
    for (std::int32_t tile = 0; tile < 2; ++tile, to += 16) {
      const std::int8_t* const lines = keys + tile * std::int64_t{16} * head_dim;
      qk_packed_panel<Isa, kRows, true>(query, query_stride, lines, steps, start, head_dim, fetch,
                                        to);
      if constexpr (Isa::kLanes == 8)
        qk_packed_panel<Isa, kRows, false>(query, query_stride, lines + 32, steps, start, head_dim,
                                           fetch, to + 8);
    }
  }
}

}  // namespace
}  // namespace intflash::internal
