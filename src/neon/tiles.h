// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Q K^T and P V on NEON. Rows are packed by octets, the next eight codes of all rows together, and
// an octet is multiplied by two quads of the page layout at once; how is up to Products. Where it
// takes signed rows only, P is held less 128, and the sums start at 128 times the sum of the
// values.
#pragma once

#include <cstddef>
#include <cstdint>

#include "neon/weigher.h"
#include "tile/panels.h"
#include "tile/types.h"

namespace intflash::internal {
namespace {

template <class Products>
struct NeonTiles : Products {
  using typename Products::I32;
  using typename Products::Weight;
  template <std::int32_t kRows, std::int32_t kGroups>
  using Sums = typename Products::template Sums<kRows, kGroups>;

  static constexpr std::int32_t kTileRows = 24;
  static constexpr bool kFetches = false;  // no ARM core has been measured
  static constexpr std::int32_t kPackedRows = 0;
  static constexpr std::int32_t kPacked = 0;
  static constexpr std::int32_t kRowStride = Products::kOctetBytes;
  static constexpr std::int32_t kOctetStride = kTileRows * kRowStride;
  static constexpr std::int32_t kBlockOctets = kScoreBlock / 8;
  static constexpr bool kSignedWeights = Weight(-1) < 0;
  // Groups of four outputs that a panel takes at once: as many as leave registers for its operands.
  static constexpr std::int32_t groups_of(std::int32_t rows) {
    return rows * 4 <= Products::kPanelRows ? 4 : rows * 2 <= Products::kPanelRows ? 2 : 1;
  }

  struct Scratch {
    alignas(64) std::int8_t weights[kBlockOctets * kOctetStride];
    alignas(64) std::int32_t value_start[kMaxHeadDim];
  };
  // The query's octets follow the scratch.
  static std::size_t query_bytes(std::int32_t head_dim) {
    return sizeof(Scratch) + static_cast<std::size_t>(head_dim / 8 * kOctetStride);
  }
  static std::int8_t* query_of(void* packed) {
    return static_cast<std::int8_t*>(packed) + sizeof(Scratch);
  }

  static INTFLASH_INLINE void pack_row(const void* codes, std::int32_t octets, std::uint64_t flip,
                                       std::int8_t* INTFLASH_RESTRICT packed) {
    for (std::int32_t octet = 0; octet < octets; ++octet) {
      const std::uint64_t eight =
          load_as<std::uint64_t>(static_cast<const char*>(codes) + octet * 8);
      Products::pack_octet(packed + octet * kOctetStride, eight ^ flip);
    }
  }
  static INTFLASH_INLINE void prepare_query(const QueryTile& query, void* packed) {
    for (std::int32_t r = 0; r < query.rows; ++r) {
      pack_row(query.codes + r * query.code_stride, query.head_dim / 8, 0,
               query_of(packed) + r * kRowStride);
    }
  }

  // sums += packed rows times quads of outputs, [2 * octets][16 outputs][4].
  template <std::int32_t kRows, std::int32_t kGroups, class Code>
  static INTFLASH_INLINE void add_products(Sums<kRows, kGroups>& sums, const Code* rows,
                                           const std::int8_t* outputs, std::int32_t octets) {
    INTFLASH_ASSUME(octets > 0);
    for (std::int32_t octet = 0; octet < octets; ++octet) {
      Products::add_octet(sums, rows, outputs);
      rows += kOctetStride;
      outputs += 128;
    }
  }

  template <std::int32_t kRows>
  static INTFLASH_NOINLINE void qk_panel(const std::int8_t* query, const ScoreBlock& block,
                                         std::int32_t num_keys, std::int32_t head_dim,
                                         std::int32_t* dots) {
    constexpr std::int32_t kGroups = groups_of(kRows);
    for (std::int32_t key = 0; key < num_keys; key += 4 * kGroups) {
      const std::int32_t token = key % kBlockTokens;
      const std::int8_t* keys =
          block.half[key / kBlockTokens].key_codes + token / 16 * 16 * head_dim + token % 16 * 4;
      Sums<kRows, kGroups> sums;
      INTFLASH_UNROLL
      for (std::int32_t g = 0; g < kGroups; ++g) {
        INTFLASH_UNROLL
        for (std::int32_t r = 0; r < kRows; ++r) sums.start(r, g, Products::zero());
      }
      add_products(sums, query, keys, head_dim / 8);
      INTFLASH_UNROLL
      for (std::int32_t r = 0; r < kRows; ++r) {
        INTFLASH_UNROLL
        for (std::int32_t g = 0; g < kGroups; ++g)
          Products::store(dots + r * kScoreBlock + key + 4 * g, sums.row(r, g));
      }
    }
  }

