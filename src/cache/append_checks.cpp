// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>

#include "cache/append.h"
#include "core/checks.h"
#include "core/limits.h"
#include "core/structs.h"
#include "inputs/rope.h"
#include "inputs/scan.h"
#include "inputs/tensor.h"
#include "inputs/token_rows.h"

namespace intflash::internal {
namespace {

// Everything but elements and scales. change: what is done to elements before they are quantized;
// nullptr = nothing.
intflash_status check_new_tokens(const TensorView& view, const char* change) {
  const intflash_status status = check_kv_dtype(view.name, view.dtype, view.dim);
  if (status == INTFLASH_OK && view.dtype == INTFLASH_INT8 && change != nullptr) {
    return fail(INTFLASH_UNSUPPORTED,
                "%s_dtype = INT8 with %s: codes cannot be changed; do it before quantizing",
                view.name, change);
  }
  return status == INTFLASH_OK ? check_tensor(view) : status;
}
const char* change_of_keys(const intflash_cache& cache, const intflash_append_args& args) {
  if (args.rope.cos != nullptr) return "rope";
  if (cache.rotation.keys) return "a cache that rotates keys";
  return cache.key_center != nullptr ? "a cache with key_center" : nullptr;
}
const char* change_of_values(const intflash_cache& cache) {
  if (cache.rotation.values) return "a cache that rotates values";
  return cache.value_center != nullptr ? "a cache with value_center" : nullptr;
}

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
  const float largest =
      std::bit_cast<float>(append.kernels().max_magnitude(rows, count, tokens.dim));
  if (!tokens.are_codes()) return largest < tokens.limit;
  for (std::int64_t token = first; token < first + count; ++token)
    if (!has_good_scale(tokens, head, token)) return false;
  return largest < 128;
}

bool has_good_tokens(const Append& append, std::int64_t request, std::int64_t head) {
  bool all_good = true;
  append.for_each_stored(request, [&](std::int64_t first, std::int64_t count) {
    all_good = all_good && are_good(append, new_keys(append), head, first, count) &&
               are_good(append, new_values(append), head, first, count);
  });
  return all_good;
}

// That rope has the positions of all tokens that are stored.
intflash_status check_turned_tokens(const Append& append) {
  const intflash_append_args& args = append.args;
  intflash_status status = INTFLASH_OK;
  for (std::int64_t r = 0; args.slots == nullptr && r < args.num_requests; ++r) {
    const std::int64_t kv_len = append.kv_len(r);
    status = check_rope_positions(args.rope, r, kv_len, kv_len + append.count(r));
    if (status == INTFLASH_OK)
      status = check_rope_table(args.rope, kv_len, kv_len + append.count(r));
    if (status != INTFLASH_OK) return status;
  }
  for (std::int64_t i = 0; args.slots != nullptr && i < append.num_tokens(); ++i) {
    if (args.slots[i] < 0) continue;
    status = check_rope_position(args.rope, i, args.positions[i]);
    if (status == INTFLASH_OK)
      status = check_rope_table(args.rope, args.positions[i], args.positions[i] + 1);
    if (status != INTFLASH_OK) return status;
  }
  return INTFLASH_OK;
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

intflash_status read_append_args(const intflash_cache* cache, const intflash_append_args* given,
                                 bool own_pages, intflash_append_args& args) {
  if (cache == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "cache = NULL: create one first");
  intflash_status status = read_struct("args", "intflash_append_args", given, args);
  if (status != INTFLASH_OK) return status;
  status = check_layer(*cache, args.layer);
  if (status != INTFLASH_OK || args.num_requests == 0) return status;
  if (args.token_indptr == nullptr ||
      (!own_pages && args.slots == nullptr && args.kv_lens == nullptr))
    return fail(INTFLASH_INVALID_ARGUMENT, "token_indptr and kv_lens: must not be NULL");
  if (own_pages && args.slots != nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "slots = %p: must be NULL: where tokens of sequences go is the cache's choice",
                static_cast<const void*>(args.slots));
  }
  if (args.slots == nullptr && args.positions != nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "positions = %p: must be NULL without slots: tokens stand where they are appended",
                static_cast<const void*>(args.positions));
  }
  status = check_pointer("token_indptr", args.token_indptr);
  if (status == INTFLASH_OK) status = check_pointer("slots", args.slots);
  if (status == INTFLASH_OK) status = check_pointer("positions", args.positions);
  if (status == INTFLASH_OK && !own_pages) status = check_pointer("kv_lens", args.kv_lens);
  if (status == INTFLASH_OK && !own_pages)
    status = check_pointer("first_key_positions", args.first_key_positions);
  if (status == INTFLASH_OK) status = check_extent("num_requests", args.num_requests, 0);
  if (status != INTFLASH_OK) return status;
  if (args.token_indptr[0] != 0) {
    return fail(INTFLASH_BAD_SHAPE, "token_indptr[0] = %lld: must be 0",
                static_cast<i64>(args.token_indptr[0]));
  }
  for (std::int64_t r = 0; r < args.num_requests; ++r) {
    if (args.token_indptr[r + 1] >= args.token_indptr[r] && args.token_indptr[r + 1] <= kMaxExtent)
      continue;
    return fail(INTFLASH_BAD_SHAPE, "token_indptr[%lld] = %lld: must be %lld ... %lld",
                static_cast<i64>(r + 1), static_cast<i64>(args.token_indptr[r + 1]),
                static_cast<i64>(args.token_indptr[r]), static_cast<i64>(kMaxExtent));
  }
  const std::int64_t tokens = args.token_indptr[args.num_requests];
  status = check_new_tokens(
      {"key", &args.key, args.key_dtype, 1, cache->num_kv_heads, tokens, cache->layout.head_dim},
      change_of_keys(*cache, args));
  if (status != INTFLASH_OK) return status;
  status = check_new_tokens({"value", &args.value, args.value_dtype, 1, cache->num_kv_heads, tokens,
                             cache->layout.head_dim_v},
                            change_of_values(*cache));
  return status == INTFLASH_OK ? check_rope(args.rope, cache->layout.head_dim) : status;
}

