// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Q K^T and P V for instruction sets with a dot product of four unsigned by four signed bytes
// (vpdpbusd). Queries are held as code + 128; the surplus 128 * sum(key) is taken off by starting
// the sums at -128 * key_sum, so it costs no instruction.
#pragma once

#include <cstdint>

#include "tile/fetch.h"
#include "tile/packed_keys.h"
#include "tile/panels.h"
#include "tile/portability.h"
#include "tile/types.h"
#include "tile/value_levels.h"

namespace intflash::internal {
namespace {

// Query codes as bytes above 128, row by row.
INTFLASH_INLINE void offset_codes(const std::int8_t* codes, std::int64_t count,
                                  std::uint8_t* INTFLASH_RESTRICT bytes) {
  for (std::int64_t i = 0; i < count; ++i) bytes[i] = static_cast<std::uint8_t>(codes[i] ^ 0x80);
}

// dots[r][key] for 16 * kKeyVectors * kLanes / 16 keys from key_tile on.
template <class Isa, std::int32_t kRows, std::int32_t kVectors>
INTFLASH_INLINE void qk_panel(const std::uint8_t* query, std::int64_t query_stride,
                              const std::int8_t* tile, std::int64_t tile_bytes,
                              const std::int32_t* key_sum, std::int32_t head_dim, Fetch& fetch,
                              std::int32_t* dots) {
  using I32 = typename Isa::I32;
  constexpr std::int32_t kPerTile = 16 / Isa::kLanes;
  I32 sum[kRows][kVectors];
  INTFLASH_UNROLL
  for (std::int32_t v = 0; v < kVectors; ++v) {
    const I32 start = Isa::minus_128_times(Isa::load(key_sum + v * Isa::kLanes));
    INTFLASH_UNROLL
    for (std::int32_t r = 0; r < kRows; ++r) sum[r][v] = start;
  }
  for (std::int32_t quad = 0; quad < head_dim / 4; ++quad) {
    I32 key[kVectors];
    INTFLASH_UNROLL
    for (std::int32_t v = 0; v < kVectors; ++v) {
      key[v] = Isa::load(tile + v / kPerTile * tile_bytes + v % kPerTile * 4 * Isa::kLanes);
    }
    if (kRows <= kFewRows) fetch.template beside<kVectors * Isa::kLanes / 16>(quad);
    INTFLASH_UNROLL
    for (std::int32_t r = 0; r < kRows; ++r) {
      const I32 four = Isa::broadcast_load32(query + r * query_stride);
      INTFLASH_UNROLL
      for (std::int32_t v = 0; v < kVectors; ++v)
        sum[r][v] = Isa::dot_u8_s8(sum[r][v], four, key[v]);
    }
    query += 4;
    tile += 64;
  }
  INTFLASH_UNROLL
  for (std::int32_t r = 0; r < kRows; ++r) {
    INTFLASH_UNROLL
    for (std::int32_t v = 0; v < kVectors; ++v)
      Isa::store(dots + r * kScoreBlock + v * Isa::kLanes, sum[r][v]);
  }
}

// Of 4 * kLanes keys from token `first` of a half on, kLanes / 4 quads in turn: quad q of `group`,
// of kLanes channels from `at` on. Values lie in four bits.
template <class Isa>
INTFLASH_INLINE typename Isa::I32 packed_values(typename Isa::I32 levels, const std::int8_t* at,
                                                std::int32_t first, std::int32_t group,
                                                std::int32_t q) {
  constexpr std::int32_t kGroups = Isa::kLanes / 4;
  constexpr bool kHasAll = 4 * kGroups > kNibbleRows;
  const std::int32_t row = kHasAll ? q % 2 * kGroups + group : q * kGroups + group;
  const bool high = kHasAll ? q >= 2 : first != 0;
  return Isa::look_up_nibbles(levels, Isa::load(at + row * 64), high);
}

// accumulators += gain * (P V) for kVectors * kLanes channels of kRows rows, of which channel is
// the first; weights [kRows][kScoreBlock] in the narrowed order. kPacked: values lie in four bits.
template <class Isa, std::int32_t kRows, std::int32_t kVectors, bool kPacked>
INTFLASH_INLINE void pv_panel(const std::uint8_t* weights, const KvBlock* half,
                              std::int64_t channel, std::int32_t num_keys, Fetch& fetch,
                              const float* gain, float* const* accumulators) {
  using I32 = typename Isa::I32;
  constexpr std::int32_t kPerTile = 16 / Isa::kLanes;
  constexpr std::int32_t kGroups = Isa::kLanes / 4;  // quads that lie apart by four in P
  constexpr std::int64_t kTileBytes = kPacked ? kNibbleBytes : 16 * kBlockTokens;
  I32 sum[kRows][kVectors];
  INTFLASH_UNROLL
  for (std::int32_t r = 0; r < kRows; ++r) {
    INTFLASH_UNROLL
    for (std::int32_t v = 0; v < kVectors; ++v) sum[r][v] = Isa::zero();
  }
  [[maybe_unused]] I32 levels;
  if constexpr (kPacked) levels = Isa::load_table(kLevels.level);
  const std::uint8_t* p = weights;
  for (std::int32_t keys = 0; keys < num_keys; keys += 4 * Isa::kLanes) {
    const std::int32_t first = keys % kBlockTokens;
    const std::int8_t* values = half[keys / kBlockTokens].value_codes + channel / 16 * kTileBytes;
    if (!kPacked) values += first / 4 * 64;
    for (std::int32_t group = 0; group < kGroups; ++group) {
      INTFLASH_UNROLL
      for (std::int32_t q = 0; q < 4; ++q) {
        I32 value[kVectors];
        INTFLASH_UNROLL
        for (std::int32_t v = 0; v < kVectors; ++v) {
          const std::int8_t* at =
              values + v / kPerTile * kTileBytes + v % kPerTile * 4 * Isa::kLanes;
          if constexpr (kPacked) {
            value[v] = packed_values<Isa>(levels, at, first, group, q);
          } else {
            value[v] = Isa::load(at + (q * kGroups) * 64);
          }
        }
        // Each packed line is read twice.
        if (kRows <= kFewRows && (!kPacked || (kGroups == 4 ? q < 2 : first == 0)))
          fetch.template beside<kVectors * Isa::kLanes / 16>(
              kPacked && kGroups == 4 ? group % 2 * 2 + q : q);
        INTFLASH_UNROLL
        for (std::int32_t r = 0; r < kRows; ++r) {
          const I32 weight = Isa::broadcast_load32(p + r * kScoreBlock + q * 4);
          INTFLASH_UNROLL
          for (std::int32_t v = 0; v < kVectors; ++v)
            sum[r][v] = Isa::dot_u8_s8(sum[r][v], weight, value[v]);
        }
      }
      if (!kPacked) values += 64;
      p += 16;
    }
  }
  INTFLASH_UNROLL
  for (std::int32_t r = 0; r < kRows; ++r) {
    const typename Isa::F32 factor = Isa::broadcast_f32(gain[r]);
    float* const out = accumulators[r] + channel;
    INTFLASH_UNROLL
    for (std::int32_t v = 0; v < kVectors; ++v) {
      float* const lanes = out + v * Isa::kLanes;
      const typename Isa::F32 product = Isa::to_f32(Isa::held(sum[r][v]));
      Isa::store_f32(lanes, Isa::fma(product, factor, Isa::load_f32(lanes)));
    }
  }
}

// next: the halves of the block whose keys are read next.
template <class Isa, std::int32_t kRows, bool kPacked>
INTFLASH_NOINLINE void pv_rows(const std::uint8_t* weights, const ScoreBlock& block,
                               const KvBlock* next, std::int32_t num_keys, std::int32_t head_dim_v,
                               const float* gain, float* const* accumulators) {
  constexpr std::int32_t kVectors = Isa::kPanelVectors;
  constexpr std::int32_t kChannels = kVectors * Isa::kLanes;
  const std::int32_t padded = (head_dim_v + 15) / 16 * 16;
  Fetch fetch = Fetch::values(next, padded / 16 * (kPacked ? kPackedValueLines : kValueLines));
  std::int32_t c = 0;
  for (; c + kChannels <= padded; c += kChannels) {
    pv_panel<Isa, kRows, kVectors, kPacked>(weights, block.half, c, num_keys, fetch, gain,
                                            accumulators);
  }
  for (; c < padded; c += 16) {
    pv_panel<Isa, kRows, 16 / Isa::kLanes, kPacked>(weights, block.half, c, num_keys, fetch, gain,
                                                    accumulators);
  }
}

template <class Isa, std::int32_t kRows>
INTFLASH_NOINLINE void qk_rows(const std::uint8_t* query, std::int64_t query_stride,
                               const ScoreBlock& block, const KvBlock* next, std::int32_t num_keys,
                               std::int32_t head_dim, std::int32_t* dots) {
  constexpr std::int32_t kVectors = Isa::kPanelVectors;
  const std::int64_t tile_bytes = head_dim * std::int64_t{16};
  Fetch fetch = Fetch::keys(next);
  for (std::int32_t key = 0; key < num_keys; key += kVectors * Isa::kLanes) {
    const KvBlock& half = block.half[key / kBlockTokens];
    const std::int32_t in_half = key % kBlockTokens;
    qk_panel<Isa, kRows, kVectors>(query, query_stride, half.key_codes + in_half / 16 * tile_bytes,
                                   tile_bytes, half.key_sum + in_half, head_dim, fetch, dots + key);
  }
}

// The products of the generic tile kernel (attend_tile.h) for a vpdpbusd instruction set.
// 24 rows leave L1 room for the keys beside their scores.
template <class Base, std::int32_t kRows = 24>
struct VnniTiles : Base {
  static constexpr std::int32_t kTileRows = kRows;
  static constexpr bool kFetches = true;
  static constexpr std::int32_t kPackedRows = kFewRows;
  static constexpr std::int32_t kPacked = kPackedKeys | kPackedValues;