  // dots [rows][kScoreBlock] with the first num_keys keys: 64 or 128.
  static INTFLASH_INLINE void qk_tile(const QueryTile& query, void* packed, const ScoreBlock& block,
                                      const KvBlock* /*next*/, std::int32_t num_keys,
                                      std::int32_t* dots) {
    for_each_panel<Products::kPanelRows, 8, 4, 2, 1>(query.rows, [&](auto panel, std::int32_t r) {
      qk_panel<decltype(panel)::kRows>(query_of(packed) + r * kRowStride, block, num_keys,
                                       query.head_dim, dots + r * kScoreBlock);
    });
  }

  static INTFLASH_INLINE void start_values(const ScoreBlock& block, std::int32_t num_keys,
                                           std::int32_t channels, std::int32_t* start) {
    for (std::int32_t c = 0; c < channels; c += 16) {
      I32 sum[4] = {Products::zero(), Products::zero(), Products::zero(), Products::zero()};
      for (std::int32_t half = 0; half < num_keys / kBlockTokens; ++half) {
        const std::int8_t* values = block.half[half].value_codes + c * kBlockTokens;
        for (std::int32_t quad = 0; quad < kBlockTokens / 4; ++quad, values += 64) {
          INTFLASH_UNROLL
          for (std::int32_t g = 0; g < 4; ++g)
            sum[g] = Products::add_quads(sum[g], Products::load(values + g * 16));
        }
      }
      INTFLASH_UNROLL
      for (std::int32_t g = 0; g < 4; ++g)
        Products::store(start + c + g * 4, Products::times_128(sum[g]));
    }
  }

  template <std::int32_t kRows>
  static INTFLASH_NOINLINE void pv_panel(const Scratch& scratch, std::int32_t first_row,
                                         const ScoreBlock& block, std::int32_t num_keys,
                                         std::int32_t channels, const float* gain,
                                         float* const* accumulators) {
    constexpr std::int32_t kGroups = groups_of(kRows);
    const Weight* weights =
        reinterpret_cast<const Weight*>(scratch.weights + first_row * kRowStride);
    for (std::int32_t c = 0; c < channels; c += 4 * kGroups) {
      Sums<kRows, kGroups> sums;
      INTFLASH_UNROLL
      for (std::int32_t g = 0; g < kGroups; ++g) {
        const I32 start =
            kSignedWeights ? Products::load(scratch.value_start + c + 4 * g) : Products::zero();
        INTFLASH_UNROLL
        for (std::int32_t r = 0; r < kRows; ++r) sums.start(r, g, start);
      }
      for (std::int32_t half = 0; half < num_keys / kBlockTokens; ++half) {
        add_products(sums, weights + half * (kBlockOctets / 2 * kOctetStride),
                     block.half[half].value_codes + c / 16 * 1024 + c % 16 * 4, kBlockOctets / 2);
      }
      INTFLASH_UNROLL
      for (std::int32_t r = 0; r < kRows; ++r) {
        const auto factor = Products::broadcast_f32(gain[r]);
        INTFLASH_UNROLL
        for (std::int32_t g = 0; g < kGroups; ++g) {
          float* out = accumulators[r] + c + 4 * g;
          const auto product = Products::to_f32(sums.row(r, g));
          Products::store_f32(out, Products::fma(product, factor, Products::load_f32(out)));
        }
      }
    }
  }

  static INTFLASH_INLINE void pv_tile(void* packed, const std::uint8_t* weights, std::int32_t rows,
                                      const ScoreBlock& block, const KvBlock* /*next*/,
                                      std::int32_t num_keys, std::int32_t head_dim_v,
                                      const float* gain, float* const* accumulators) {
    Scratch& scratch = *static_cast<Scratch*>(packed);
    const std::int32_t channels = static_cast<std::int32_t>(round_up(head_dim_v, 16));
    const std::uint64_t flip = kSignedWeights ? 0x8080808080808080u : 0;  // less 128, by byte
    for (std::int32_t r = 0; r < rows; ++r)
      pack_row(weights + r * kScoreBlock, num_keys / 8, flip, scratch.weights + r * kRowStride);
    if constexpr (kSignedWeights) start_values(block, num_keys, channels, scratch.value_start);
    for_each_panel<Products::kPanelRows, 8, 4, 2, 1>(rows, [&](auto panel, std::int32_t r) {
      pv_panel<decltype(panel)::kRows>(scratch, r, block, num_keys, channels, gain + r,
                                       accumulators + r);
    });
  }
};

}  // namespace
}  // namespace intflash::internal
