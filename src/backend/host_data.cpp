// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "backend/host_data.h"

#include <cstdio>

#include "core/structs.h"
#include "inputs/rope.h"
#include "inputs/scan.h"
#include "inputs/score_bias.h"
#include "tile/limits.h"

namespace intflash::internal {

SeenKeys seen_keys(const intflash_context& context, const Problem& problem,
                   const intflash_attend_args& args) {
  return {*context.port->kernels,
          problem.group_size,
          {args.additive_mask, nullptr, args.bit_mask, problem.mask}};
}

intflash_status check_dense_contents(const intflash_context& context, const Problem& problem,
                                     const intflash_attend_args& args, RunPart part) {
  const Problem& p = problem;
  const SeenKeys seen = seen_keys(context, problem, args);
  intflash_status status = INTFLASH_OK;
  if (part != RunPart::kPack)
    status = check_scale_values(
        {"query", &args.query, p.query_dtype, p.batch, p.num_query_heads, p.query_len, p.head_dim},
        nullptr);
  if (status == INTFLASH_OK && (part != RunPart::kAttendPacked || !p.is_quantized())) {
    status = check_scale_values(
        {"key", &args.key, p.key_dtype, p.batch, p.num_kv_heads, p.kv_len, p.head_dim}, &seen);
    if (status == INTFLASH_OK)
      status = check_scale_values(
          {"value", &args.value, p.value_dtype, p.batch, p.num_kv_heads, p.kv_len, p.head_dim_v},
          &seen);
  }
  const std::int64_t heads = p.batch * p.num_kv_heads;
  if (status == INTFLASH_OK && p.center_key)
    status = check_center("key_center", args.key_center, heads, p.head_dim, kMaxKeyExponent);
  if (status == INTFLASH_OK && p.center_value)
    status =
        check_center("value_center", args.value_center, heads, p.head_dim_v, kMaxValueExponent);
  if (status == INTFLASH_OK) status = check_sinks(args.sinks, p.num_query_heads);
  if (status == INTFLASH_OK) status = check_slopes(args.alibi_slopes, p.num_query_heads);
  if (status == INTFLASH_OK)
    status = check_head_scales("additive_mask", args.additive_mask, p.num_query_heads);
  return status;
}

intflash_status check_batch_contents(const intflash_plan& plan, const intflash_batch_args& args) {
  const Problem& p = plan.problem;
  const std::int64_t heads = p.num_query_heads;
  intflash_status status = check_scale_values(
      {"query", &args.query, p.query_dtype, 1, heads, p.query_len, p.head_dim}, nullptr);
  if (status == INTFLASH_OK && args.states == nullptr) status = check_sinks(args.sinks, heads);
  if (status == INTFLASH_OK) status = check_slopes(args.alibi_slopes, heads);
  for (std::int64_t r = 0; status == INTFLASH_OK && r < plan.schedule.num_requests; ++r) {
    const Request& request = plan.schedule.requests[r];
    status = check_rope_table(args.rope, first_position(request), request.mask.kv_len);
    if (status != INTFLASH_OK || args.additive_masks == nullptr) continue;
    char name[48];
    std::snprintf(name, sizeof name, "additive_masks[%lld]", static_cast<i64>(r));
    status =
        check_head_scales(name, element_of(args.additive_masks, args.additive_mask_size, r), heads);
  }
  return status;
}

}  // namespace intflash::internal
