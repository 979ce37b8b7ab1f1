// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What a tile's states come to: sinks, the rotation of values undone, their centre, out and
// log-sum-exp.
#pragma once

#include <cstdint>

#include "cuda/products.h"
#include "cuda/row_state.h"
#include "cuda/simt.h"
#include "cuda/tensor_row.h"
#include "cuda/tile_rows.h"
#include "cuda/transform.h"
#include "tile/hadamard.h"
#include "tile/log_sum_exp.h"
#include "tile/state.h"

namespace intflash::internal {
namespace {

// What is to be added to the scores of a request's row in the end: what centring took from them.
// Below a cap it has been in them all along.
INTFLASH_DEVICE double center_score(const CudaCall& call, const TileThread& at, std::int64_t row) {
  return call.center_score == nullptr || call.score_cap > 0.0f
             ? 0.0
             : call.center_score[query_index(call, *at.request, at.kv_head, row)];
}

// What a row's state comes to with a sink, which joins its denominator alone.
struct SunkRow {
  float reference, row_sum;
  float times;  // of its accumulators
  float share;  // of the weights that its keys had before
};
// row: of the request's. docs/numerics.md, section 4.
INTFLASH_DEVICE SunkRow add_sink(const CudaCall& call, const TileThread& at, std::int32_t row,
                                 float reference, float row_sum) {
  SunkRow sunk = {reference, row_sum, 1.0f, 1.0f};
  if (call.sinks == nullptr || row > at.last_row) return sunk;
  const float sink = call.sinks[at.kv_head * call.group_size + row % call.group_size];
  if (!(sink > kNegativeInfinity)) return sunk;
  constexpr double kLog2E = 1.44269504088896340736;
  const double logit = static_cast<double>(sink) - center_score(call, at, row);
  const float exponent = held_log2(static_cast<float>(logit * kLog2E / 2));
  sunk.reference = max_of(reference, ceil_of(exponent));
  sunk.times = reference == kNegativeInfinity ? 0.0f : scale_down(reference, sunk.reference);
  const float keys = row_sum * sunk.times;
  sunk.row_sum =
      keys + exp2_of(exponent - sunk.reference) * static_cast<float>(kWeightOne * kValueWeightOne);
  sunk.share = sunk.row_sum > 0.0f ? keys / sunk.row_sum : 0.0f;
  return sunk;
}

// Writes a row of the request's, by a warp. from: what the weights of its keys came to, transformed
// where values are rotated; is_active: it is not empty.
INTFLASH_DEVICE void write_row(const CudaCall& call, const TileThread& at, std::int32_t row,
                               Shared<float> from, std::int32_t dim, const float* center,
                               const SunkRow& sunk, bool is_active) {
  const CudaRequest& request = *at.request;
  const std::int64_t query_head = at.kv_head * call.group_size + row % call.group_size;
  const std::int64_t query = row / call.group_size;
  const TensorRow to =
      row_of(call.out, request.tensor_batch, query_head, request.first_token + query);
  const float times = transform_factor(dim);
  const bool is_rotated = call.rotates_values && is_active;
  for (std::int32_t c = at.lane.index; c < dim; c += kWarpThreads) {
    float x = from.load(c);
    const std::uint32_t flip = rotation_sign(static_cast<std::uint32_t>(c));
    if (is_rotated) x = bits_as<float>(bits_as<std::uint32_t>(x * times) ^ flip);
    if (is_rotated && center != nullptr) x += center[c] * sunk.share;
    to.store(c, x);
  }
  if (call.lse == nullptr || at.lane.index != 0) return;
  call.lse[request.first_lse + query_head * call.lse_stride_head + query] =
      log_sum_exp_of(sunk.reference, sunk.row_sum, center_score(call, at, row));
}

// What an accumulator comes to, before the transform where values are rotated.
struct OutScale {
  float times, factor, share;
  bool is_fused;  // the centre is added here

