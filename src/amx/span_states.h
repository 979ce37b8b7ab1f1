// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The states of the spans that a call goes through, one after the other, which lie one behind the
// other as they wait to be merged. References and sums of the span at work are in scratch.
#pragma once

#include <cstdint>

#include "amx/rows.h"
#include "tile/state.h"

namespace intflash::internal {
namespace {

class SpanStates {
 public:
  INTFLASH_INLINE SpanStates(const TileTask& task, AmxScratch& scratch)
      : scratch_(scratch),
        state_(task.state),
        stride_(task.state_stride),
        merges_(task.merges),
        rows_(task.query->rows),
        head_dim_v_(task.head_dim_v) {}

  INTFLASH_INLINE AttentionState at_work() const {
    return {scratch_.reference, scratch_.row_sum, state_.accumulators, state_.accumulator_stride};
  }
  // Whether block b is the first of a further span.
  INTFLASH_INLINE bool begins_span(std::int32_t b) const {
    return merges_ != nullptr && b > 0 && b % (kSpanTokens / kScoreBlock) == 0;
  }
  INTFLASH_NOINLINE void next_span() {
    end_span();
    for (std::int32_t left = *++merges_; left > 0; --left) {
      const AttentionState before = moved(-stride_);
      merge_states(state_, before, rows_, head_dim_v_);
      state_ = before;
    }
    state_ = moved(stride_);
    for (std::int32_t r = 0; r < rows_; ++r) {
      scratch_.reference[r] = kNegativeInfinity;
      scratch_.row_sum[r] = 0.0f;
    }
    __builtin_memset(state_.accumulators, 0,
                     static_cast<std::size_t>(rows_ * state_.accumulator_stride) * sizeof(float));
  }
  INTFLASH_NOINLINE void end_span() {
    for (std::int32_t r = 0; r < rows_; ++r) {
      state_.reference[r] = scratch_.reference[r];
      state_.row_sum[r] = scratch_.row_sum[r];
    }
  }

 private:
  INTFLASH_INLINE AttentionState moved(std::int64_t floats) const {
    return {state_.reference + floats, state_.row_sum + floats, state_.accumulators + floats,
            state_.accumulator_stride};
  }

  AmxScratch& scratch_;
  AttentionState state_;  // of the span at work, but for its references and sums
  std::int64_t stride_;
  const std::int32_t* merges_;
  std::int32_t rows_;
  std::int32_t head_dim_v_;
};

}  // namespace
}  // namespace intflash::internal
