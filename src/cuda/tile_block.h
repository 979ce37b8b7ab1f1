// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What a warp does with one score block: products with its keys, weights, and these times its
// values into the states of the warp's 16 rows.
#pragma once

#include <cstdint>

#include "cuda/products.h"
#include "cuda/row_state.h"
#include "cuda/tile_rows.h"
#include "cuda/weights.h"

namespace intflash::internal {
namespace {

// Exact products of a warp's rows with the block's keys.
template <int kDim>
INTFLASH_DEVICE BlockProducts multiply_keys(const std::uint32_t (&query)[kSteps<kDim>][4],
                                            Lane lane) {
  const Shared<TwoWords> keys(Place<kDim>::kKeys);
  BlockProducts products{};
  INTFLASH_UNROLL
  for (std::int32_t tile = 0; tile < BlockProducts::kTiles; ++tile) {
    INTFLASH_UNROLL
    for (std::int32_t step = 0; step < kSteps<kDim>; ++step)
      add_products(keys, tile * (kDim / 4) + step * 8, lane, has_upper_half<kDim>(step),
                   query[step], products.even[tile], products.odd[tile]);
  }
  return products;
}

// Into shared memory, for what weighs a row by a warp.
template <int kDim>
INTFLASH_DEVICE void store_products(const BlockProducts& products, Lane lane, std::int32_t warp) {
  using P = Place<kDim>;
  const Shared<FourSums> dots(P::kDots + warp * P::kDotBytes);
  INTFLASH_UNROLL
  for (std::int32_t tile = 0; tile < BlockProducts::kTiles; ++tile) {
    INTFLASH_UNROLL
    for (std::int32_t half = 0; half < 2; ++half) {
      const std::int32_t row = lane.group + 8 * half;
      dots.store((row * P::kDotStride + tile * 16) / 4 + lane.quad,
                 sums_of(products.even[tile], products.odd[tile], half));
    }
  }
}

// The rows that take second digits in the block at first_key, a bit each.
template <int kDim, class Masks>
INTFLASH_DEVICE std::uint32_t digit_rows(const Masks& masks, const LaneScales& scales,
                                         std::int32_t first_key, Lane lane, std::int32_t warp) {
  const Shared<TileRow> rows(Place<kDim>::kRows + warp * kWarpRows * sizeof(TileRow));
  std::uint32_t found = 0;
  for (std::int32_t r = 0; r < kWarpRows; ++r) {
    const TileRow row = rows.load(r);
    LaneProducts seen{};
    seen.kept = kept_keys(row, first_key + kLaneKeys * lane.index);
    masks.acts_of(r, first_key + kLaneKeys * lane.index, seen.kept);
    if (warp_any(seen.kept != 0) && takes_digits(row.query, seen, scales)) found |= 1u << r;
  }
  return found;
}

// Makes products of codes those with second digits, of the rows that have a bit.
// digits: of the queries of rows group and group + 8; keys: those of both halves' keys.
template <int kDim>
INTFLASH_DEVICE void add_digit_products(const std::uint32_t (&query)[kSteps<kDim>][4],
                                        const std::uint32_t* const (&digits)[2],
                                        const PageTiles (&keys)[2], std::uint32_t taking, Lane lane,
                                        std::int32_t warp) {
  using P = Place<kDim>;
  const Shared<TwoWords> codes(P::kKeys);
  const Shared<FourSums> dots(P::kDots + warp * P::kDotBytes);
  const Shared<TileRow> rows(P::kRows + warp * kWarpRows * sizeof(TileRow));
  for (std::int32_t tile = 0; tile < kScoreBlock / 16; ++tile) {
    sync_warp();  // lanes whose rows take none are ahead, and mma.sync wants all of them at once
    std::int32_t even[4] = {}, odd[4] = {};
    INTFLASH_UNROLL
    for (std::int32_t step = 0; step < kSteps<kDim>; ++step) {
      std::uint32_t a[4];
      const bool has_upper = has_upper_half<kDim>(step);
      load_rows(digits[0], digits[1], 8 * step + lane.quad, has_upper, a);
      add_products(codes, tile * (kDim / 4) + step * 8, lane, has_upper, a, even, odd);
      add_products((tile < 4 ? keys[0] : keys[1]).tile(tile % 4), step * 8, lane, has_upper,
                   query[step], even, odd);
    }
    INTFLASH_UNROLL
    for (std::int32_t half = 0; half < 2; ++half) {
      const std::int32_t row = lane.group + 8 * half;
      if ((taking >> row & 1) == 0) continue;
      const std::int32_t bits = rows.load(row).query.digit_bits();
      const std::int32_t at = (row * P::kDotStride + tile * 16) / 4 + lane.quad;
      const FourSums mixed = sums_of(even, odd, half);
      FourSums sums = dots.load(at);
      INTFLASH_UNROLL
      for (std::int32_t i = 0; i < 4; ++i)
        sums.output[i] = add_digits(sums.output[i], mixed.output[i], bits);
      dots.store(at, sums);
    }
  }
}

// P and outcomes of the warp's rows, from their products, one row after the other.
template <int kDim, class Masks>
INTFLASH_DEVICE void weigh_rows(const Masks& masks, const LaneScales& scales,
                                std::int32_t first_key, Lane lane, std::int32_t warp) {
  using P = Place<kDim>;
  const Shared<FourSums> dots(P::kDots + warp * P::kDotBytes);
  const Shared<std::uint32_t> weights(P::kWeights + warp * P::kWeightBytes);
  const Shared<TileRow> rows(P::kRows + warp * kWarpRows * sizeof(TileRow));
  const Shared<RowOutcome> outcomes(P::kOutcomes + warp * kWarpRows * sizeof(RowOutcome));
  for (std::int32_t r = 0; r < kWarpRows; ++r) {
    const TileRow row = rows.load(r);
    LaneProducts products{};
    products.kept = kept_keys(row, first_key + kLaneKeys * lane.index);
    const auto acts = masks.acts_of(r, first_key + kLaneKeys * lane.index, products.kept);
    RowOutcome outcome{};
    std::uint32_t quantized = 0;
    outcome.is_active = warp_any(products.kept != 0) ? 1 : 0;
    if (outcome.is_active != 0) {
      const FourSums sums = dots.load(r * P::kDotStride / 4 + lane.index);
      for (std::int32_t i = 0; i < kLaneKeys; ++i) products.dot[i] = sums.output[i];
      outcome.weight = weigh_row(row.query, products, scales, acts, quantized);
    }
    weights.store(r * P::kWeightStride / 4 + lane.index, quantized);
    if (lane.index == 0) outcomes.store(r, outcome);
  }
}

// P of a thread's rows group and group + 8, as its fragments of 32 keys at a time, and what becomes
// of the rows' accumulators: factor times what they were, and gain times the sums of P and values.
// A row that sees nothing here has P = 0, which changes no accumulator: none is -0.
struct ThreadWeights {
  std::uint32_t fragment[kScoreBlock / 32][4];
  float gain[2], factor[2];
};

// What weigh_rows has left, which enters the rows' state.
template <int kDim>
INTFLASH_DEVICE ThreadWeights load_weights(Lane lane, std::int32_t warp, RowStates<kDim>& state) {
  using P = Place<kDim>;
  const Shared<std::uint32_t> weights(P::kWeights + warp * P::kWeightBytes);
  const Shared<RowOutcome> outcomes(P::kOutcomes + warp * kWarpRows * sizeof(RowOutcome));
  ThreadWeights loaded;
  INTFLASH_UNROLL
  for (std::int32_t h = 0; h < 2; ++h) {
    const RowOutcome outcome = outcomes.load(lane.group + 8 * h);
    loaded.gain[h] = 0.0f;
    loaded.factor[h] = 1.0f;
    if (outcome.is_active != 0) loaded.gain[h] = state.enter(h, outcome.weight, loaded.factor[h]);
  }
  INTFLASH_UNROLL
  for (std::int32_t step = 0; step < kScoreBlock / 32; ++step) {
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < 4; ++i) {
      const std::int32_t row = lane.group + 8 * (i % 2);
      loaded.fragment[step][i] =
          weights.load(row * (P::kWeightStride / 4) + step * 8 + lane.quad + 4 * (i / 2));
    }
  }
  return loaded;
}

// Of P and values, whose sums are below 2^22 in magnitude: added to the bits of this number they
// are the bits of its sum with them, which takes no conversion.
constexpr float kWholeNumbers = 12582912.0f;  // 1.5 * 2^23
constexpr std::int32_t kWholeBits = 0x4b400000;
static_assert(255 * 127 * kScoreBlock < 1 << 22);

// Takes the block's weights and values into the warp's states.
template <int kDim>
INTFLASH_DEVICE void add_values(Lane lane, const ThreadWeights& weights, RowStates<kDim>& state) {
  const Shared<TwoWords> values(Place<kDim>::kValues);
  if (warp_any(weights.factor[0] != 1.0f || weights.factor[1] != 1.0f))
    state.scale(SumRows(weights.factor, lane.quad));
  const SumRows gain(weights.gain, lane.quad);
  INTFLASH_UNROLL
  for (std::int32_t tile = 0; tile < kDim / 16; ++tile) {
    std::int32_t sums[2][4];
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < 4; ++i) sums[0][i] = sums[1][i] = kWholeBits;
    INTFLASH_UNROLL
    for (std::int32_t step = 0; step < kScoreBlock / 32; ++step) {
      // Each half of the block has tiles of its own, of 16 rows of four tokens.
      const std::int32_t row = step / 2 * (kDim / 16) * 16 + tile * 16 + step % 2 * 8;
      add_weighted(values, row, lane, weights.fragment[step], sums);
    }
    INTFLASH_UNROLL
    for (std::int32_t h = 0; h < 2; ++h) {
      INTFLASH_UNROLL
      for (std::int32_t i = 0; i < 4; ++i) {
        const float sum = bits_as<float>(sums[h][i]) - kWholeNumbers;
        float& accumulator = state.accumulator[tile][h][i];
        accumulator = fused(sum, gain.of(h, i), accumulator);
      }
    }
  }
}

}  // namespace
}  // namespace intflash::internal
