// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Attention of a tile of query rows over pages: four warps of 16 rows, or pairs of them, pass over
// the keys that they see, block by block and span by span, in the order of docs/numerics.md.
#pragma once

#include <cstdint>

#include "cuda/head_pages.h"
#include "cuda/products.h"
#include "cuda/row_state.h"
#include "cuda/score_acts.h"
#include "cuda/shared_rows.h"
#include "cuda/simt.h"
#include "cuda/tile_block.h"
#include "cuda/tile_out.h"
#include "cuda/tile_rows.h"
#include "cuda/whole_block.h"

namespace intflash::internal {
namespace {

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
  return {first + index * tile_state_bytes(kDim), at.thread, kThreads<kDim>};
}

// Adds second digits to the products that were stored, where rows take them.
template <int kDim, bool kPads, class Masks>
INTFLASH_DEVICE void add_second_digits(const CudaCall& call, const TileThread& at,
                                       const Masks& masks, const HeadPages<kDim, kPads>& pages,
                                       std::int32_t block) {
  const std::uint32_t taking = digit_rows<kDim>(masks, pages.scales(block, at.lane.index),
                                                block * kScoreBlock, at.lane, at.warp);
  if (taking == 0) return;
  add_digit_products<kDim>({at.words_of_row(call, call.query_codes, at.lane.group),
                            at.words_of_row(call, call.query_codes, at.lane.group + 8)},
                           {at.words_of_row(call, call.query_digits, at.lane.group),
                            at.words_of_row(call, call.query_digits, at.lane.group + 8)},
                           {pages.digits(2 * block), pages.digits(2 * block + 1)}, taking, at.lane,
                           at.warp, at.side);
}

// A tile's warp as it passes over blocks of keys.
template <int kDim, bool kDigits, bool kActs, bool kPads>
class TilePass {
 public:
  INTFLASH_DEVICE TilePass(const CudaCall& call, const TileThread& at)
      : call_(call),
        at_(at),
        pages_{call, call.pages, call.pages.first + at.kv_head * call.pages.head_bytes,
               call.blocks + at.request->first_entry} {
    const std::uint32_t* const codes = at.words_of_row(call, call.query_codes, at.lane.group);
    const std::uint32_t* const codes_8 = at.words_of_row(call, call.query_codes, at.lane.group + 8);
    INTFLASH_UNROLL
    for (std::int32_t step = 0; step < kSteps<kDim>; ++step)
      load_rows(codes, codes_8, 8 * step + at.lane.quad, has_upper_half<kDim>(step), query_[step]);
  }

  // All blocks of a range, in order: leaves the state of each span to those that wait.
  INTFLASH_DEVICE void attend(BlockRange range, WaitingStates<kDim>& waiting,
                              RowStates<kDim>& state) const {
    pages_.copy_keys(range.begin, at_.thread);
    pages_.copy_values(range.begin, at_.thread);
    for (std::int32_t block = range.begin; block < range.end;) {
      const std::int32_t span = block / kBlocksPerSpan;
      const std::int32_t end = min_of((span + 1) * kBlocksPerSpan, range.end);
      state.clear();
      for (; block < end; ++block) attend_block(block, block + 1 == range.end, state);
      if (!at_.is_idle()) waiting.push(span, state);
    }
  }

 private:
  static constexpr bool kIsShared = kSides<kDim> == 2;