  static std::size_t query_bytes(std::int32_t head_dim) {
    return static_cast<std::size_t>(kTileRows * round_up(head_dim, 64));
  }
  static INTFLASH_INLINE void prepare_query(const QueryTile& query, void* bytes) {
    offset_codes(query.codes, static_cast<std::int64_t>(query.rows) * query.code_stride,
                 static_cast<std::uint8_t*>(bytes));
  }
  // dots [rows][kScoreBlock] with the first num_keys keys: 64 or 128.
  static INTFLASH_INLINE void qk_tile(const QueryTile& query, void* bytes, const ScoreBlock& block,
                                      const KvBlock* next, std::int32_t num_keys,
                                      std::int32_t* dots) {
    const std::int64_t stride = query.code_stride;
    for_each_panel<6, 5, 4, 3, 2, 1>(query.rows, [&](auto panel, std::int32_t r) {
      qk_rows<Base, decltype(panel)::kRows>(static_cast<const std::uint8_t*>(bytes) + r * stride,
                                            stride, block, next, num_keys, query.head_dim,
                                            dots + r * kScoreBlock);
    });
  }
  // Of up to kPackedRows rows; keys lie in four bits.
  static INTFLASH_INLINE void qk_packed_tile(const QueryTile& query, void* /*bytes*/,
                                             const ScoreBlock& block, const KvBlock* next,
                                             std::int32_t num_keys, std::int32_t* dots) {
    const std::int64_t stride = query.code_stride;
    for_each_panel<5, 4, 3, 2, 1>(query.rows, [&](auto panel, std::int32_t r) {
      qk_packed_rows<Base, decltype(panel)::kRows>(query.codes + r * stride, stride, block, next,
                                                   num_keys, query.head_dim,
                                                   dots + r * kScoreBlock);
    });
  }
  static INTFLASH_INLINE void pv_tile(void* /*bytes*/, const std::uint8_t* weights,
                                      std::int32_t rows, const ScoreBlock& block,
                                      const KvBlock* next, std::int32_t num_keys,
                                      std::int32_t head_dim_v, const float* gain,
                                      float* const* accumulators) {
    for_each_panel<6, 5, 4, 3, 2, 1>(rows, [&](auto panel, std::int32_t r) {
      pv_rows<Base, decltype(panel)::kRows, false>(weights + r * kScoreBlock, block, next, num_keys,
                                                   head_dim_v, gain + r, accumulators + r);
    });
  }
  // Of up to kPackedRows rows.
  static INTFLASH_INLINE void pv_packed_tile(void* /*bytes*/, const std::uint8_t* weights,
                                             std::int32_t rows, const ScoreBlock& block,
                                             const KvBlock* next, std::int32_t num_keys,
                                             std::int32_t head_dim_v, const float* gain,
                                             float* const* accumulators) {
    for_each_panel<5, 4, 3, 2, 1>(rows, [&](auto panel, std::int32_t r) {
      pv_rows<Base, decltype(panel)::kRows, true>(weights + r * kScoreBlock, block, next, num_keys,
                                                  head_dim_v, gain + r, accumulators + r);
    });
  }
};

}  // namespace
}  // namespace intflash::internal
