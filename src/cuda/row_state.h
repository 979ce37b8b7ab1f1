// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What 16 rows have seen so far, in the registers of their warp's threads, or of two, and the
// states of spans before them that wait to be merged, in the device's memory. src/tile/state.h and
// src/states/span_tree.h have the same of the CPU.
#pragma once

#include <cstdint>

#include "cuda/products.h"
#include "cuda/simt.h"
#include "tile/state.h"

namespace intflash::internal {
namespace {

// A number of each row whose accumulators a thread has, from the threads that have it by row.
class SumRows {
 public:
  // own: of rows group and group + 8; by all lanes.
  INTFLASH_DEVICE SumRows(const float (&own)[2], std::int32_t quad) {
    INTFLASH_UNROLL
    for (std::int32_t h = 0; h < 2; ++h) {
      INTFLASH_UNROLL
      for (std::int32_t j = 0; j < 2; ++j) of_[h][j] = lane_value(own[h], 8 * quad + 4 * j);
    }
  }
  // Of accumulator[t][h][i].
  INTFLASH_DEVICE float of(std::int32_t h, std::int32_t i) const { return of_[h][i % 2]; }

 private:
  float of_[2][2];
};

// References and sums of rows group and group + 8. Accumulators of rows 8 h + 2 quad + i % 2 in
// channels 16 t + 2 group + i / 2 of the warp's side of them: as add_weighted has sums.
template <int kDim>
struct RowStates {
  static constexpr std::int32_t kTiles = kDim / 16 / kSides<kDim>;

  float reference[2];  // -infinity: no key yet
  float row_sum[2];
  float accumulator[kTiles][2][4];

  // Of the eight rows that h stands for.
  static INTFLASH_DEVICE std::int32_t row_of(Lane lane, std::int32_t i) {
    return 2 * lane.quad + i % 2;
  }
  static INTFLASH_DEVICE std::int32_t channel_of(Lane lane, std::int32_t t, std::int32_t i) {
    return 16 * t + 2 * lane.group + i / 2;
  }

  INTFLASH_DEVICE void clear() {
    INTFLASH_UNROLL
    for (std::int32_t h = 0; h < 2; ++h) {
      reference[h] = kNegativeInfinity;
      row_sum[h] = 0.0f;
      INTFLASH_UNROLL
      for (std::int32_t t = 0; t < kTiles; ++t) {
        INTFLASH_UNROLL
        for (std::int32_t i = 0; i < 4; ++i) accumulator[t][h][i] = 0.0f;
      }
    }
  }

  // Takes a block's sum of weights into row h; returns what P times the values' codes are worth.
  // factor: what the row's accumulators are to be multiplied by before.
  INTFLASH_DEVICE float enter(std::int32_t h, const BlockWeight& weight, float& factor) {
    if (reference[h] == kNegativeInfinity) {
      reference[h] = ceil_of(weight.exponent);
    } else if (weight.exponent - reference[h] > kMaxOverReference) {
      factor = scale_down(reference[h], ceil_of(weight.exponent));
      row_sum[h] *= factor;
      reference[h] = ceil_of(weight.exponent);
    }
    const float alpha = exp2_of(weight.exponent - reference[h]);
    row_sum[h] = fused(weight.sum, alpha, row_sum[h]);
    return alpha * weight.unit;
  }
  INTFLASH_DEVICE void scale(const SumRows& factor) {
    INTFLASH_UNROLL
    for (std::int32_t t = 0; t < kTiles; ++t) {
      INTFLASH_UNROLL
      for (std::int32_t h = 0; h < 2; ++h) {
        INTFLASH_UNROLL
        for (std::int32_t i = 0; i < 4; ++i) accumulator[t][h][i] *= factor.of(h, i);
      }
    }
  }
};

// States of a tile's rows in the device's memory, one behind the other; each thread has words of
// its own in each.
template <int kDim>
class StateSlots {
 public:
  using States = RowStates<kDim>;

  // thread: which of the tile's threads asks.
  INTFLASH_DEVICE StateSlots(char* first, std::int32_t thread, std::int32_t threads)
      : first_(reinterpret_cast<float*>(first)), thread_(thread), threads_(threads) {}

  INTFLASH_DEVICE void store(std::int32_t slot, std::int32_t node, const States& state) const {
    visit(state, [&](std::int32_t i, float x) { *word(slot, i) = x; });
    *word(slot, 0) = bits_as<float>(node);
  }
  INTFLASH_DEVICE void load(std::int32_t slot, States& state) const {
    visit(state, [&](std::int32_t i, float& x) { x = *word(slot, i); });
  }
  // The first span of the node that it is of.
  INTFLASH_DEVICE std::int32_t node(std::int32_t slot) const {
    return bits_as<std::int32_t>(*word(slot, 0));
  }

