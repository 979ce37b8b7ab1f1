// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Products with keys that lie in four bits (tile/key_codes.h), for AVX2 without VNNI: nibbles times
// steps take the place of the widened codes.
#pragma once

#include <cstdint>

#include "avx2/wide_products.h"
#include "tile/packed_keys.h"

namespace intflash::internal {
namespace {

struct PackedKeysByAvx2 : WideProducts {
  // A half's steps as few rows want them, and as many do.
  struct Steps {
    alignas(64) std::uint16_t words[kMaxHeadDim];
    StepQuads quads;
  };

  template <bool kHigh>
  static INTFLASH_INLINE I16 nibbles(I16 bytes) {
    return kHigh ? _mm256_srli_epi16(bytes, 4) : _mm256_and_si256(bytes, broadcast16(15));
  }

  // The products of few rows with 16 keys, by the low bits of their bytes or by the high ones.
  template <std::int32_t kRows, bool kHigh>
  static INTFLASH_NOINLINE void qk_packed_few(const std::int16_t* quads, std::int32_t head_dim,
                                              const std::int8_t* lines, const std::uint16_t* steps,
                                              Fetch& fetch, std::int32_t* dots) {
    FewSums<kRows> sums;
    Fetch next = fetch;
    for (std::int32_t quad = 0; quad < head_dim / 4; ++quad) {
      if (!kHigh) next.beside<1>(quad);
      const I16 step = _mm256_set1_epi64x(load_as<std::int64_t>(steps + quad * 4));
      I16 key[4];
      INTFLASH_UNROLL
      for (std::int32_t v = 0; v < 4; ++v) {
        const auto* from = reinterpret_cast<const __m128i*>(lines + quad * 64 + v * 16);
        const I16 bytes = _mm256_cvtepu8_epi16(_mm_load_si128(from));
        key[v] = _mm256_mullo_epi16(nibbles<kHigh>(bytes), step);
      }
      INTFLASH_UNROLL
      for (std::int32_t r = 0; r < kRows; ++r) {
        const I16 row = _mm256_set1_epi64x(load_as<std::int64_t>(quads + r * head_dim + quad * 4));
        INTFLASH_UNROLL
        for (std::int32_t v = 0; v < 4; ++v)
          sums.at[r][v] = multiply_add_pairs(sums.at[r][v], row, key[v]);
      }
    }
    fetch = next;
    INTFLASH_UNROLL
    for (std::int32_t r = 0; r < kRows; ++r) {
      store(dots + r * kScoreBlock, sums.eight(r, 0));
      store(dots + r * kScoreBlock + kLanes, sums.eight(r, 1));
    }
  }

  // As widen_tile.
  template <bool kHigh>
  static INTFLASH_INLINE void widen_packed(const std::int8_t* lines, const StepQuads& steps,
                                           Fetch& fetch, std::int32_t quads,
                                           std::int16_t (*tile)[64]) {
    Fetch next = fetch;
    const I16 fifteen = broadcast16(15);
    for (std::int32_t quad = 0; quad < quads; ++quad) {
      if (!kHigh) next.beside<1>(quad);
      const I16 even = broadcast_load32(steps.even + quad);
      const I16 odd = broadcast_load32(steps.odd + quad);
      INTFLASH_UNROLL
      for (std::int32_t v = 0; v < 2; ++v) {
        const I16 bytes = load(lines + quad * 64 + v * 32);
        const I16 of_even = _mm256_and_si256(kHigh ? high_nibbles(bytes) : bytes, fifteen);
        const I16 of_odd = kHigh ? _mm256_srli_epi16(bytes, 12)
                                 : _mm256_and_si256(_mm256_srli_epi16(bytes, 8), fifteen);
        store(tile[quad] + v * 16, _mm256_mullo_epi16(of_even, even));
        store(tile[quad] + 32 + v * 16, _mm256_mullo_epi16(of_odd, odd));
      }
    }
    fetch = next;
  }

  // The products of a query's rows with 16 keys, but for where they begin.
  template <bool kHigh>
  static INTFLASH_INLINE void qk_packed_part(const QueryTile& query, void* packed,
                                             const std::int8_t* lines, const Steps& steps,
                                             Fetch& fetch, std::int32_t* dots) {
    Scratch& scratch = *static_cast<Scratch*>(packed);
    const std::int16_t* quads = quads_of(packed);
    const std::int32_t head_dim = query.head_dim;
    if (are_few(query.rows)) {
      for_each_panel<3, 2, 1>(query.rows, [&](auto panel, std::int32_t) {
        qk_packed_few<decltype(panel)::kRows, kHigh>(quads, head_dim, lines, steps.words, fetch,
                                                     dots);
      });
      return;
    }
    widen_packed<kHigh>(lines, steps.quads, fetch, head_dim / 4, scratch.tile);
    for_each_panel<5, 4>(query.rows, [&](auto panel, std::int32_t) {
      qk_panel<decltype(panel)::kRows>(quads, head_dim, scratch.tile, dots);
    });
  }

  // Of up to kFewRows rows: dots [rows][kScoreBlock] with the first num_keys keys: 64 or 128.
  static INTFLASH_INLINE void qk_packed_tile(const QueryTile& query, void* packed,
                                             const ScoreBlock& block, const KvBlock* next,
                                             std::int32_t num_keys, std::int32_t* dots) {
    const std::int32_t head_dim = query.head_dim;
    Fetch fetch = Fetch::keys(next);
    Steps steps;
    for (std::int32_t half = 0; half < num_keys / kBlockTokens; ++half) {
      const std::int8_t* const keys = block.half[half].key_codes;
      const auto* const bytes = reinterpret_cast<const std::uint8_t*>(steps_of(keys, head_dim));
      if (are_few(query.rows)) {
        for (std::int32_t c = 0; c < head_dim; ++c) steps.words[c] = bytes[c];
      } else {
        widen_steps(keys, head_dim, steps.quads);
      }
      std::int32_t* const to = dots + half * kBlockTokens;
      for (std::int32_t token = 0; token < kHalfBlock; token += 16) {
        const std::int8_t* const lines = keys + token * static_cast<std::int64_t>(head_dim);
        qk_packed_part<false>(query, packed, lines, steps, fetch, to + token);
        qk_packed_part<true>(query, packed, lines, steps, fetch, to + token + kHalfBlock);
      }
      for (std::int32_t r = 0; r < query.rows; ++r)
        add_offsets(query.codes + r * query.code_stride, bytes + head_dim, head_dim,
                    to + r * kScoreBlock);
    }
  }

 private:
  // To the products with a half's keys.
  static INTFLASH_INLINE void add_offsets(const std::int8_t* INTFLASH_RESTRICT query,
                                          const std::uint8_t* INTFLASH_RESTRICT offsets,
                                          std::int32_t head_dim, std::int32_t* dots) {
    std::int32_t start = 0;
    for (std::int32_t c = 0; c < head_dim; ++c) start += query[c] * (offsets[c] - 128);
    for (std::int32_t key = 0; key < kBlockTokens; key += kLanes)
      store(dots + key, add32(load(dots + key), broadcast32(start)));
  }
};

}  // namespace
}  // namespace intflash::internal
