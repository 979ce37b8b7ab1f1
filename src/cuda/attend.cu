// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Attention of a tile of query rows over pages: four warps of 16 rows pass over the keys that they
// see, block by block and span by span, in the order of docs/numerics.md.
#include "cuda/enqueue.h"
#include "cuda/head_pages.h"
#include "cuda/products.h"
#include "cuda/row_state.h"
#include "cuda/simt.h"
#include "cuda/tensor_row.h"
#include "cuda/tile_block.h"
#include "cuda/tile_rows.h"
#include "cuda/transform.h"
#include "cuda/whole_block.h"
#include "tile/hadamard.h"
#include "tile/log_sum_exp.h"
#include "tile/state.h"

namespace intflash::internal {
namespace {

// What centring took from the scores of a request's row.
INTFLASH_DEVICE double center_score(const CudaCall& call, const TileThread& at, std::int64_t row) {
  return call.center_score == nullptr
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
template <int kDim>
INTFLASH_DEVICE void write_rows(const CudaCall& call, const TileThread& at,
                                const RowStates<kDim>& state) {
  using P = Place<kDim>;
  const Shared<float> out(P::kDots + at.warp * P::kDotBytes);
  const Shared<RowOutcome> outcomes(P::kOutcomes + at.warp * kWarpRows * sizeof(RowOutcome));
  const float* const center =
      call.value_center == nullptr ? nullptr : call.value_center + at.kv_head * kDim;
  sync_warp();
  INTFLASH_UNROLL
  for (std::int32_t h = 0; h < 2; ++h) {
    // A row that saw no key has row_sum 0: its out is 0, where dividing would give NaN.
    const std::int32_t row = at.lane.group + 8 * h;
    const SunkRow sunk =
        add_sink(call, at, at.first_row + row, state.reference[h], state.row_sum[h]);
    const float factor = sunk.row_sum > 0.0f ? kRowSumOfOut / sunk.row_sum : 0.0f;
    const bool is_fused = center != nullptr && !call.rotates_values && factor > 0.0f;
    if (at.lane.quad == 0)
      outcomes.store(row, {{sunk.reference, sunk.row_sum, sunk.share}, factor > 0.0f ? 1 : 0});
    INTFLASH_UNROLL
    for (std::int32_t t = 0; t < kDim / 16; ++t) {
      INTFLASH_UNROLL
      for (std::int32_t i = 0; i < 4; ++i) {
        const std::int32_t c = t * 16 + 4 * at.lane.quad + i;
        const float x = state.accumulator[t][h][i] * sunk.times;
        out.store(row * kDim + c, is_fused ? fused(x, factor, center[c] * sunk.share) : x * factor);
      }
    }
  }
  sync_warp();
  if (call.rotates_values) transform_rows(out, kWarpRows, kDim, at.lane.index);
  const float times = transform_factor(kDim);
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
    for (std::int32_t c = at.lane.index; c < kDim; c += kWarpThreads) {
      float x = out.load(r * kDim + c);
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

// ---- Kernels ----

// Blocks of the part's keys that some row of the tile sees.
struct BlockRange {
  std::int32_t begin, end;
};
INTFLASH_DEVICE BlockRange seen_blocks(const CudaCall& call, const TileThread& at) {
  const CudaRequest& request = *at.request;
  const std::int64_t first = (request.first_part + at.part) * call.spans_per_part * kBlocksPerSpan;
  const std::int64_t begin = first_seen(request, at.first_tile_row / call.group_size) / kScoreBlock;
  const std::int64_t end = ceil_div(end_seen(request, at.last_row / call.group_size), kScoreBlock);
  return {static_cast<std::int32_t>(max_of(begin, first)),
          static_cast<std::int32_t>(min_of(end, first + call.spans_per_part * kBlocksPerSpan))};
}

template <int kDim>
INTFLASH_DEVICE StateSlots<kDim> slots_of(char* first, std::int64_t index, const TileThread& at) {
  return {first + index * tile_state_bytes(kDim), at.thread, kThreads};
}

// Adds second digits to the products that were stored, where rows take them.
template <int kDim>
INTFLASH_DEVICE void add_second_digits(const CudaCall& call, const TileThread& at,
                                       const HeadPages<kDim>& pages, std::int32_t block,
                                       const std::uint32_t (&query)[kSteps<kDim>][4]) {
  const std::uint32_t taking =
      digit_rows<kDim>(pages.scales(block, at.lane.index), block * kScoreBlock, at.lane, at.warp);
  if (taking == 0) return;
  add_digit_products<kDim>(query,
                           {at.words_of_row(call, call.query_digits, at.lane.group),
                            at.words_of_row(call, call.query_digits, at.lane.group + 8)},
                           {pages.digits(2 * block), pages.digits(2 * block + 1)}, taking, at.lane,
                           at.warp);
}

// All blocks of a range, in order: leaves the state of each span to those that wait.
template <int kDim, bool kDigits>
INTFLASH_DEVICE void attend_blocks(const CudaCall& call, const TileThread& at, BlockRange range,
                                   WaitingStates<kDim>& waiting, RowStates<kDim>& state) {
  std::uint32_t query[kSteps<kDim>][4];
  const std::uint32_t* const codes = at.words_of_row(call, call.query_codes, at.lane.group);
  const std::uint32_t* const codes_8 = at.words_of_row(call, call.query_codes, at.lane.group + 8);
  INTFLASH_UNROLL
  for (std::int32_t step = 0; step < kSteps<kDim>; ++step)
    load_rows(codes, codes_8, 8 * step + at.lane.quad, has_upper_half<kDim>(step), query[step]);
  const HeadPages<kDim> pages = {call.pages, call.pages.first + at.kv_head * call.pages.head_bytes,
                                 call.blocks + at.request->first_entry};
  const Shared<TileRow> rows(Place<kDim>::kRows + at.warp * kWarpRows * sizeof(TileRow));
  const Shared<KeyFactors> factors(Place<kDim>::kFactors);
  pages.copy_keys(range.begin, at.thread);
  pages.copy_values(range.begin, at.thread);
  state.clear();
  for (std::int32_t block = range.begin; block < range.end; ++block) {
    const bool is_last = block + 1 == range.end;
    wait_copies<1>();  // for keys; the values may come later
    sync_block();
    const std::int32_t first_key = block * kScoreBlock;
    // Scales are loaded again where they are used again: they would stay in eight registers.
    const WholeBlock whole =
        prepare_whole_block(pages.scales(block, at.lane.index), at.lane.index, at.warp, factors);
    const ThreadScales row_scales = scales_of_rows(rows, at.lane, whole, first_key);
    const bool are_plain = !warp_any(!row_scales.are_plain);
    BlockProducts products{};
    if (!at.is_idle()) products = multiply_keys<kDim>(query, at.lane);
    if (!are_plain) store_products<kDim>(products, at.lane, at.warp);
    if constexpr (kDigits) {
      if (!are_plain) add_second_digits<kDim>(call, at, pages, block, query);
    }
    sync_block();
    if (!is_last) pages.copy_keys(block + 1, at.thread);
    ThreadWeights weights;
    if (are_plain) {
      weights = weigh_whole_rows(products, row_scales, whole, at.lane.quad, factors);
    } else {
      weigh_rows<kDim>(pages.scales(block, at.lane.index), first_key, at.lane, at.warp);
      sync_warp();
      weights = load_weights<kDim>(at.lane, at.warp);
    }
    if (is_last) {
      wait_copies<0>();
    } else {
      wait_copies<1>();
    }
    sync_block();
    if (!at.is_idle()) add_values<kDim>(at.lane, weights, state);
    sync_block();
    if (!is_last) pages.copy_values(block + 1, at.thread);
    if (block % kBlocksPerSpan == kBlocksPerSpan - 1 || is_last) {
      if (!at.is_idle()) waiting.push(block / kBlocksPerSpan, state);
      state.clear();
    }
  }
}

// The state of a part of a tile's keys.
INTFLASH_DEVICE std::int64_t part_state(const TileThread& at, std::int64_t part) {
  return at.request->first_state + at.tile * at.request->num_parts + part;
}

// An item of a block of threads: its state of the tile's part, or the tile's result.
template <int kDim, bool kDigits>
INTFLASH_DEVICE void attend_item(const CudaCall& call, std::int32_t item, std::int32_t worker) {
  const CudaRequest& request = call.requests[request_of(call, &CudaRequest::first_item, item)];
  const auto own = static_cast<std::int32_t>(item - request.first_item);
  const auto parts = static_cast<std::int32_t>(request.num_parts);
  const TileThread at = tile_thread(call, request, own / parts, own % parts);
  const Shared<TileRow> rows(Place<kDim>::kRows);
  if (at.thread < kCudaTileRows)
    rows.store(at.thread, make_row(call, request, at.kv_head, at.first_tile_row + at.thread, kDim));
  WaitingStates<kDim> waiting(slots_of<kDim>(call.states, worker * call.waiting_states, at));
  RowStates<kDim> state;
  const BlockRange range = seen_blocks(call, at);
  if (range.begin < range.end) attend_blocks<kDim, kDigits>(call, at, range, waiting, state);
  waiting.finish(state);
  if (at.request->num_parts > 1) {
    slots_of<kDim>(call.part_states, part_state(at, at.part), at).store(0, 0, state);
  } else {
    write_rows<kDim>(call, at, state);
  }
}

// Few blocks take all items in turn, so that few states wait at a time. The last come first: below
// a causal mask they see most.
template <int kDim, bool kDigits>
INTFLASH_KERNEL(kThreads)
attend_tiles(CudaCall call) {
  const std::int32_t worker = block_place().x;
  const auto items = static_cast<std::int32_t>(call.num_items);
  const auto workers = static_cast<std::int32_t>(call.num_workers);
  for (std::int32_t item = items - 1 - worker; item >= 0; item -= workers) {
    // Warps may be an item ahead of each other: what they share is read between barriers of its
    // own.
    attend_item<kDim, kDigits>(call, item, worker);
  }
}

// The states of tiles' parts, which are nodes of the tree.
template <int kDim>
INTFLASH_KERNEL(kThreads)
merge_parts(CudaCall call) {
  const std::int32_t worker = block_place().x;
  const auto merges = static_cast<std::int32_t>(call.num_merges);
  for (std::int32_t merge = worker; merge < merges;
       merge += static_cast<std::int32_t>(call.num_workers)) {
    const CudaRequest& request = call.requests[request_of(call, &CudaRequest::first_merge, merge)];
    const TileThread at =
        tile_thread(call, request, static_cast<std::int32_t>(merge - request.first_merge), 0);
    WaitingStates<kDim> waiting(slots_of<kDim>(call.states, worker * call.waiting_states, at));
    RowStates<kDim> state;
    for (std::int32_t part = 0; part < request.num_parts; ++part) {
      slots_of<kDim>(call.part_states, part_state(at, part), at).load(0, state);
      waiting.push(static_cast<std::int32_t>(request.first_part) + part, state);
    }
    waiting.finish(state);
    write_rows<kDim>(call, at, state);
  }
}

template <int kDim>
cudaError_t enqueue(const CudaCall& call) {
  Grid grid = {min_of(call.num_items, call.num_workers), 1, 1, kThreads, Place<kDim>::kBytes};
  const cudaError_t error =
      launch(call.has_digits() ? attend_tiles<kDim, true> : attend_tiles<kDim, false>, grid,
             call.stream, call);
  if (error != cudaSuccess || call.num_merges == 0) return error;
  grid.x = min_of(call.num_merges, call.num_workers);
  return launch(merge_parts<kDim>, grid, call.stream, call);
}

}  // namespace

cudaError_t enqueue_attend(const CudaCall& call) {
  if (call.num_items == 0) return cudaSuccess;
  switch (call.head_dim) {
    case 64:
      return enqueue<64>(call);
    case 80:
      return enqueue<80>(call);
    case 96:
      return enqueue<96>(call);
    case 128:
      return enqueue<128>(call);
    default:
      return cudaErrorInvalidValue;
  }
}

cudaError_t check_attend() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(attend_tiles<64, false>));
}

}  // namespace intflash::internal
