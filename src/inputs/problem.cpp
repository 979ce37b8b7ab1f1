// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "inputs/problem.h"

#include <cmath>

#include "core/structs.h"
#include "inputs/score_bias.h"
#include "machine/float_state.h"
#include "tile/limits.h"
#include "tile/types.h"

namespace intflash::internal {
namespace {

intflash_status set_center(const intflash_attend_desc& desc, Problem& problem) {
  const bool float_key = desc.key_dtype != INTFLASH_INT8;
  const bool float_value = desc.value_dtype != INTFLASH_INT8;
  switch (desc.center) {
    case INTFLASH_CENTER_NONE:
      break;
    case INTFLASH_CENTER_KEY_VALUE:
      problem.center_value = true;
      [[fallthrough]];
    case INTFLASH_CENTER_KEY:
      problem.center_key = true;
      break;
    default:
      return fail(INTFLASH_INVALID_ARGUMENT, "center = %d: must be NONE, KEY or KEY_VALUE",
                  static_cast<int>(desc.center));
  }
  if (problem.center_key && !float_key) {
    return fail(INTFLASH_UNSUPPORTED,
                "center = %d with an INT8 key: codes cannot be centred; centre before quantizing",
                static_cast<int>(desc.center));
  }
  if (problem.center_value && !float_value) {
    return fail(INTFLASH_UNSUPPORTED,
                "center = %d with an INT8 value: codes cannot be centred; centre before quantizing",
                static_cast<int>(desc.center));
  }
  return INTFLASH_OK;
}

intflash_status set_rotation(const intflash_attend_desc& desc, Problem& problem) {
  const intflash_status status =
      choose_rotation(desc.rotation, problem.head_dim, problem.head_dim_v, problem.rotation);
  if (status != INTFLASH_OK) return status;
  // Codes cannot be rotated, and the other modes do not.
  const bool quantizes = is_quantized(desc.mode);
  problem.rotation.keys = problem.rotation.keys && quantizes && desc.query_dtype != INTFLASH_INT8 &&
                          desc.key_dtype != INTFLASH_INT8;
  problem.rotation.values =
      problem.rotation.values && quantizes && desc.value_dtype != INTFLASH_INT8;
  return INTFLASH_OK;
}

intflash_status set_digits(const intflash_attend_desc& desc, Problem& problem) {
  const bool are_codes = desc.query_dtype == INTFLASH_INT8 && desc.key_dtype == INTFLASH_INT8;
  const bool may_have_digits = is_quantized(desc.mode) && !are_codes;
  return choose_digits(desc.score_digits, may_have_digits, problem.digits_above);
}

}  // namespace

intflash_status choose_digits(std::int32_t score_digits, bool may_have_digits,
                              std::int32_t& digits_above) {
  if (score_digits < 0 || score_digits > 2) {
    return fail(INTFLASH_INVALID_ARGUMENT, "score_digits = %d: must be 1, 2, or 0 for as needed",
                score_digits);
  }
  digits_above = kNoDigits;
  if (may_have_digits && score_digits == 0) digits_above = kDigitExponent;
  if (may_have_digits && score_digits == 2) digits_above = kFinestExponent - 1;
  return INTFLASH_OK;
}

intflash_status make_problem(const intflash_attend_desc* given, Problem& problem) {
  intflash_attend_desc desc;
  intflash_status status = read_struct("desc", "intflash_attend_desc", given, desc);
  if (status != INTFLASH_OK) return status;
  status = check_mode(desc.mode);
  if (status != INTFLASH_OK) return status;
  problem = Problem{};
  problem.mode = desc.mode;
  problem.batch = desc.batch;
  problem.num_query_heads = desc.num_query_heads;
  problem.num_kv_heads = desc.num_kv_heads;
  problem.query_len = desc.query_len;
  problem.kv_len = desc.kv_len;
  problem.head_dim = desc.head_dim;
  problem.head_dim_v = desc.head_dim_v == 0 ? desc.head_dim : desc.head_dim_v;
  problem.query_dtype = desc.query_dtype;
  problem.key_dtype = desc.key_dtype;
  problem.value_dtype = desc.value_dtype;
  problem.out_dtype = desc.out_dtype;
  problem.score_cap = desc.score_cap;
  problem.mask.query_len = desc.query_len;
  problem.mask.kv_len = desc.kv_len;
  status = check_extent("batch", problem.batch, 0);
  if (status == INTFLASH_OK) status = check_extent("num_query_heads", problem.num_query_heads, 1);
  if (status == INTFLASH_OK) status = check_extent("num_kv_heads", problem.num_kv_heads, 1);
  if (status == INTFLASH_OK) status = check_extent("query_len", problem.query_len, 0);
  if (status == INTFLASH_OK) status = check_extent("kv_len", problem.kv_len, 0);
  if (status == INTFLASH_OK) status = check_head_dim("head_dim", problem.head_dim);
  if (status == INTFLASH_OK) status = check_head_dim("head_dim_v", problem.head_dim_v);
  if (status == INTFLASH_OK) status = check_dtype("query_dtype", desc.query_dtype, true);
  if (status == INTFLASH_OK) status = check_kv_dtype("key", desc.key_dtype, problem.head_dim);
  if (status == INTFLASH_OK) status = check_kv_dtype("value", desc.value_dtype, problem.head_dim_v);
  if (status == INTFLASH_OK) status = check_dtype("out_dtype", desc.out_dtype, false);
  if (status == INTFLASH_OK) status = check_scalar("score_cap", desc.score_cap);
  if (status == INTFLASH_OK) status = check_softmax_scale(desc.softmax_scale);
  if (status == INTFLASH_OK)
    status =
        set_mask({desc.mask, desc.window_left, desc.window_right, desc.prefix_len}, problem.mask);
  if (status == INTFLASH_OK) status = set_center(desc, problem);
  if (status == INTFLASH_OK) status = set_rotation(desc, problem);
  if (status == INTFLASH_OK) status = set_digits(desc, problem);
  if (status != INTFLASH_OK) return status;
  if (problem.num_query_heads % problem.num_kv_heads != 0) {
    return fail(INTFLASH_BAD_SHAPE,
                "num_query_heads = %lld: must be a multiple of num_kv_heads = %lld",
                static_cast<i64>(problem.num_query_heads), static_cast<i64>(problem.num_kv_heads));
  }
  problem.group_size = problem.num_query_heads / problem.num_kv_heads;
  std::int64_t rows = 0;
  // Centres, partial sums, pages and factors of a score block of a head, and of a head without
  // keys.
  constexpr std::int64_t kMaxBlockBytes = std::int64_t{1} << 20;
  const std::int64_t blocks = problem.kv_len / kScoreBlock + 1;
  std::int64_t packed = 0;
  if (__builtin_mul_overflow(problem.batch * problem.num_query_heads, problem.query_len, &rows) ||
      __builtin_mul_overflow(problem.batch * problem.num_kv_heads, blocks, &packed) ||
      rows > INT64_MAX / (8 * kMaxHeadDim) || packed > INT64_MAX / kMaxBlockBytes) {
    return fail(
        INTFLASH_SIZE_OVERFLOW,
        "batch * heads * length does not fit the address space (kv_len = %lld, query_len = %lld)",
        static_cast<i64>(problem.kv_len), static_cast<i64>(problem.query_len));
  }
  const FloatState float_state;  // the caller may round otherwise
  problem.softmax_scale = desc.softmax_scale > 0
                              ? desc.softmax_scale
                              : 1.0f / std::sqrt(static_cast<float>(problem.head_dim));
  return INTFLASH_OK;
}

intflash_status read_args(const Problem& problem, const intflash_attend_args* given, RunPart part,
                          intflash_attend_args& args) {
  intflash_status status = read_struct("args", "intflash_attend_args", given, args);
  if (status != INTFLASH_OK) return status;
  const Problem& p = problem;
  const TensorView query = {"query",           &args.query, p.query_dtype, p.batch,
                            p.num_query_heads, p.query_len, p.head_dim};
  const TensorView key = {"key",          &args.key, p.key_dtype, p.batch,
                          p.num_kv_heads, p.kv_len,  p.head_dim};
  const TensorView value = {"value",        &args.value, p.value_dtype, p.batch,
                            p.num_kv_heads, p.kv_len,    p.head_dim_v};
  const TensorView out = {"out",       &args.out,   p.out_dtype, p.batch, p.num_query_heads,
                          p.query_len, p.head_dim_v};
  const bool reads_query = part != RunPart::kPack;
  const bool reads_kv = part != RunPart::kAttendPacked || !p.is_quantized();
  if (reads_query) status = check_tensor(query);
  if (status == INTFLASH_OK && reads_kv) status = check_tensor(key);
  if (status == INTFLASH_OK && reads_kv) status = check_tensor(value);
  if (status == INTFLASH_OK && reads_query) status = check_tensor(out);
  if (status == INTFLASH_OK && reads_query) status = check_no_overlap(out);
  if (status == INTFLASH_OK) status = check_pointer("lse", args.lse);
  if (status == INTFLASH_OK) status = check_pointer("key_center", args.key_center);
  if (status == INTFLASH_OK) status = check_pointer("value_center", args.value_center);
  if (status == INTFLASH_OK) status = check_pointer("sinks", args.sinks);
  if (status == INTFLASH_OK && args.sinks != nullptr && p.mode == INTFLASH_MODE_INTFA)
    status = fail(INTFLASH_UNSUPPORTED, "sinks with mode INTFA: the algorithm knows none");
  if (status == INTFLASH_OK)
    status = check_additive_mask("additive_mask", args.additive_mask, p.batch, p.num_query_heads,
                                 p.mask);
  if (status == INTFLASH_OK) status = check_pointer("alibi_slopes", args.alibi_slopes);
  if (status == INTFLASH_OK) status = check_bit_mask("bit_mask", args.bit_mask, p.kv_len);
  const ScoreBias bias = {args.additive_mask, args.alibi_slopes, args.bit_mask, p.mask};
  if (status == INTFLASH_OK && !bias.is_empty() && p.mode == INTFLASH_MODE_INTFA)
    status =
        fail(INTFLASH_UNSUPPORTED,
             "additive_mask, alibi_slopes or bit_mask with mode INTFA: the algorithm knows none");
  return status;
}

}  // namespace intflash::internal
