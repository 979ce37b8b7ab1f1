// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The states of the spans that a call goes through, one after the other: the first may be the
// call's own, each other one is a part that is merged into it. References and sums of the span at
// work are in scratch.
#pragma once

#include <cstdint>

#include "amx/rows.h"
#include "tile/state.h"

namespace intflash {
namespace {

class SpanStates {
 public:
  INTFLASH_INLINE SpanStates(const TileTask& task, AmxScratch& scratch)
      : scratch_(scratch),
        total_(task.state),
        part_(task.part),
        at_work_(task.state),
        rows_(task.query->rows),
        head_dim_v_(task.head_dim_v) {
    at_work_.reference = part_.reference = scratch.reference;
    at_work_.row_sum = part_.row_sum = scratch.row_sum;
    if (has_parts() && task.continues != 0) begin_part();
  }

  INTFLASH_INLINE const AttentionState& at_work() const { return at_work_; }
  // Whether block b is the first of a further span.
  INTFLASH_INLINE bool begins_span(std::int32_t b) const {
    return has_parts() && b > 0 && b % (kSpanTokens / kScoreBlock) == 0;
  }
  INTFLASH_NOINLINE void next_span() {
    end_span();
    begin_part();
  }
  INTFLASH_NOINLINE void end_span() {
    if (at_work_.accumulators == total_.accumulators) {
      for (std::int32_t r = 0; r < rows_; ++r) {
        total_.reference[r] = scratch_.reference[r];
        total_.row_sum[r] = scratch_.row_sum[r];
      }
    } else {
      merge_states(part_, total_, rows_, head_dim_v_);
    }
  }

 private:
  INTFLASH_INLINE bool has_parts() const { return part_.accumulators != nullptr; }
  INTFLASH_INLINE void begin_part() {
    at_work_ = part_;
    for (std::int32_t r = 0; r < rows_; ++r) {
      scratch_.reference[r] = kNegativeInfinity;
      scratch_.row_sum[r] = 0.0f;
    }
    __builtin_memset(part_.accumulators, 0,
                     static_cast<std::size_t>(rows_ * part_.accumulator_stride) * sizeof(float));
  }

  AmxScratch& scratch_;
  AttentionState total_;
  AttentionState part_;
  AttentionState at_work_;
  std::int32_t rows_;
  std::int32_t head_dim_v_;
};

}  // namespace
}  // namespace intflash
