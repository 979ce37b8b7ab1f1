// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Products of few rows and of many with codes widened to 16 bits. vpmaddubsw saturates (two
// products of 255 * 127 exceed int16), so codes are widened to int16 and multiplied by vpmaddwd:
// two multiplies and two adds for 32 products, 4/3 cycles on three ports, where the inexact mix of
// vpmaddubsw, vpmaddwd and vpaddd takes 1. Widening costs three more for 32 codes, once per tile
// for all of its rows; where rows are few, the codes are widened beside the products, by the loads.
#pragma once

#include <cstdint>

#include "avx2/simd.h"
#include "tile/fetch.h"
#include "tile/panels.h"
#include "tile/types.h"
#include "tile/value_levels.h"

namespace intflash::internal {
namespace {

struct WideProducts : Avx2 {
  static constexpr std::int32_t kTileRows = 24;  // as many as share a widened tile
  static constexpr std::int32_t kMaxQuads = kMaxHeadDim / 4;

  // Elements 0 and 2 of each group of four bytes, and elements 1 and 3, as int16.
  static INTFLASH_INLINE I16 even_signed(I16 a) {
    return _mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8);
  }
  static INTFLASH_INLINE I16 odd_signed(I16 a) { return _mm256_srai_epi16(a, 8); }

  struct Scratch {
    // A widened tile: per quad the even elements of 16 outputs, then the odd ones.
    alignas(64) std::int16_t tile[kMaxQuads][64];
    // P of a strip, per row and quad: the even pair, then the odd pair; of few rows as they come.
    alignas(64) std::int16_t weights[kTileRows][kScoreBlock];
  };
  // Queries follow the scratch, [row][quad] in the same order.
  static std::size_t query_bytes(std::int32_t head_dim) {
    return sizeof(Scratch) + static_cast<std::size_t>(kMaxTileRows * head_dim) * 2;
  }
  static std::int16_t* quads_of(void* packed) {
    return reinterpret_cast<std::int16_t*>(static_cast<char*>(packed) + sizeof(Scratch));
  }
  // Whether there are registers for the sums of all rows with 16 keys or channels.
  static INTFLASH_INLINE bool are_few(std::int32_t rows) { return rows <= 3; }
  // Of each quad the even pair, then the odd pair.
  static INTFLASH_INLINE __m128i in_pairs(__m128i a) {
    return _mm_shufflehi_epi16(_mm_shufflelo_epi16(a, 0xd8), 0xd8);
  }
  static INTFLASH_INLINE I16 in_pairs(I16 a) {
    return _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(a, 0xd8), 0xd8);
  }

