// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The C entry points of states that callers merge: arguments -> rows merged -> states or results.
#include <algorithm>
#include <cstdint>

#include "context/context.h"
#include "core/checks.h"
#include "core/structs.h"
#include "inputs/token_rows.h"
#include "machine/float_state.h"
#include "states/row_result.h"
#include "states/state_set.h"
#include "tile/float_math.h"
#include "tile/limits.h"

namespace {

using namespace intflash::internal;

intflash_status read_set(const intflash_context* context, const intflash_state_set* given,
                         intflash_state_set& set) {
  if (context == nullptr)
    return fail(INTFLASH_INVALID_ARGUMENT, "context = NULL: create one first");
  const intflash_status status = read_struct("set", "intflash_state_set", given, set);
  return status == INTFLASH_OK ? check_state_set(*context->port->kernels, set) : status;
}

intflash_status check_finish_args(const intflash_state_set& set, const intflash_finish_args& args) {
  intflash_status status = check_dtype("out_dtype", args.out_dtype, false);
  const TensorView out = {"out",         &args.out,     args.out_dtype, 1, set.num_query_heads,
                          set.query_len, set.head_dim_v};
  if (status == INTFLASH_OK) status = check_tensor(out);
  if (status == INTFLASH_OK) status = check_no_overlap(out);
  if (status == INTFLASH_OK) status = check_pointer("lse", args.lse);
  if (status == INTFLASH_OK) status = check_pointer("sinks", args.sinks);
  if (status == INTFLASH_OK) status = check_pointer("value_center", args.value_center);
  if (status == INTFLASH_OK) status = check_sinks(args.sinks, set.num_query_heads);
  if (status != INTFLASH_OK || args.value_center == nullptr) return status;
  status = check_extent("num_kv_heads", args.num_kv_heads, 1);
  if (status != INTFLASH_OK) return status;
  if (set.num_query_heads % args.num_kv_heads != 0) {
    return fail(INTFLASH_BAD_SHAPE,
                "num_kv_heads = %lld: must be a divisor of num_query_heads = %lld",
                static_cast<i64>(args.num_kv_heads), static_cast<i64>(set.num_query_heads));
  }
  return check_center("value_center", args.value_center, args.num_kv_heads, set.head_dim_v,
                      kMaxValueExponent);
}

}  // namespace

extern "C" {

intflash_status intflash_finish_states(const intflash_context* context,
                                       const intflash_state_set* given_set,
                                       const intflash_finish_args* given_args) {
  intflash_state_set set;
  intflash_status status = read_set(context, given_set, set);
  if (status != INTFLASH_OK) return status;
  intflash_finish_args args;
  status = read_struct("args", "intflash_finish_args", given_args, args);
  if (status == INTFLASH_OK) status = check_finish_args(set, args);
  if (status != INTFLASH_OK) return status;
  const KernelTable& kernels = *context->port->kernels;
  const bool rotated =
      set.num_states > 0 && element_of(set.states, set.state_size, 0).rotates_values != 0;
  const FloatState float_state;
  for (std::int64_t row = 0; row < set.query_len * set.num_query_heads; ++row) {
    const std::int64_t query = row % set.query_len;
    const std::int64_t head = row / set.query_len;
    MergedRow merged;
    merge_row(kernels, set, row, merged);
    RowResult result{};
    result.dim = static_cast<std::int32_t>(set.head_dim_v);
    result.rotated = rotated;
    result.center_score = merged.center_score;
    result.sink = args.sinks == nullptr ? kNegativeInfinity : args.sinks[head];
    if (args.value_center != nullptr)
      result.value_center =
          args.value_center + head * args.num_kv_heads / set.num_query_heads * set.head_dim_v;
    result.out_dtype = static_cast<Dtype>(args.out_dtype);
    result.out = const_cast<void*>(rows_of(args.out, args.out_dtype, 0, head, query).data);
    if (args.lse != nullptr) result.lse = args.lse + row;
    write_result(kernels, merged.state(), 0, result);
  }
  return INTFLASH_OK;
}

intflash_status intflash_join_states(const intflash_context* context,
                                     const intflash_state_set* given_set,
                                     const intflash_state* given_joined) {
  intflash_state_set set;
  intflash_status status = read_set(context, given_set, set);
  if (status == INTFLASH_OK) status = check_extent("num_states", set.num_states, 1);
  if (status == INTFLASH_OK)
    status = check_elements("joined", "intflash_state", given_joined, 1, set.state_size);
  if (status != INTFLASH_OK) return status;
  const intflash_state joined = element_of(given_joined, set.state_size, 0);
  status = check_state("joined", -1, joined, set.query_len > 0);
  if (status != INTFLASH_OK) return status;
  const intflash_state first = element_of(set.states, set.state_size, 0);
  if (joined.rotates_values != first.rotates_values) {
    return fail(INTFLASH_INVALID_ARGUMENT, "joined.rotates_values = %d: must be %d, as in states",
                joined.rotates_values, first.rotates_values);
  }
  const intflash_state last = element_of(set.states, set.state_size, set.num_states - 1);
  if (first.first_key < joined.first_key ||
      last.first_key + last.num_keys > joined.first_key + joined.num_keys) {
    return fail(INTFLASH_BAD_SHAPE,
                "joined: %lld keys from %lld on: must have those of the states, %lld ... %lld",
                static_cast<i64>(joined.num_keys), static_cast<i64>(joined.first_key),
                static_cast<i64>(first.first_key),
                static_cast<i64>(last.first_key + last.num_keys - 1));
  }
  const FloatState float_state;
  for (std::int64_t row = 0; row < set.query_len * set.num_query_heads; ++row) {
    MergedRow merged;
    merge_row(*context->port->kernels, set, row, merged);
    joined.reference[row] = merged.reference;
    joined.row_sum[row] = merged.row_sum;
    joined.center_score[row] = merged.center_score;
    std::copy_n(merged.accumulators, set.head_dim_v, joined.accumulators + row * set.head_dim_v);
  }
  return INTFLASH_OK;
}

}  // extern "C"
