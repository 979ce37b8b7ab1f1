// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "states/state_set.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>

#include "core/checks.h"
#include "core/structs.h"
#include "states/span_tree.h"
#include "tile/float_math.h"

namespace intflash::internal {
namespace {

// "states[3]"
struct StateName {
  char text[48];

  StateName(const char* name, std::int64_t index) {
    std::snprintf(text, sizeof text, index < 0 ? "%s" : "%s[%lld]", name, static_cast<i64>(index));
  }
};

intflash_state state_at(const intflash_state_set& set, std::int64_t index) {
  return element_of(set.states, set.state_size, index);
}

// That a run may have left these numbers.
intflash_status check_numbers(const KernelTable& kernels, const intflash_state_set& set,
                              std::int64_t index) {
  const intflash_state state = state_at(set, index);
  const std::int64_t rows = set.query_len * set.num_query_heads;
  const double* center_score = state_at(set, 0).center_score;
  for (std::int64_t r = 0; r < rows; ++r) {
    const float reference = state.reference[r];
    const RowSource row = {state.accumulators + r * set.head_dim_v, Dtype::kF32, 0};
    const bool is_whole = std::isfinite(reference) && reference == std::nearbyint(reference);
    const bool is_sound = (is_whole || reference == kNegativeInfinity) && state.row_sum[r] >= 0 &&
                          std::isfinite(state.row_sum[r]) &&
                          kernels.rows->max_magnitude(row, 1, set.head_dim_v) < 0x7f800000u;
    if (!is_sound) {
      return fail(INTFLASH_NONFINITE_INPUT,
                  "states[%lld], row %lld: reference = %g, row_sum = %g: must be a whole number or "
                  "-infinity, and like its accumulators finite",
                  static_cast<i64>(index), static_cast<i64>(r), static_cast<double>(reference),
                  static_cast<double>(state.row_sum[r]));
    }
    if (state.center_score[r] == center_score[r] && std::isfinite(center_score[r])) continue;
    return fail(INTFLASH_NONFINITE_INPUT,
                "states[%lld].center_score[%lld] = %g: must be finite, and as in states[0], which "
                "has %g",
                static_cast<i64>(index), static_cast<i64>(r), state.center_score[r],
                center_score[r]);
  }
  return INTFLASH_OK;
}

}  // namespace

intflash_status check_state(const char* name, std::int64_t index, const intflash_state& state,
                            bool has_rows) {
  const StateName named(name, index);
  const auto keys = static_cast<std::uint64_t>(state.num_keys);
  if (state.rotates_values != 0 && state.rotates_values != 1) {
    return fail(INTFLASH_INVALID_ARGUMENT, "%s.rotates_values = %d: must be 0 or 1", named.text,
                state.rotates_values);
  }
  if (state.num_keys < kSpanTokens || !std::has_single_bit(keys) || state.first_key < 0 ||
      state.first_key % state.num_keys != 0 || state.first_key > kMaxExtent - state.num_keys + 1) {
    return fail(INTFLASH_BAD_SHAPE,
                "%s: %lld keys from %lld on: must be 1024 * 2^k, from a multiple of that on, below "
                "2^31",
                named.text, static_cast<i64>(state.num_keys), static_cast<i64>(state.first_key));
  }
  if (has_rows && (state.reference == nullptr || state.row_sum == nullptr ||
                   state.accumulators == nullptr || state.center_score == nullptr))
    return fail(INTFLASH_INVALID_ARGUMENT, "%s: its pointers must not be NULL", named.text);
  intflash_status status = check_pointer(named.text, ".reference", state.reference);
  if (status == INTFLASH_OK) status = check_pointer(named.text, ".row_sum", state.row_sum);
  if (status == INTFLASH_OK)
    status = check_pointer(named.text, ".accumulators", state.accumulators);
  if (status == INTFLASH_OK)
    status = check_pointer(named.text, ".center_score", state.center_score);
  return status;
}

intflash_status check_state_set(const KernelTable& kernels, const intflash_state_set& set) {
  intflash_status status = check_extent("query_len", set.query_len, 0);
  if (status == INTFLASH_OK) status = check_extent("num_query_heads", set.num_query_heads, 1);
  if (status == INTFLASH_OK) status = check_head_dim("head_dim_v", set.head_dim_v);
  if (status == INTFLASH_OK) status = check_extent("num_states", set.num_states, 0);
  if (status == INTFLASH_OK)
    status = check_elements("states", "intflash_state", set.states, set.num_states, set.state_size);
  if (status != INTFLASH_OK) return status;
  if (set.query_len > kMaxExtent / set.num_query_heads) {
    return fail(INTFLASH_SIZE_OVERFLOW,
                "query_len = %lld of num_query_heads = %lld: must be at most 2^31 - 1 rows",
                static_cast<i64>(set.query_len), static_cast<i64>(set.num_query_heads));
  }
  std::int64_t least = 0;
  for (std::int64_t i = 0; i < set.num_states; ++i) {
    const intflash_state state = state_at(set, i);
    status = check_state("states", i, state, set.query_len > 0);
    if (status != INTFLASH_OK) return status;
    if (state.rotates_values != state_at(set, 0).rotates_values) {
      return fail(INTFLASH_INVALID_ARGUMENT,
                  "states[%lld].rotates_values = %d: must be as in states[0], which has %d",
                  static_cast<i64>(i), state.rotates_values, state_at(set, 0).rotates_values);
    }
    if (state.first_key < least) {
      return fail(INTFLASH_BAD_SHAPE,
                  "states[%lld].first_key = %lld: must be at least %lld, where the keys of the "
                  "state before end",
                  static_cast<i64>(i), static_cast<i64>(state.first_key), static_cast<i64>(least));
    }
    least = state.first_key + state.num_keys;
  }
  for (std::int64_t i = 0; status == INTFLASH_OK && i < set.num_states; ++i)
    status = check_numbers(kernels, set, i);
  return status;
}

void merge_row(const KernelTable& kernels, const intflash_state_set& set, std::int64_t row,
               MergedRow& merged) {
  // Some channels at a time, so that the states that wait fit the stack.
  constexpr std::int64_t kPiece = 64;
  alignas(64) float accumulators[kMaxWaitingStates][kPiece];
  float reference[kMaxWaitingStates];
  float row_sum[kMaxWaitingStates];
  const auto waiting = [&](std::int32_t i) {
    return AttentionState{reference + i, row_sum + i, accumulators[i], kPiece};
  };
  merged.center_score = set.num_states > 0 ? state_at(set, 0).center_score[row] : 0.0;
  for (std::int64_t first = 0; first < set.head_dim_v; first += kPiece) {
    const std::int64_t dim = std::min(kPiece, set.head_dim_v - first);
    SpanTree tree;
    reference[0] = kNegativeInfinity;
    row_sum[0] = 0;
    std::fill_n(accumulators[0], dim, 0.0f);
    const auto merge = [&](std::int32_t left) {
      kernels.rows->merge_states(waiting(left + 1), waiting(left), 1,
                                 static_cast<std::int32_t>(dim));
    };
    for (std::int64_t i = 0; i < set.num_states; ++i) {
      const intflash_state state = state_at(set, i);
      tree.push(state.first_key / kSpanTokens, merge);
      const std::int32_t last = tree.size() - 1;
      reference[last] = state.reference[row];
      row_sum[last] = state.row_sum[row];
      std::copy_n(state.accumulators + row * set.head_dim_v + first, dim, accumulators[last]);
    }
    tree.finish(merge);
    merged.reference = reference[0];
    merged.row_sum = row_sum[0];
    std::copy_n(accumulators[0], dim, merged.accumulators + first);
  }
}

}  // namespace intflash::internal
