// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// One run of a dense call in mode int8 or int8_qk over a workspace, and what lies where in it.
#pragma once

#include <atomic>
#include <cstdint>

#include "backend/backend.h"
#include "backend/host_data.h"
#include "cpu/dense_plan.h"
#include "engine/attention.h"
#include "engine/worker.h"
#include "inputs/scan.h"
#include "inputs/score_bias.h"

namespace intflash::internal {

// At the start of the workspace. What stands there of keys and values outlives a run that packs.
struct DenseRun : Run {
  intflash_attend_args args;
  double packed_largest_key;  // magnitude that a run that packs has found
  TensorScan query, key, value;
  std::atomic<std::int64_t> first_bad_bias;  // lowest query, of all batches, whose mask is bad
  Attention attention;

  const DensePlan& dense_plan() const { return static_cast<const DensePlan&>(*plan); }
  const Problem& problem() const { return plan->problem; }
  const KernelTable& kernels() const { return *plan->context->port->kernels; }
  Worker worker(std::int32_t index) const {
    const WorkerLayout& layout = dense_plan().worker;
    return layout.at(workspace + dense_plan().workers_offset + index * layout.bytes);
  }

  std::int64_t head_index(std::int64_t b, std::int64_t kv_head) const {
    return b * problem().num_kv_heads + kv_head;
  }
  std::int64_t dims() const { return problem().head_dim + problem().head_dim_v; }
  std::int64_t spans() const { return (problem().kv_len + kSpanTokens - 1) / kSpanTokens; }

  // Of the queries of a batch.
  KeyRange* plain_keys(std::int64_t b) const {
    return reinterpret_cast<KeyRange*>(workspace + dense_plan().mask_offset) +
           b * problem().query_len;
  }
  // Whether means are computed, of either.
  bool sums_keys() const { return problem().center_key && args.key_center == nullptr; }
  bool sums_values() const { return problem().center_value && args.value_center == nullptr; }
  // Computed means of a head: [head_dim] of key, then [head_dim_v] of value.
  float* computed_center(std::int64_t head) const {
    return reinterpret_cast<float*>(workspace + dense_plan().center_offset) + head * dims();
  }
  // Of a span's keys that are seen: sums and number, then the values'.
  double* partial_sums(std::int64_t head, std::int64_t span) const {
    return reinterpret_cast<double*>(workspace + dense_plan().partial_offset) +
           (head * spans() + span) * (dims() + 2);
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
  float* query_limits(std::int64_t head) const {
    return reinterpret_cast<float*>(workspace + dense_plan().limits_offset) +
           head * dense_plan().limits_per_head;
  }
  ScoreBlock* score_blocks(std::int64_t head) const {
    return reinterpret_cast<ScoreBlock*>(workspace + dense_plan().blocks_offset) +
           head * dense_plan().blocks_per_head;
  }
  char* page(std::int64_t head, std::int64_t index) const {
    return workspace + dense_plan().pages_offset +
           (head * dense_plan().pages_per_head + index) * dense_plan().page.bytes();
  }

  ScoreBias bias() const {
    return {args.additive_mask, args.alibi_slopes, args.bit_mask, problem().mask};
  }
  SeenKeys seen_keys() const { return internal::seen_keys(*plan->context, problem(), args); }
  ScannedTensor query_tensor() const {
    const Problem& p = problem();
    return {"query",           args.query,  p.query_dtype, p.batch,
            p.num_query_heads, p.query_len, p.head_dim};
  }
  ScannedTensor key_tensor() const {
    const Problem& p = problem();
    return {"key", args.key, p.key_dtype, p.batch, p.num_kv_heads, p.kv_len, p.head_dim};
  }
  ScannedTensor value_tensor() const {
    const Problem& p = problem();
    return {"value", args.value, p.value_dtype, p.batch, p.num_kv_heads, p.kv_len, p.head_dim_v};
  }
};

}  // namespace intflash::internal
