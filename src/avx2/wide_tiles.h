// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Q K^T and P V for AVX2 without VNNI.
#pragma once

#include <cstdint>

#include "avx2/packed_keys.h"
#include "tile/fetch.h"
#include "tile/panels.h"
#include "tile/types.h"

namespace intflash::internal {
namespace {

struct WideTiles : PackedKeysByAvx2 {
  static constexpr bool kFetches = true;
  static constexpr std::int32_t kPackedRows = kFewRows;
  // Looking codes of values up is of the port that widens them: no gain over expanded blocks.
  static constexpr std::int32_t kPacked = kPackedKeys;

  // dots [rows][kScoreBlock] with the first num_keys keys: 64 or 128.
  static INTFLASH_INLINE void qk_tile(const QueryTile& query, void* packed, const ScoreBlock& block,
                                      const KvBlock* next, std::int32_t num_keys,
                                      std::int32_t* dots) {
    Scratch& scratch = *static_cast<Scratch*>(packed);
    const std::int32_t head_dim = query.head_dim;
    const std::int16_t* quads = quads_of(packed);
    Fetch fetch = Fetch::keys(next);
    for (std::int32_t key = 0; key < num_keys; key += 16) {
      const std::int8_t* codes =
          block.half[key / kBlockTokens].key_codes + key % kBlockTokens * head_dim;
      if (are_few(query.rows)) {
        for_each_panel<3, 2, 1>(query.rows, [&](auto panel, std::int32_t) {
          qk_few<decltype(panel)::kRows>(quads, head_dim, codes, fetch, dots + key);
        });
        continue;
      }
      widen_tile(codes, fetch, head_dim / 4, scratch.tile);
      for_each_panel<6, 5, 4, 3, 2, 1>(query.rows, [&](auto panel, std::int32_t r) {
        qk_panel<decltype(panel)::kRows>(quads + r * head_dim, head_dim, scratch.tile,
                                         dots + r * kScoreBlock + key);
      });
    }
  }

  // P lies in NarrowedOrder<8>: of 32 keys the even quads, then the odd ones. Quads go to natural
  // order.
  static INTFLASH_INLINE void widen_weights(const std::uint8_t* weights, bool as_pairs,
                                            std::int16_t* quads) {
    for (std::int32_t key = 0; key < kScoreBlock; key += 32) {
      const auto* from = reinterpret_cast<const __m128i*>(weights + key);
      const __m128i even = _mm_load_si128(from);
      const __m128i odd = _mm_load_si128(from + 1);
      const I16 low = _mm256_cvtepu8_epi16(_mm_unpacklo_epi32(even, odd));
      const I16 high = _mm256_cvtepu8_epi16(_mm_unpackhi_epi32(even, odd));
      store(quads + key, as_pairs ? in_pairs(low) : low);
      store(quads + key + 16, as_pairs ? in_pairs(high) : high);
    }
  }

  static INTFLASH_INLINE void pv_tile(void* packed, const std::uint8_t* weights, std::int32_t rows,
                                      const ScoreBlock& block, const KvBlock* next,
                                      std::int32_t num_keys, std::int32_t head_dim_v,
                                      const float* gain, float* const* accumulators) {
    Scratch& scratch = *static_cast<Scratch*>(packed);
    for (std::int32_t r = 0; r < rows; ++r)
      widen_weights(weights + r * kScoreBlock, !are_few(rows), scratch.weights[r]);
    Fetch fetch = Fetch::values(next, (head_dim_v + 15) / 16 * kValueLines);
    for (std::int32_t channel = 0; channel < head_dim_v; channel += 16) {
      if (are_few(rows)) {
        for_each_panel<3, 2, 1>(rows, [&](auto panel, std::int32_t) {
          pv_few<decltype(panel)::kRows>(scratch, block, num_keys, channel, fetch, gain,
                                         accumulators);
        });
        continue;
      }
      for (std::int32_t half = 0; half < num_keys / kBlockTokens; ++half) {
        const std::int32_t offset = channel * kBlockTokens;
        widen_tile(block.half[half].value_codes + offset, fetch, kBlockTokens / 4,
                   scratch.tile + half * 16);
      }
      for_each_panel<6, 5, 4, 3, 2, 1>(rows, [&](auto panel, std::int32_t r) {
        pv_panel<decltype(panel)::kRows>(scratch.weights[r], scratch.tile, num_keys, gain + r,
                                         accumulators + r, channel);
      });
    }
  }

  static double integer_peak(std::int64_t repeats) {
    // The mix of the usual INT8 product on AVX2, twelve independent sums.
    std::int64_t left = repeats;
    __asm__ volatile(
        "1:\n"
        ".irp sum, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11\n"
        "vpmaddubsw %%ymm15, %%ymm15, %%ymm14\n"
        "vpmaddwd %%ymm15, %%ymm14, %%ymm13\n"
        "vpaddd %%ymm13, %%ymm\\sum, %%ymm\\sum\n"
        ".endr\n"
        "dec %0\n"
        "jnz 1b\n"
        : "+r"(left)
        :
        : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
          "xmm10", "xmm11", "xmm13", "xmm14", "xmm15");
    return 2.0 * 32 * 12 * static_cast<double>(repeats);
  }
};

}  // namespace
}  // namespace intflash::internal