  static INTFLASH_INLINE void prepare_query(const QueryTile& query, void* packed) {
    std::int16_t* quads = quads_of(packed);
    for (std::int32_t r = 0; r < query.rows; ++r) {
      const std::int8_t* row = query.codes + r * query.code_stride;
      for (std::int32_t c = 0; c < query.head_dim; c += 8, quads += 8) {
        const __m128i wide = _mm_cvtepi8_epi16(_mm_loadu_si64(row + c));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(quads),
                         are_few(query.rows) ? wide : in_pairs(wide));
      }
    }
  }

  // Meanwhile asks for lines that will be read next.
  static INTFLASH_INLINE void widen_tile(const std::int8_t* codes, Fetch& fetch, std::int32_t quads,
                                         std::int16_t (*tile)[64]) {
    Fetch next = fetch;  // which stays in registers
    for (std::int32_t quad = 0; quad < quads; ++quad) {
      next.beside<1>(quad);
      const I16 low = load(codes + quad * 64);
      const I16 high = load(codes + quad * 64 + 32);
      store(tile[quad], even_signed(low));
      store(tile[quad] + 16, even_signed(high));
      store(tile[quad] + 32, odd_signed(low));
      store(tile[quad] + 48, odd_signed(high));
    }
    fetch = next;
  }

  template <std::int32_t kRows>
  struct Sums {
    I32 at[kRows][2];
  };
  // Compilers would add up products of two quads first, for which they have no registers.
  static INTFLASH_INLINE void stay_in_registers(I32& low, I32& high) {
    __asm__("" : "+x"(low), "+x"(high));
  }

  // sums += pairs of kRows rows, each pair_stride apart, times the widened quads of a tile.
  template <std::int32_t kRows>
  static INTFLASH_INLINE void add_products(Sums<kRows>& sums, const std::int16_t (*tile)[64],
                                           std::int32_t quads, const std::int16_t* pairs,
                                           std::int64_t pair_stride) {
    for (std::int32_t quad = 0; quad < quads; ++quad) {
      INTFLASH_UNROLL
      for (std::int32_t parity = 0; parity < 2; ++parity) {
        const I16 low = load(tile[quad] + parity * 32);
        const I16 high = load(tile[quad] + parity * 32 + 16);
        INTFLASH_UNROLL
        for (std::int32_t r = 0; r < kRows; ++r) {
          const I16 pair = broadcast_load32(pairs + r * pair_stride + parity * 2);
          sums.at[r][0] = add32(sums.at[r][0], _mm256_madd_epi16(pair, low));
          sums.at[r][1] = add32(sums.at[r][1], _mm256_madd_epi16(pair, high));
          stay_in_registers(sums.at[r][0], sums.at[r][1]);
        }
      }
      pairs += 4;
    }
  }

  static INTFLASH_INLINE void add_scaled(I32 sums, float gain, float* out) {
    store_f32(out, fma(to_f32(sums), broadcast_f32(gain), load_f32(out)));
  }

  template <std::int32_t kRows>
  static INTFLASH_INLINE Sums<kRows> no_sums() {
    Sums<kRows> sums;
    INTFLASH_UNROLL
    for (std::int32_t r = 0; r < kRows; ++r) sums.at[r][0] = sums.at[r][1] = zero();
    return sums;
  }

  template <std::int32_t kRows>
  static INTFLASH_NOINLINE void qk_panel(const std::int16_t* pairs, std::int32_t head_dim,
                                         const std::int16_t (*tile)[64], std::int32_t* dots) {
    Sums<kRows> sums = no_sums<kRows>();
    add_products<kRows>(sums, tile, head_dim / 4, pairs, head_dim);
    INTFLASH_UNROLL
    for (std::int32_t r = 0; r < kRows; ++r) {
      store(dots + r * kScoreBlock, sums.at[r][0]);
      store(dots + r * kScoreBlock + kLanes, sums.at[r][1]);
    }
  }

  template <std::int32_t kRows>
  static INTFLASH_NOINLINE void pv_panel(const std::int16_t* weights,
                                         const std::int16_t (*tile)[64], std::int32_t num_keys,
                                         const float* gain, float* const* accumulators,
                                         std::int32_t channel) {
    Sums<kRows> sums = no_sums<kRows>();
    add_products<kRows>(sums, tile, num_keys / 4, weights, kScoreBlock);
    INTFLASH_UNROLL
    for (std::int32_t r = 0; r < kRows; ++r) {
      INTFLASH_UNROLL
      for (std::int32_t v = 0; v < 2; ++v)
        add_scaled(sums.at[r][v], gain[r], accumulators[r] + channel + v * kLanes);
    }
  }

  // 16 sums of each of few rows: a vector holds two for each of four, side by side.
  template <std::int32_t kRows>
  struct FewSums {
    I32 at[kRows][4];

    INTFLASH_INLINE FewSums() {
      INTFLASH_UNROLL
      for (std::int32_t r = 0; r < kRows; ++r) {
        INTFLASH_UNROLL
        for (std::int32_t v = 0; v < 4; ++v) at[r][v] = zero();
      }
    }
    // The first eight, or the others.
    INTFLASH_INLINE I32 eight(std::int32_t r, std::int32_t half) const {
      const I32 sums = _mm256_hadd_epi32(at[r][2 * half], at[r][2 * half + 1]);
      return _mm256_permute4x64_epi64(sums, 0xd8);
    }
  };

  // sums += quads of kRows rows, each quad_stride apart, times codes, 64 for each quad.
  template <std::int32_t kRows>
  static INTFLASH_INLINE void add_few(FewSums<kRows>& sums, const std::int8_t* codes, Fetch& fetch,
                                      std::int32_t num_quads, const std::int16_t* quads,
                                      std::int64_t quad_stride) {
    Fetch next = fetch;
    for (std::int32_t quad = 0; quad < num_quads; ++quad) {
      next.beside<1>(quad);
      I16 wide[4];
      INTFLASH_UNROLL
      for (std::int32_t v = 0; v < 4; ++v) {
        const std::int8_t* from = codes + quad * 64 + v * 16;
        wide[v] = _mm256_cvtepi8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(from)));
      }
      INTFLASH_UNROLL
      for (std::int32_t r = 0; r < kRows; ++r) {
        const I16 row = _mm256_set1_epi64x(load_as<std::int64_t>(quads + r * quad_stride));
        INTFLASH_UNROLL
        for (std::int32_t v = 0; v < 4; ++v)
          sums.at[r][v] = multiply_add_pairs(sums.at[r][v], row, wide[v]);
      }
      quads += 4;
    }
    fetch = next;
  }

  // Products of 16 keys.
  template <std::int32_t kRows>
  static INTFLASH_NOINLINE void qk_few(const std::int16_t* quads, std::int32_t head_dim,
                                       const std::int8_t* codes, Fetch& fetch, std::int32_t* dots) {
    FewSums<kRows> sums;
    add_few(sums, codes, fetch, head_dim / 4, quads, head_dim);
    INTFLASH_UNROLL
    for (std::int32_t r = 0; r < kRows; ++r) {
      store(dots + r * kScoreBlock, sums.eight(r, 0));
      store(dots + r * kScoreBlock + kLanes, sums.eight(r, 1));
    }
  }

  // Sums of 16 channels.
  template <std::int32_t kRows>
  static INTFLASH_NOINLINE void pv_few(const Scratch& scratch, const ScoreBlock& block,
                                       std::int32_t num_keys, std::int32_t channel, Fetch& fetch,
                                       const float* gain, float* const* accumulators) {
    FewSums<kRows> sums;
    for (std::int32_t half = 0; half < num_keys / kBlockTokens; ++half) {
      add_few(sums, block.half[half].value_codes + channel * kBlockTokens, fetch, kBlockTokens / 4,
              scratch.weights[0] + half * kBlockTokens, kScoreBlock);
    }
    INTFLASH_UNROLL
    for (std::int32_t r = 0; r < kRows; ++r) {
      add_scaled(sums.eight(r, 0), gain[r], accumulators[r] + channel);
      add_scaled(sums.eight(r, 1), gain[r], accumulators[r] + channel + kLanes);
    }
  }
};

}  // namespace
}  // namespace intflash::internal
