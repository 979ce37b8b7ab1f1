// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The validated, immutable description of one attention call.
#pragma once

#include <cstdint>

#include "core/checks.h"
#include "core/mask.h"
#include "core/rotation.h"
#include "intflash/intflash.h"
#include "tile/types.h"

namespace intflash::internal {

struct Problem {
  intflash_mode mode;
  std::int64_t batch;
  std::int64_t num_query_heads;
  std::int64_t num_kv_heads;
  std::int64_t group_size;  // query heads that share one kv head
  std::int64_t query_len;
  std::int64_t kv_len;
  std::int64_t head_dim;
  std::int64_t head_dim_v;
  intflash_dtype query_dtype;
  intflash_dtype key_dtype;
  intflash_dtype value_dtype;
  intflash_dtype out_dtype;
  MaskRule mask;
  float softmax_scale;
  float score_cap;  // 0 = none
  bool center_key;
  bool center_value;
  Rotation rotation;
  std::int32_t digits_above;  // as in QueryTile

  // Queries and keys are codes of INT8.
  bool is_quantized() const { return internal::is_quantized(mode); }
  bool has_f16_values() const { return mode == INTFLASH_MODE_INT8_QK; }
  // Of values as they are packed.
  std::int64_t value_row_bytes() const { return has_f16_values() ? 2 * head_dim_v : head_dim_v; }
  bool has_digits() const { return digits_above != kNoDigits; }
  bool all_take_digits() const { return digits_above < kFinestExponent; }
  bool is_empty() const { return batch == 0 || query_len == 0; }
};

// Fills problem from desc, or sets the last error and returns a status.
intflash_status make_problem(const intflash_attend_desc* given, Problem& problem);

// score_digits as given: digits_above of an INT8 call that may have second digits; or the error.
intflash_status choose_digits(std::int32_t score_digits, bool may_have_digits,
                              std::int32_t& digits_above);

// What a run does: all of it, or one of the two halves. A batch's keys lie in a cache: it is whole.
enum class RunPart { kAll, kPack, kAttendPacked };
// Copies args, and checks its pointers and strides against problem. What they point to is checked
// where it is first read.
intflash_status read_args(const Problem& problem, const intflash_attend_args* given, RunPart part,
                          intflash_attend_args& args);

}  // namespace intflash::internal