  // The values may come later.
  static INTFLASH_DEVICE void wait_keys() {
    wait_copies<1>();
    sync_block();
  }
  INTFLASH_DEVICE void attend_block(std::int32_t block, bool is_last,
                                    RowStates<kDim>& state) const {
    // Rows' own warp reads the keys' factors behind the next barrier; two that share them, before
    // it.
    if constexpr (!kIsShared) wait_keys();
    const std::int32_t first_key = block * kScoreBlock;
    const KeyFactors factors(Place<kDim>::kFactors);
    const auto masks = masks_of<kActs>(call_, at_);
    // Scales are loaded again where they are used again: they would stay in eight registers.
    const auto scales = pages_.scales_and_own(block, at_.lane.index, at_.warp);
    const WholeBlock whole =
        prepare_whole_block(scales.first, scales.own, at_.lane.index, at_.warp, at_.side, factors);
    if constexpr (kIsShared) wait_keys();
    const TileRows<kDim> rows(at_.warp * kWarpRows);
    const ThreadScales row_scales = scales_of_rows(rows, at_.lane, whole, first_key);
    bool are_plain = !warp_any(!row_scales.are_plain);
    if constexpr (kActs) are_plain = are_plain && masks.leave_whole(first_key);
    BlockProducts<kDim> products;
    if (at_.is_idle()) {
      products.set_any();
    } else {
      products = multiply_keys<kDim>(query_, at_.lane, at_.side);
      if (!are_plain) {
        store_products<kDim>(products, at_.lane, at_.warp, at_.side);
        products.set_any();  // so that they are in no registers for longer
        if constexpr (kDigits) {
          if (call_.has_digits()) add_second_digits<kDim, kPads>(call_, at_, masks, pages_, block);
        }
      }
    }
    // The lane is made again: what it makes of places stays in no registers for longer.
    SharedRows<kDim> shared(lane_of(made_once(at_.thread)), at_.warp, at_.side);
    if constexpr (kIsShared) {
      if (are_plain) shared.begin(products, row_scales, factors);
    }
    sync_block();
    if (!is_last) pages_.copy_keys(block + 1, at_.thread);
    ThreadWeights weights;
    if (!are_plain) {
      weigh_rows<kDim>(masks, pages_.scales(block, at_.lane.index), first_key, at_.lane, at_.warp,
                       at_.side);
      sync_warp();
      if constexpr (!kIsShared) weights = load_weights<kDim>(at_.lane, at_.warp, state);
    } else if constexpr (kIsShared) {
      shared.weigh(products, factors);
    } else {
      weights = weigh_whole_rows<kDim>(products, row_scales, whole, at_.lane.quad, factors,
                                       PowerTable(Place<kDim>::kPowers), state);
    }
    if (is_last) {
      wait_copies<0>();
    } else {
      wait_copies<1>();
    }
    sync_block();
    if constexpr (kIsShared)
      weights = are_plain ? shared.weights(whole, factors, state)
                          : load_weights<kDim>(at_.lane, at_.warp, state);
    if (!at_.is_idle()) add_values<kDim>(at_.lane, at_.side, weights, state);
    sync_block();
    if (!is_last) pages_.copy_values(block + 1, at_.thread);
  }

  const CudaCall& call_;
  const TileThread& at_;
  HeadPages<kDim, kPads> pages_;
  std::uint32_t query_[kSteps<kDim>][4];
};

// The state of a part of a tile's keys.
INTFLASH_DEVICE std::int64_t part_state(const TileThread& at, std::int64_t part) {
  return at.request->first_state + at.tile * at.request->num_parts + part;
}

template <int kDim>
INTFLASH_DEVICE TileThread thread_of_item(const CudaCall& call, std::int32_t item) {
  const CudaRequest& request = call.requests[request_of(call, &CudaRequest::first_item, item)];
  const auto own = static_cast<std::int32_t>(item - request.first_item);
  const auto parts = static_cast<std::int32_t>(request.num_parts);
  return tile_thread<kDim>(call, request, own / parts, own % parts);
}

// An item of a block of threads: its state of the tile's part, or the tile's result.
template <int kDim, bool kDigits, bool kActs, bool kPads>
INTFLASH_DEVICE void attend_item(const CudaCall& call, std::int32_t item, std::int32_t worker) {
  const TileThread at = thread_of_item<kDim>(call, item);
  const TileRows<kDim> rows(0);
  if (at.thread < kCudaTileRows)
    rows.store(at.thread, make_row(call, *at.request, at.kv_head, at.first_tile_row + at.thread,
                                   head_dim_of<kDim, kPads>(call)));
  WaitingStates<kDim> waiting(slots_of<kDim>(call.states, worker * call.waiting_states, at));
  RowStates<kDim> state;
  const BlockRange range = seen_blocks(call, at);
  if (range.begin < range.end)
    TilePass<kDim, kDigits, kActs, kPads>(call, at).attend(range, waiting, state);
  waiting.finish(state);
  // Found again: in registers it would be there for all blocks of keys.
  const TileThread again = thread_of_item<kDim>(call, made_once(item));
  if (again.request->num_parts > 1) {
    slots_of<kDim>(call.part_states, part_state(again, again.part), again).store(0, 0, state);
  } else {
    write_rows<kDim, kPads>(call, again, state);
  }
}

// Few blocks take all items in turn, so that few states wait at a time. The last come first: below
// a causal mask they see most.
// kActs: whether anything but rules may act on scores, or hide keys. kPads: whether heads may have
// fewer channels than kDim.
template <int kDim, bool kDigits, bool kActs, bool kPads>
INTFLASH_KERNEL(kThreads<kDim>)
attend_tiles(CudaCall call) {
  if (call.findings->refused != 0) return;
  PowerTable(Place<kDim>::kPowers).fill(thread_place());
  const std::int32_t worker = block_place().x;
  const auto items = static_cast<std::int32_t>(call.num_items);
  const auto workers = static_cast<std::int32_t>(call.num_workers);
  for (std::int32_t item = items - 1 - worker; item >= 0; item -= workers) {
    // Warps may be an item ahead of each other: what they share is read between barriers of its
    // own.
    attend_item<kDim, kDigits, kActs, kPads>(call, item, worker);
  }
}

}  // namespace
}  // namespace intflash::internal
