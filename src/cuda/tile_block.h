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

// The first of a score block's keys that are a warp's, in tiles of 16.
template <int kDim>
INTFLASH_DEVICE std::int32_t first_tile(std::int32_t side) {
  return side * BlockProducts<kDim>::kTiles;
}

// Exact products of a warp's rows with its keys of the block.
template <int kDim>
INTFLASH_DEVICE BlockProducts<kDim> multiply_keys(const std::uint32_t (&query)[kSteps<kDim>][4],
                                                  Lane lane, std::int32_t side) {
  const Shared<TwoWords> keys(Place<kDim>::kKeys);
  BlockProducts<kDim> products{};
  INTFLASH_UNROLL
  for (std::int32_t tile = 0; tile < BlockProducts<kDim>::kTiles; ++tile) {
    INTFLASH_UNROLL
    for (std::int32_t step = 0; step < kSteps<kDim>; ++step)
      add_products(keys, (first_tile<kDim>(side) + tile) * (kDim / 4) + step * 8, lane,
                   has_upper_half<kDim>(step), query[step], products.even[tile],
                   products.odd[tile]);
  }
  return products;
}

// Into shared memory, for what weighs a row by a warp.
template <int kDim>
INTFLASH_DEVICE void store_products(const BlockProducts<kDim>& products, Lane lane,
                                    std::int32_t warp, std::int32_t side) {
  using P = Place<kDim>;
  const Shared<FourSums> dots(P::kDots + warp * P::kDotBytes);
  INTFLASH_UNROLL
  for (std::int32_t tile = 0; tile < BlockProducts<kDim>::kTiles; ++tile) {
    INTFLASH_UNROLL
    for (std::int32_t half = 0; half < 2; ++half) {
      const std::int32_t row = lane.group + 8 * half;
      dots.store(place_of_sums(row, (first_tile<kDim>(side) + tile) * 4 + lane.quad),
                 sums_of(products.even[tile], products.odd[tile], half));
    }
  }
}

// The rows that take second digits in the block at first_key, a bit each.
template <int kDim, class Masks>
INTFLASH_DEVICE std::uint32_t digit_rows(const Masks& masks, const LaneScales& scales,
                                         std::int32_t first_key, Lane lane, std::int32_t warp) {
  const TileRows<kDim> rows(warp * kWarpRows);
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
// query, digits: of the queries of rows group and group + 8; keys: digits of both halves' keys.
// All are read again, step by step: for more there are no registers beside a block's of 256
// channels.
template <int kDim>
INTFLASH_DEVICE void add_digit_products(const std::uint32_t* const (&query)[2],
                                        const std::uint32_t* const (&digits)[2],
                                        const PageTiles (&keys)[2], std::uint32_t taking, Lane lane,
                                        std::int32_t warp, std::int32_t side) {
  using P = Place<kDim>;
  const Shared<TwoWords> codes(P::kKeys);
  const Shared<FourSums> dots(P::kDots + warp * P::kDotBytes);
  const TileRows<kDim> rows(warp * kWarpRows);
  const std::int32_t first = first_tile<kDim>(side);
  for (std::int32_t tile = first; tile < first + BlockProducts<kDim>::kTiles; ++tile) {
    sync_warp();  // lanes whose rows take none are ahead, and mma.sync wants all of them at once
    std::int32_t even[4] = {}, odd[4] = {};
    const std::int32_t steps = made_once(kSteps<kDim>);  // a loop, as it stands
    for (std::int32_t step = 0; step < steps; ++step) {
      std::uint32_t a[4];
      const bool has_upper = has_upper_half<kDim>(step);
      load_rows(digits[0], digits[1], 8 * step + lane.quad, has_upper, a);
      add_products(codes, tile * (kDim / 4) + step * 8, lane, has_upper, a, even, odd);
      load_rows(query[0], query[1], 8 * step + lane.quad, has_upper, a);
      add_products((tile < 4 ? keys[0] : keys[1]).tile(tile % 4), step * 8, lane, has_upper, a,
                   even, odd);
    }
    INTFLASH_UNROLL
    for (std::int32_t half = 0; half < 2; ++half) {
      const std::int32_t row = lane.group + 8 * half;
      if ((taking >> row & 1) == 0) continue;
      const std::int32_t bits = rows.load(row).query.digit_bits();
      const std::int32_t at = place_of_sums(row, tile * 4 + lane.quad);
      const FourSums mixed = sums_of(even, odd, half);
      FourSums sums = dots.load(at);
      INTFLASH_UNROLL
      for (std::int32_t i = 0; i < 4; ++i)
        sums.output[i] = add_digits(sums.output[i], mixed.output[i], bits);
      dots.store(at, sums);
    }
  }
}

// P and outcomes of rows that are the warp's, from their products, one row after the other.
template <int kDim, class Masks>
INTFLASH_DEVICE void weigh_rows(const Masks& masks, const LaneScales& scales,
                                std::int32_t first_key, Lane lane, std::int32_t warp,
                                std::int32_t side) {
  using P = Place<kDim>;
  const Shared<FourSums> dots(P::kDots + warp * P::kDotBytes);
  const Shared<std::uint32_t> weights(P::kDots + warp * P::kDotBytes);
  const Shared<RowOutcome> outcomes(P::kDots + warp * P::kDotBytes);
  const TileRows<kDim> rows(warp * kWarpRows);
  constexpr std::int32_t kOwn = kWarpRows / kSides<kDim>;
  for (std::int32_t r = side * kOwn; r < (side + 1) * kOwn; ++r) {
    const TileRow row = rows.load(r);
    LaneProducts products{};
    products.kept = kept_keys(row, first_key + kLaneKeys * lane.index);
    const auto acts = masks.acts_of(r, first_key + kLaneKeys * lane.index, products.kept);
    RowOutcome outcome{};
    std::uint32_t quantized = 0;
    outcome.is_active = warp_any(products.kept != 0) ? 1 : 0;
    if (outcome.is_active != 0) {
      const FourSums sums = dots.load(place_of_sums(r, lane.index));
      for (std::int32_t i = 0; i < kLaneKeys; ++i) products.dot[i] = sums.output[i];
      outcome.weight = weigh_row(row.query, products, scales, acts, quantized);
    }
    sync_warp();
    weights.store(place_of_weights(r, lane.index), quantized);
    if (lane.index == 0) outcomes.store(place_of_outcome(r), outcome);
  }
}

// P of a thread's rows group and group + 8, as its fragments of 32 keys at a time, and what becomes
// of the rows' accumulators: factor times what they were, and gain times the sums of P and values.
// A row that sees nothing here has P = 0, which changes no accumulator: none is -0.
struct ThreadWeights {
  std::uint32_t fragment[kScoreBlock / 32][4];
  float gain[2], factor[2];
};

// Where a fragment of P for a step lies in the words of 16 rows.
INTFLASH_DEVICE std::int32_t place_of_fragment(Lane lane, std::int32_t step, std::int32_t i) {
  return place_of_weights(lane.group + 8 * (i % 2), step * 8 + lane.quad + 4 * (i / 2));
}
template <int kDim>
INTFLASH_DEVICE void load_fragments(Lane lane, std::int32_t warp, ThreadWeights& loaded) {
  const Shared<std::uint32_t> weights(Place<kDim>::kDots + warp * Place<kDim>::kDotBytes);
  INTFLASH_UNROLL
  for (std::int32_t step = 0; step < kScoreBlock / 32; ++step) {
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < 4; ++i)
      loaded.fragment[step][i] = weights.load(place_of_fragment(lane, step, i));
  }
}

