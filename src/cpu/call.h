// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// One run of a dense call in mode int8 over a workspace, and what lies where in it.
#pragma once

#include <cstdint>

#include "core/score_bias.h"
#include "cpu/dense_plan.h"
#include "engine/team.h"

namespace intflash::internal {

struct Call {
  const DensePlan& plan;
  const intflash_attend_args& args;
  char* workspace;

  const Problem& problem() const { return plan.problem; }
  const KernelTable& kernels() const { return *plan.context->port->kernels; }
  CallStatus& status() const {
    return *reinterpret_cast<CallStatus*>(workspace + plan.status_offset);
  }
  Team team() const {
    return {plan.context->parallel, plan.schedule.shape.num_workers, plan.worker,
            workspace + plan.workers_offset, status().next_task};
  }

  std::int64_t head_index(std::int64_t b, std::int64_t kv_head) const {
    return b * problem().num_kv_heads + kv_head;
  }
  std::int64_t dims() const { return problem().head_dim + problem().head_dim_v; }
  std::int64_t spans() const { return (problem().kv_len + kSpanTokens - 1) / kSpanTokens; }

  // Of the queries of a batch.
  KeyRange* plain_keys(std::int64_t b) const {
    return reinterpret_cast<KeyRange*>(workspace + plan.mask_offset) + b * problem().query_len;
  }
  // Computed means of a head: [head_dim] of key, then [head_dim_v] of value.
  float* computed_center(std::int64_t head) const {
    return reinterpret_cast<float*>(workspace + plan.center_offset) + head * dims();
  }
  double* partial_sums(std::int64_t head, std::int64_t span) const {
    return reinterpret_cast<double*>(workspace + plan.partial_offset) +
           (head * spans() + span) * dims();
  }
  const float* key_center(std::int64_t head) const {
    if (!problem().center_key) return nullptr;
    return args.key_center != nullptr ? args.key_center + head * problem().head_dim
                                      : computed_center(head);
  }
  const float* value_center(std::int64_t head) const {
    if (!problem().center_value) return nullptr;
    return args.value_center != nullptr ? args.value_center + head * problem().head_dim_v
                                        : computed_center(head) + problem().head_dim;
  }
  ScoreBlock* score_blocks(std::int64_t head) const {
    return reinterpret_cast<ScoreBlock*>(workspace + plan.blocks_offset) +
           head * plan.blocks_per_head;
  }
  char* page(std::int64_t head, std::int64_t index) const {
    return workspace + plan.pages_offset + (head * plan.pages_per_head + index) * plan.page.bytes();
  }

  ScoreBias bias() const {
    return {args.additive_mask, args.alibi_slopes, args.bit_mask, problem().mask};
  }
  ScannedTensor query() const {
    const Problem& p = problem();
    return {"query",           args.query,  p.query_dtype, p.batch,
            p.num_query_heads, p.query_len, p.head_dim};
  }
  ScannedTensor key() const {
    const Problem& p = problem();
    return {"key", args.key, p.key_dtype, p.batch, p.num_kv_heads, p.kv_len, p.head_dim};
  }
  ScannedTensor value() const {
    const Problem& p = problem();
    return {"value", args.value, p.value_dtype, p.batch, p.num_kv_heads, p.kv_len, p.head_dim_v};
  }
};

}  // namespace intflash::internal
