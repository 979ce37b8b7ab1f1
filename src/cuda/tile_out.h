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

// Writes out, and log-sum-exp, of the warp's rows.
template <int kDim, bool kPads>
INTFLASH_DEVICE void write_rows(const CudaCall& call, const TileThread& at,
                                const RowStates<kDim>& state) {
  using P = Place<kDim>;
  const std::int32_t dim = head_dim_v_of<kDim, kPads>(call);
  const Shared<float> out(P::kDots + at.warp * P::kDotBytes);
  const Shared<RowOutcome> outcomes(P::kOutcomes + at.warp * kWarpRows * sizeof(RowOutcome));
  const float* const center = call.centers.value_of(at.request->tensor_batch, at.kv_head, dim);
  sync_warp();
  float own_factor[2], own_times[2], own_share[2];
  INTFLASH_UNROLL
  for (std::int32_t h = 0; h < 2; ++h) {
    // A row that saw no key has row_sum 0: its out is 0, where dividing would give NaN.
    const std::int32_t row = at.lane.group + 8 * h;
    const SunkRow sunk =
        add_sink(call, at, at.first_row + row, state.reference[h], state.row_sum[h]);
    own_factor[h] = sunk.row_sum > 0.0f ? kRowSumOfOut / sunk.row_sum : 0.0f;
    own_times[h] = sunk.times;
    own_share[h] = sunk.share;
    if (at.lane.quad == 0)
      outcomes.store(row,
                     {{sunk.reference, sunk.row_sum, sunk.share}, own_factor[h] > 0.0f ? 1 : 0});
  }
  const std::int32_t quad = at.lane.quad;
  const SumRows factors(own_factor, quad), times_of(own_times, quad), shares(own_share, quad);
  INTFLASH_UNROLL
  for (std::int32_t t = 0; t < kDim / 16; ++t) {
    INTFLASH_UNROLL
    for (std::int32_t h = 0; h < 2; ++h) {
      INTFLASH_UNROLL
      for (std::int32_t i = 0; i < 4; ++i) {
        const std::int32_t c = RowStates<kDim>::channel_of(at.lane, t, i);
        if (kPads && c >= dim) continue;
        const float factor = factors.of(h, i);
        const bool is_fused = center != nullptr && !call.rotates_values && factor > 0.0f;
        const float x = state.accumulator[t][h][i] * times_of.of(h, i);
        out.store(RowStates<kDim>::row_of(at.lane, h, i) * dim + c,
                  is_fused ? fused(x, factor, center[c] * shares.of(h, i)) : x * factor);
      }
    }
  }
  sync_warp();
  if (call.rotates_values) transform_rows(out, kWarpRows, dim, at.lane.index);
  const float times = transform_factor(dim);
  const CudaRequest& request = *at.request;
  for (std::int32_t r = 0; r < kWarpRows; ++r) {
    const std::int64_t row = at.first_row + r;
    if (row > at.last_row) return;
    const RowOutcome outcome = outcomes.load(r);
    const std::int64_t query_head = at.kv_head * call.group_size + row % call.group_size;
    const std::int64_t query = row / call.group_size;
    const TensorRow to =
        row_of(call.out, request.tensor_batch, query_head, request.first_token + query);
    const bool is_rotated = call.rotates_values && outcome.is_active != 0;
    for (std::int32_t c = at.lane.index; c < dim; c += kWarpThreads) {
      float x = out.load(r * dim + c);
      const std::uint32_t flip = rotation_sign(static_cast<std::uint32_t>(c));
      if (is_rotated) x = bits_as<float>(bits_as<std::uint32_t>(x * times) ^ flip);
      if (is_rotated && center != nullptr) x += center[c] * outcome.weight.unit;
      to.store(c, x);
    }
    if (call.lse == nullptr || at.lane.index != 0) continue;
    call.lse[request.first_lse + query_head * call.lse_stride_head + query] =
        log_sum_exp_of(outcome.weight.exponent, outcome.weight.sum, center_score(call, at, row));
  }
}

}  // namespace
}  // namespace intflash::internal
