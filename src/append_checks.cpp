// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include <bit>
#include <cmath>

#include "append.h"
#include "checks.h"
#include "rope.h"
#include "token_rows.h"

namespace intflash {
namespace {

// Beyond these the f32 arithmetic of scores and outputs would leave its range.
constexpr float kMaxKey = 0x1p100f;
constexpr float kMaxValue = 0x1p90f;

intflash_status check_new_tokens(const TensorView& view) {
  const intflash_status status = check_kv_dtype(view.name, view.dtype, view.dim, false);
  return status == INTFLASH_OK ? check_tensor(view) : status;
}

// The error for the lowest bad element of one head's new tokens.
intflash_status report_bad_token(const char* name, const intflash_tensor& tensor,
                                 intflash_dtype dtype, std::int64_t request, std::int64_t head,
                                 std::int64_t first, std::int64_t count, std::int64_t dim,
                                 float limit) {
  float buffer[kMaxHeadDim];
  for (std::int64_t token = 0; token < count; ++token) {
    const float* row = widened_token(tensor, dtype, 0, head, first + token, dim, buffer);
    for (std::int64_t c = 0; c < dim; ++c) {
      if (std::fabs(row[c]) < limit) continue;
      return fail(std::isfinite(row[c]) ? INTFLASH_SCORE_OVERFLOW : INTFLASH_NONFINITE_INPUT,
                  "%s[request %lld][token %lld][head %lld][%lld] = %g: must be finite and below %g",
                  name, static_cast<i64>(request), static_cast<i64>(token), static_cast<i64>(head),
                  static_cast<i64>(c), static_cast<double>(row[c]), static_cast<double>(limit));
    }
  }
  return INTFLASH_OK;
}

}  // namespace

intflash_status check_append_args(const intflash_cache* cache, const intflash_append_args* args,
                                  bool own_pages) {
  if (cache == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "cache = NULL: create one first");
  if (args == nullptr || args->struct_size != sizeof *args) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "args: must point to a struct with struct_size = sizeof(intflash_append_args) = "
                "%zu",
                sizeof *args);
  }
  if (args->token_indptr == nullptr || (!own_pages && args->kv_lens == nullptr))
    return fail(INTFLASH_INVALID_ARGUMENT, "token_indptr and kv_lens: must not be NULL");
  intflash_status status = check_extent("num_requests", args->num_requests, 0);
  if (status != INTFLASH_OK) return status;
  if (args->token_indptr[0] != 0) {
    return fail(INTFLASH_BAD_SHAPE, "token_indptr[0] = %lld: must be 0",
                static_cast<i64>(args->token_indptr[0]));
  }
  for (std::int64_t r = 0; r < args->num_requests; ++r) {
    if (args->token_indptr[r + 1] >= args->token_indptr[r] &&
        args->token_indptr[r + 1] <= kMaxExtent)
      continue;
    return fail(INTFLASH_BAD_SHAPE, "token_indptr[%lld] = %lld: must be %lld ... %lld",
                static_cast<i64>(r + 1), static_cast<i64>(args->token_indptr[r + 1]),
                static_cast<i64>(args->token_indptr[r]), static_cast<i64>(kMaxExtent));
  }
  const std::int64_t tokens = args->token_indptr[args->num_requests];
  status = check_new_tokens(
      {"key", &args->key, args->key_dtype, 1, cache->num_kv_heads, tokens, cache->layout.head_dim});
  if (status != INTFLASH_OK) return status;
  status = check_new_tokens({"value", &args->value, args->value_dtype, 1, cache->num_kv_heads,
                             tokens, cache->layout.head_dim_v});
  return status == INTFLASH_OK ? check_rope(args->rope, cache->layout.head_dim) : status;
}

intflash_status check_tokens(const Append& append) {
  const intflash_append_args& args = append.args;
  const PageLayout& layout = append.cache.layout;
  for (std::int64_t r = 0; r < args.num_requests; ++r) {
    const std::int64_t first = append.first_token(r);
    const std::int64_t count = append.count(r);
    const std::int64_t kv_len = append.kv_len(r);
    const intflash_status status = check_rope_positions(args.rope, r, kv_len, kv_len + count);
    if (status != INTFLASH_OK) return status;
    for (std::int64_t h = 0; count > 0 && h < append.cache.num_kv_heads; ++h) {
      const auto magnitude = [&](const intflash_tensor& tensor, intflash_dtype dtype,
                                 std::int64_t dim) {
        return std::bit_cast<float>(
            append.kernels().max_magnitude(rows_of(tensor, dtype, 0, h, first), count, dim));
      };
      // A NaN compares as false.
      if (!(magnitude(args.key, args.key_dtype, layout.head_dim) < kMaxKey)) {
        return report_bad_token("key", args.key, args.key_dtype, r, h, first, count,
                                layout.head_dim, kMaxKey);
      }
      if (!(magnitude(args.value, args.value_dtype, layout.head_dim_v) < kMaxValue)) {
        return report_bad_token("value", args.value, args.value_dtype, r, h, first, count,
                                layout.head_dim_v, kMaxValue);
      }
    }
  }
  return INTFLASH_OK;
}

}  // namespace intflash