// What weigh_rows has left, which enters the rows' state.
template <int kDim>
INTFLASH_DEVICE ThreadWeights load_weights(Lane lane, std::int32_t warp, RowStates<kDim>& state) {
  const Shared<RowOutcome> outcomes(Place<kDim>::kDots + warp * Place<kDim>::kDotBytes);
  ThreadWeights loaded;
  INTFLASH_UNROLL
  for (std::int32_t h = 0; h < 2; ++h) {
    const RowOutcome outcome = outcomes.load(place_of_outcome(lane.group + 8 * h));
    loaded.gain[h] = 0.0f;
    loaded.factor[h] = 1.0f;
    if (outcome.is_active != 0) loaded.gain[h] = state.enter(h, outcome.weight, loaded.factor[h]);
  }
  load_fragments<kDim>(lane, warp, loaded);
  return loaded;
}

// Of P and values, whose sums are below 2^22 in magnitude: added to the bits of this number they
// are the bits of its sum with them, which takes no conversion.
constexpr float kWholeNumbers = 12582912.0f;  // 1.5 * 2^23
constexpr std::int32_t kWholeBits = 0x4b400000;
static_assert(255 * 127 * kScoreBlock < 1 << 22);

// Takes the block's weights and the warp's channels of values into its states.
template <int kDim>
INTFLASH_DEVICE void add_values(Lane lane, std::int32_t side, const ThreadWeights& weights,
                                RowStates<kDim>& state) {
  const Shared<TwoWords> values(Place<kDim>::kValues);
  if (warp_any(weights.factor[0] != 1.0f || weights.factor[1] != 1.0f))
    state.scale(SumRows(weights.factor, lane.quad));
  const SumRows gain(weights.gain, lane.quad);
  INTFLASH_UNROLL
  for (std::int32_t tile = 0; tile < RowStates<kDim>::kTiles; ++tile) {
    std::int32_t sums[2][4];
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < 4; ++i) sums[0][i] = sums[1][i] = kWholeBits;
    INTFLASH_UNROLL
    for (std::int32_t step = 0; step < kScoreBlock / 32; ++step) {
      // Each half of the block has tiles of its own, of 16 rows of four tokens.
      const std::int32_t row =
          step / 2 * (kDim / 16) * 16 + (side * RowStates<kDim>::kTiles + tile) * 16 + step % 2 * 8;
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
