// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// One run of mode int8 over a workspace: what its tasks need, how they are handed out, and the
// tensors that they read.
#pragma once

#include <algorithm>
#include <cstdint>

#include "context.h"
#include "float_state.h"
#include "worker.h"

namespace intflash {

struct Call {
  const intflash_plan& plan;
  const intflash_attend_args& args;
  char* workspace;

  const Problem& problem() const { return plan.problem; }
  const Plan& layout() const { return plan.layout; }
  const KernelTable& kernels() const { return *plan.context->port->kernels; }
  CallStatus& status() const {
    return *reinterpret_cast<CallStatus*>(workspace + layout().status_offset);
  }

  std::int64_t head_index(std::int64_t b, std::int64_t kv_head) const {
    return b * problem().num_kv_heads + kv_head;
  }
  std::int64_t dims() const { return problem().head_dim + problem().head_dim_v; }
  std::int64_t spans() const { return (problem().kv_len + kSpanTokens - 1) / kSpanTokens; }

  // Computed means of a head: [head_dim] of key, then [head_dim_v] of value.
  float* computed_center(std::int64_t head) const {
    return reinterpret_cast<float*>(workspace + layout().center_offset) + head * dims();
  }
  double* partial_sums(std::int64_t head, std::int64_t span) const {
    return reinterpret_cast<double*>(workspace + layout().partial_offset) +
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
    return reinterpret_cast<ScoreBlock*>(workspace + layout().blocks_offset) +
           head * layout().num_blocks;
  }
  char* page(std::int64_t head, std::int64_t block64) const {
    return workspace + layout().pages_offset +
           (head * layout().num_blocks * 2 + block64) * layout().page_bytes;
  }
  Worker worker(std::int32_t index) const;
};

// Calls task(worker, index) for each index below count, from all workers, in the order of a shared
// counter.
template <class TaskFn>
void for_each_task(const Call& call, std::int64_t count, TaskFn task) {
  struct Context {
    const Call& call;
    std::int64_t count;
    TaskFn& task;
  } context{call, count, task};
  call.status().next_task.store(0, std::memory_order_relaxed);
  const auto run_worker = [](void* opaque, std::int32_t index) {
    const Context& shared = *static_cast<Context*>(opaque);
    const FloatState float_state;
    const Worker worker = shared.call.worker(index);
    std::atomic<std::int64_t>& next = shared.call.status().next_task;
    for (std::int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < shared.count;
         i = next.fetch_add(1, std::memory_order_relaxed)) {
      shared.task(worker, i);
    }
  };
  const std::int64_t workers = std::min<std::int64_t>(call.layout().num_workers, count);
  run_parallel(call.plan.context->parallel, static_cast<std::int32_t>(workers), run_worker,
               &context);
}

// A tensor of the call's, with its shape.
struct CallTensor {
  const char* name;
  const intflash_tensor& tensor;
  intflash_dtype dtype;
  std::int64_t batch, heads, tokens, dim;
};

CallTensor query_tensor(const Call& call);
CallTensor key_tensor(const Call& call);
CallTensor value_tensor(const Call& call);

// The rows of one head of a tensor from a token on.
RowSource rows_of(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                  std::int64_t h, std::int64_t token);

// The scale of a token of an INT8 tensor; 0 where its products would be denormal.
float scale_of(const intflash_tensor& tensor, std::int64_t b, std::int64_t h, std::int64_t token);

// Rows of a tensor as codes and scales, quantized, or as the caller gave them. Returns the bits of
// the largest magnitude met.
std::uint32_t quantize_tokens(const Call& call, const CallTensor& t, std::int64_t b, std::int64_t h,
                              std::int64_t token, std::int32_t rows, const float* center,
                              bool rotate, std::int64_t code_stride, std::int8_t* codes,
                              float* scale);

}  // namespace intflash