  // The one that a lane has; by all lanes.
  INTFLASH_DEVICE OutScale of_lane(std::int32_t lane) const {
    return {lane_value(times, lane), lane_value(factor, lane), lane_value(share, lane),
            lane_value(is_fused ? 1.0f : 0.0f, lane) != 0.0f};
  }
  INTFLASH_DEVICE float apply(float accumulator, const float* center, std::int32_t c) const {
    const float x = accumulator * times;
    return is_fused ? fused(x, factor, center[c] * share) : x * factor;
  }
};
INTFLASH_DEVICE OutScale out_scale(const CudaCall& call, const SunkRow& sunk, const float* center) {
  // A row that saw no key has row_sum 0: its out is 0, where dividing would give NaN.
  const float factor = sunk.row_sum > 0.0f ? kRowSumOfOut / sunk.row_sum : 0.0f;
  const bool is_fused = center != nullptr && !call.rotates_values && factor > 0.0f;
  return {sunk.times, factor, sunk.share, is_fused};
}

// Between what a warp, or two that share its rows, write and read of these.
template <int kDim>
INTFLASH_DEVICE void sync_rows() {
  if constexpr (kSides<kDim> == 2) {
    sync_block();
  } else {
    sync_warp();
  }
}

// Writes out, and log-sum-exp, of the warp's rows, 8 at a time.
template <int kDim, bool kPads>
INTFLASH_DEVICE void write_rows(const CudaCall& call, const TileThread& at,
                                const RowStates<kDim>& state) {
  using P = Place<kDim>;
  constexpr std::int32_t kOwn = kWarpRows / 2 / kSides<kDim>;  // of the 8 rows
  const std::int32_t dim = head_dim_v_of<kDim, kPads>(call);
  const float* const center = call.centers.value_of(at.request->tensor_batch, at.kv_head, dim);
  const std::size_t first_byte = P::kDots + at.warp * P::kDotBytes;
  const Shared<float> out(first_byte);
  const std::size_t own_byte = first_byte + static_cast<std::size_t>(at.side * kOwn * dim) * 4;
  INTFLASH_UNROLL
  for (std::int32_t h = 0; h < 2; ++h) {
    const SunkRow sunk = add_sink(call, at, at.first_row + at.lane.group + 8 * h,
                                  state.reference[h], state.row_sum[h]);
    const OutScale scale = out_scale(call, sunk, center);
    const OutScale scales[2] = {scale.of_lane(8 * at.lane.quad),
                                scale.of_lane(8 * at.lane.quad + 4)};
    sync_rows<kDim>();
    INTFLASH_UNROLL
    for (std::int32_t t = 0; t < RowStates<kDim>::kTiles; ++t) {
      INTFLASH_UNROLL
      for (std::int32_t i = 0; i < 4; ++i) {
        const std::int32_t c =
            RowStates<kDim>::channel_of(at.lane, at.side * RowStates<kDim>::kTiles + t, i);
        if (kPads && c >= dim) continue;
        out.store(RowStates<kDim>::row_of(at.lane, i) * dim + c,
                  scales[i % 2].apply(state.accumulator[t][h][i], center, c));
      }
    }
    sync_rows<kDim>();
    if (call.rotates_values) transform_rows(Shared<float>(own_byte), kOwn, dim, at.lane.index);
    for (std::int32_t r = 0; r < kOwn; ++r) {
      const std::int32_t group = at.side * kOwn + r;
      const std::int32_t lane = 4 * group;  // one that has the row
      const SunkRow of_row = {lane_value(sunk.reference, lane), lane_value(sunk.row_sum, lane),
                              sunk.times, lane_value(sunk.share, lane)};
      const bool is_active = lane_value(scale.factor, lane) > 0.0f;
      const std::int32_t row = at.first_row + group + 8 * h;
      if (row > at.last_row) break;
      write_row(call, at, row, Shared<float>(own_byte + static_cast<std::size_t>(r * dim) * 4), dim,
                center, of_row, is_active);
    }
  }
}

}  // namespace
}  // namespace intflash::internal
