// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What new tokens must be like for the host to store them.
#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdio>

#include "core/checks.h"
#include "host/host_storage.h"
#include "inputs/rope.h"
#include "inputs/scan.h"
#include "inputs/tensor.h"
#include "inputs/token_rows.h"
#include "threads/team.h"
#include "tile/limits.h"

namespace intflash::internal {
namespace {

// One of the two tensors of new tokens, and what its elements must be below.
struct NewTokens {
  const char* name;
  const intflash_tensor& tensor;
  intflash_dtype dtype;
  std::int64_t dim;
  float limit;

  bool are_codes() const { return dtype == INTFLASH_INT8; }
  float scale_limit() const { return limit / 127; }
};
NewTokens new_keys(const Append& append) {
  return {"key", append.args.key, append.args.key_dtype, append.cache.layout.head_dim,
          static_cast<float>(kMaxKey)};
}
NewTokens new_values(const Append& append) {
  return {"value", append.args.value, append.args.value_dtype, append.cache.layout.head_dim_v,
          static_cast<float>(kMaxValue)};
}

// A NaN compares as false.
bool has_good_scale(const NewTokens& tokens, std::int64_t head, std::int64_t token) {
  const float scale = token_scale(tokens.tensor, 0, head, token);
  if (scale != 0) return scale > 0 && scale < tokens.scale_limit();
  const auto* codes =
      static_cast<const std::int8_t*>(rows_of(tokens.tensor, tokens.dtype, 0, head, token).data);
  return std::all_of(codes, codes + tokens.dim, [](std::int8_t code) { return code == 0; });
}

bool are_good(const Append& append, const NewTokens& tokens, std::int64_t head, std::int64_t first,
              std::int64_t count) {
  const RowSource rows = rows_of(tokens.tensor, tokens.dtype, 0, head, first);
  const float largest = std::bit_cast<float>(
      append.cache.context->port->kernels->rows->max_magnitude(rows, count, tokens.dim));
  if (!tokens.are_codes()) return largest < tokens.limit;
  for (std::int64_t token = first; token < first + count; ++token)
    if (!has_good_scale(tokens, head, token)) return false;
  return largest < 128;
}

// Calls visit(first, count) for runs of a request's rows that go to the cache.
template <class Visit>
void for_each_stored(const Append& append, std::int64_t request, Visit visit) {
  const std::int64_t* slots = append.args.slots;
  const std::int64_t end = append.first_token(request) + append.count(request);
  for (std::int64_t first = append.first_token(request); first < end;) {
    std::int64_t last = slots == nullptr ? end : first;
    while (last < end && slots[last] >= 0) ++last;
    if (last > first) visit(first, last - first);
    first = std::max(last, first + 1);
  }
}

bool has_good_tokens(const Append& append, std::int64_t request, std::int64_t head) {
  bool all_good = true;
  for_each_stored(append, request, [&](std::int64_t first, std::int64_t count) {
    all_good = all_good && are_good(append, new_keys(append), head, first, count) &&
               are_good(append, new_values(append), head, first, count);
  });
  return all_good;
}

// Of rope, at the positions of all tokens that are stored.
intflash_status check_rope_tables(const Append& append) {
  const intflash_append_args& args = append.args;
  intflash_status status = INTFLASH_OK;
  for (std::int64_t r = 0; args.slots == nullptr && r < args.num_requests; ++r) {
    const std::int64_t position = append.position(r);
    if (status == INTFLASH_OK)
      status = check_rope_table(args.rope, position, position + append.count(r));
  }
  for (std::int64_t i = 0; args.slots != nullptr && i < append.num_tokens(); ++i) {
    if (status == INTFLASH_OK && args.slots[i] >= 0)
      status = check_rope_table(args.rope, args.positions[i], args.positions[i] + 1);
  }
  return status;
}

// The error for the scale or the lowest bad element of a token, which is row of its tensor.
intflash_status report_bad_token(const NewTokens& tokens, std::int64_t request, std::int64_t token,
                                 std::int64_t head, std::int64_t row) {
  char place[96];
  std::snprintf(place, sizeof place, "[request %lld][token %lld][head %lld]",
                static_cast<i64>(request), static_cast<i64>(token), static_cast<i64>(head));
  if (tokens.are_codes() && !has_good_scale(tokens, head, row)) {
    const float scale = token_scale(tokens.tensor, 0, head, row);
    return fail(std::isfinite(scale) && scale > 0 ? INTFLASH_SCORE_OVERFLOW : INTFLASH_BAD_SCALE,
                "%s.scale%s = %g: must be finite, > 0 and below %g, or 0 where all codes are 0",
                tokens.name, place, static_cast<double>(scale),
                static_cast<double>(tokens.scale_limit()));
  }
  float buffer[kMaxHeadDim];
  const float* values =
      widened_token(tokens.tensor, tokens.dtype, 0, head, row, tokens.dim, buffer);
  for (std::int64_t c = 0; c < tokens.dim; ++c) {
    if (tokens.are_codes() && values[c] == -128) {
      return fail(INTFLASH_INVALID_ARGUMENT, "%s%s[%lld] = -128: codes must be -127 ... 127",
                  tokens.name, place, static_cast<i64>(c));
    }
    if (tokens.are_codes() || std::fabs(values[c]) < tokens.limit) continue;
    return fail(std::isfinite(values[c]) ? INTFLASH_SCORE_OVERFLOW : INTFLASH_NONFINITE_INPUT,
                "%s%s[%lld] = %g: must be finite and below %g", tokens.name, place,
                static_cast<i64>(c), static_cast<double>(values[c]),
                static_cast<double>(tokens.limit));
  }
  return INTFLASH_OK;
}

// The error for the lowest bad element of one head's new tokens, keys before values.
intflash_status report_bad_tokens(const Append& append, std::int64_t request, std::int64_t head) {
  const FloatState float_state;
  for (const NewTokens& tokens : {new_keys(append), new_values(append)}) {
    for (std::int64_t token = 0; token < append.count(request); ++token) {
      const std::int64_t row = append.first_token(request) + token;
      if (append.args.slots != nullptr && append.args.slots[row] < 0) continue;
      const intflash_status status = report_bad_token(tokens, request, token, head, row);
      if (status != INTFLASH_OK) return status;
    }
  }
  return INTFLASH_OK;
}

}  // namespace

intflash_status check_tokens(const Append& append) {
  const intflash_status status =
      append.args.rope.cos == nullptr ? INTFLASH_OK : check_rope_tables(append);
  if (status != INTFLASH_OK) return status;
  const std::int64_t heads = append.cache.num_kv_heads;
  std::atomic<std::int64_t> first_bad{INT64_MAX};
  std::atomic<std::int64_t> next;
  for_each_task(append.cache.context->parallel,
                workers_for(*append.cache.context, append.num_tokens() * heads),
                append.args.num_requests * heads, next, [&](std::int32_t, std::int64_t task) {
                  if (!has_good_tokens(append, task / heads, task % heads))
                    lower_to(first_bad, task);
                });
  const std::int64_t bad = first_bad.load(std::memory_order_relaxed);
  return bad == INT64_MAX ? INTFLASH_OK : report_bad_tokens(append, bad / heads, bad % heads);
}

}  // namespace intflash::internal