intflash_status check_slots(const intflash_cache& cache, const intflash_append_args& args) {
  if (args.kv_lens != nullptr || args.first_key_positions != nullptr ||
      args.pages.page_indptr != nullptr || args.pages.page_ids != nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "slots = %p: kv_lens, first_key_positions and pages must be NULL beside it",
                static_cast<const void*>(args.slots));
  }
  if (args.rope.cos != nullptr && args.positions == nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "positions = NULL: must say where tokens stand, with rope and slots");
  }
  const std::int64_t num_slots = cache.num_pages * cache.layout.page_size;
  const std::int64_t tokens = args.token_indptr[args.num_requests];
  const PageSet seen{cache.slot_set};
  for (std::int64_t i = 0; i < tokens; ++i) {
    if (args.slots[i] >= -1 && args.slots[i] < num_slots) {
      if (args.slots[i] >= 0) seen.remove(args.slots[i]);
      continue;
    }
    return fail(INTFLASH_INVALID_ARGUMENT, "slots[%lld] = %lld: must be -1 ... %lld",
                static_cast<i64>(i), static_cast<i64>(args.slots[i]),
                static_cast<i64>(num_slots - 1));
  }
  for (std::int64_t i = 0; i < tokens; ++i) {
    if (args.slots[i] < 0 || seen.insert(args.slots[i])) continue;
    return fail(INTFLASH_INVALID_ARGUMENT, "slots[%lld] = %lld: a token before it goes there",
                static_cast<i64>(i), static_cast<i64>(args.slots[i]));
  }
  return INTFLASH_OK;
}

intflash_status check_tokens(const Append& append) {
  const intflash_status status =
      append.args.rope.cos == nullptr ? INTFLASH_OK : check_turned_tokens(append);
  if (status != INTFLASH_OK) return status;
  const std::int64_t heads = append.cache.num_kv_heads;
  std::atomic<std::int64_t> first_bad{INT64_MAX};
  append.for_each_head([&](std::int32_t, std::int64_t request, std::int64_t head) {
    if (!has_good_tokens(append, request, head)) lower_to(first_bad, request * heads + head);
  });
  const std::int64_t bad = first_bad.load(std::memory_order_relaxed);
  return bad == INT64_MAX ? INTFLASH_OK : report_bad_tokens(append, bad / heads, bad % heads);
}

}  // namespace intflash::internal
