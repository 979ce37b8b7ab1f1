// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The backend of the modes exact and intfa: rows of reference.h over the workers. Nothing is
// packed.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <new>

#include "core/float_state.h"
#include "core/score_bias.h"
#include "core/tensor.h"
#include "engine/backend.h"
#include "reference/reference.h"
#include "tile/portability.h"

namespace intflash::internal {
namespace {

intflash_status check_finite(const char* name, const intflash_tensor& tensor, intflash_dtype dtype,
                             std::int64_t batch, std::int64_t heads, std::int64_t tokens,
                             std::int64_t dim) {
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t token = 0; token < tokens; ++token) {
        for (std::int64_t c = 0; c < dim; ++c) {
          if (dtype == INTFLASH_INT8) {
            if (static_cast<const std::int8_t*>(
                    tensor.data)[b * tensor.stride_batch + h * tensor.stride_head +
                                 token * tensor.stride_token + c] != -128)
              continue;
            return fail(
                INTFLASH_INVALID_ARGUMENT,
                "%s[batch %lld][head %lld][token %lld][%lld] = -128: codes must be -127 ... 127",
                name, static_cast<long long>(b), static_cast<long long>(h),
                static_cast<long long>(token), static_cast<long long>(c));
          }
          const double value = tensor_element(tensor, dtype, b, h, token, c);
          if (std::isfinite(value)) continue;
          return fail(INTFLASH_NONFINITE_INPUT,
                      "%s[batch %lld][head %lld][token %lld][%lld] = %g: must be finite", name,
                      static_cast<long long>(b), static_cast<long long>(h),
                      static_cast<long long>(token), static_cast<long long>(c), value);
        }
      }
    }
  }
  return INTFLASH_OK;
}

struct ReferencePlan : intflash_plan {
  std::int64_t worker_bytes;
};
const ReferencePlan& own(const intflash_plan& plan) {
  return static_cast<const ReferencePlan&>(plan);
}

struct RowLoop {
  const ReferencePlan& plan;
  const intflash_attend_args& args;
  char* workspace;
  std::atomic<std::int64_t> next_row{0};
};

void run_worker(void* opaque, std::int32_t worker) {
  RowLoop& loop = *static_cast<RowLoop*>(opaque);
  const Problem& p = loop.plan.problem;
  const FloatState float_state;
  void* scratch = loop.workspace + worker * loop.plan.worker_bytes;
  const std::int64_t rows = p.batch * p.num_query_heads * p.query_len;
  for (std::int64_t i = loop.next_row.fetch_add(1); i < rows; i = loop.next_row.fetch_add(1)) {
    const std::int64_t head = i / p.query_len;
    attend_reference_row(p, loop.args, head / p.num_query_heads, head % p.num_query_heads,
                         i % p.query_len, scratch);
  }
}

intflash_status pack(const intflash_plan& plan, const intflash_attend_args& args, void*) {
  const Problem& p = plan.problem;
  const intflash_status status =
      check_finite("key", args.key, p.key_dtype, p.batch, p.num_kv_heads, p.kv_len, p.head_dim);
  if (status != INTFLASH_OK) return status;
  return check_finite("value", args.value, p.value_dtype, p.batch, p.num_kv_heads, p.kv_len,
                      p.head_dim_v);
}

intflash_status attend(const intflash_plan& plan, const intflash_attend_args& args,
                       void* workspace) {
  const Problem& p = plan.problem;
  const intflash_status status = check_finite("query", args.query, p.query_dtype, p.batch,
                                              p.num_query_heads, p.query_len, p.head_dim);
  if (status != INTFLASH_OK) return status;
  const ScoreBias bias = {args.additive_mask, args.alibi_slopes, args.bit_mask, p.mask};
  for (std::int64_t i = 0; i < p.batch * p.query_len; ++i) {
    const std::int64_t b = i / p.query_len;
    if (has_bad_mask(*plan.context->port->kernels, bias, b, p.num_query_heads, i % p.query_len))
      return report_bad_mask("additive_mask", bias, b, p.num_query_heads, i % p.query_len);
  }
  RowLoop loop{own(plan), args, static_cast<char*>(workspace)};
  run_parallel(plan.context->parallel, plan.context->num_threads, run_worker, &loop);
  return INTFLASH_OK;
}

intflash_plan* create_plan(const intflash_context& context, const Problem& problem) {
  void* const memory = context.allocate(context.allocator_user, sizeof(ReferencePlan), 64);
  if (memory == nullptr) return nullptr;
  ReferencePlan& plan = *new (memory) ReferencePlan{};
  plan.worker_bytes = round_up(static_cast<std::int64_t>(reference_scratch_bytes(problem)), 64);
  plan.workspace_bytes = static_cast<std::size_t>(plan.worker_bytes * context.num_threads);
  std::snprintf(plan.kernel, sizeof plan.kernel, "attend/%s/reference",
                problem.mode == INTFLASH_MODE_EXACT ? "exact" : "intfa");
  return &plan;
}

void destroy_plan(intflash_plan& plan) {
  plan.context->deallocate(plan.context->allocator_user, &plan);
}

intflash_status run(const intflash_plan& plan, const intflash_attend_args& args, void* workspace) {
  const intflash_status status = pack(plan, args, workspace);
  return status == INTFLASH_OK ? attend(plan, args, workspace) : status;
}

}  // namespace

const Backend kReferenceBackend = {"reference", create_plan, destroy_plan, pack, attend, run};

}  // namespace intflash::internal