  // state = the one in a slot, merged with state, which is of later spans; by all lanes of a warp.
  INTFLASH_DEVICE void merge(std::int32_t slot, States& state) const {
    // An empty state changes nothing, not even the sign of a zero: it has no factor.
    float left_factor[2], right_factor[2];
    INTFLASH_UNROLL
    for (std::int32_t h = 0; h < 2; ++h) {
      const float left = *word(slot, kReference + h);
      const float right = state.reference[h];
      const bool is_left = right == kNegativeInfinity, is_right = left == kNegativeInfinity;
      const float reference = is_left ? left : is_right ? right : max_of(left, right);
      left_factor[h] = is_right ? kNone : is_left ? 1.0f : scale_down(left, reference);
      right_factor[h] = is_left ? kNone : is_right ? 1.0f : scale_down(right, reference);
      state.row_sum[h] =
          merged(state.row_sum[h], *word(slot, kRowSum + h), right_factor[h], left_factor[h]);
      state.reference[h] = reference;
    }
    const std::int32_t quad = lane_of(thread_).quad;
    const SumRows lefts(left_factor, quad), rights(right_factor, quad);
    INTFLASH_UNROLL
    for (std::int32_t h = 0; h < 2; ++h) {
      INTFLASH_UNROLL
      for (std::int32_t t = 0; t < States::kTiles; ++t) {
        INTFLASH_UNROLL
        for (std::int32_t i = 0; i < 4; ++i) {
          float& accumulator = state.accumulator[t][h][i];
          accumulator = merged(accumulator, *word(slot, accumulator_word(t, h, i)), rights.of(h, i),
                               lefts.of(h, i));
        }
      }
    }
  }

 private:
  static constexpr std::int32_t kReference = 1, kRowSum = 3, kAccumulators = 5;
  static constexpr std::int32_t kWords = kAccumulators + States::kTiles * 8;
  static constexpr float kNone = -1.0f;  // in place of a factor

  // `from` is of later spans than `to`.
  static INTFLASH_DEVICE float merged(float from, float to, float from_factor, float to_factor) {
    if (to_factor == kNone) return from;
    return from_factor == kNone ? to : fused(from, from_factor, to * to_factor);
  }
  static INTFLASH_DEVICE std::int32_t accumulator_word(std::int32_t t, std::int32_t h,
                                                       std::int32_t i) {
    return kAccumulators + (t * 2 + h) * 4 + i;
  }
  INTFLASH_DEVICE float* word(std::int32_t slot, std::int32_t i) const {
    return first_ + (static_cast<std::int64_t>(slot) * kWords + i) * threads_ + thread_;
  }
  // Calls with each number of a state, and its word.
  template <class State, class Call>
  static INTFLASH_DEVICE void visit(State& state, Call call) {
    INTFLASH_UNROLL
    for (std::int32_t h = 0; h < 2; ++h) {
      call(kReference + h, state.reference[h]);
      call(kRowSum + h, state.row_sum[h]);
      INTFLASH_UNROLL
      for (std::int32_t t = 0; t < States::kTiles; ++t) {
        INTFLASH_UNROLL
        for (std::int32_t i = 0; i < 4; ++i)
          call(accumulator_word(t, h, i), state.accumulator[t][h][i]);
      }
    }
  }

  float* first_;
  std::int32_t thread_, threads_;
};

// Level of the least node that two spans have in common.
INTFLASH_DEVICE std::int32_t common_level(std::int32_t a, std::int32_t b) {
  std::int32_t level = 0;
  while ((a ^ b) >> level != 0) ++level;
  return level;
}

// States of consecutive spans, or of aligned runs of 2^k of them, as they wait for others.
template <int kDim>
class WaitingStates {
 public:
  INTFLASH_DEVICE explicit WaitingStates(const StateSlots<kDim>& slots) : slots_(slots) {}

  // Merges the state of a span, which has all its keys, with those that it completes a node with.
  INTFLASH_DEVICE void push(std::int32_t span, RowStates<kDim>& state) {
    std::int32_t level = 0;
    while ((span >> level & 1) != 0) ++level;
    std::int32_t node = span;
    while (size_ > 0 && common_level(top_, node) <= level) {
      node = top_;
      pop_into(state);
    }
    slots_.store(size_++, node, state);
    top_ = node;
  }
  // Once all spans are there: the state of them all, or an empty one.
  INTFLASH_DEVICE void finish(RowStates<kDim>& state) {
    state.clear();
    while (size_ > 0) pop_into(state);
  }

 private:
  INTFLASH_DEVICE void pop_into(RowStates<kDim>& state) {
    slots_.merge(--size_, state);
    if (size_ > 0) top_ = slots_.node(size_ - 1);
  }

  StateSlots<kDim> slots_;
  std::int32_t size_ = 0;
  std::int32_t top_ = 0;  // the first span of the last state's node
};

}  // namespace
}  // namespace intflash::internal
