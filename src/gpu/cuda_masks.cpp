// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda_masks.h"

#include <algorithm>
#include <cstdio>
#include <limits>

#include "core/structs.h"
#include "gpu/cuda_findings.h"
#include "inputs/tensor.h"

namespace intflash::internal {
namespace {

struct Name {
  char text[48];
};
// Of a request's masks: "bit_mask", or of a batch "bit_masks[3]".
Name name_of(const intflash_plan& plan, const char* what, std::int64_t request) {
  Name name;
  if (plan.is_batch) {
    std::snprintf(name.text, sizeof name.text, "%ss[%lld]", what, static_cast<i64>(request));
  } else {
    std::snprintf(name.text, sizeof name.text, "%s", what);
  }
  return name;
}

// Those that are read: none of no keys.
ScoreBias bias_of(const intflash_plan& plan, const CudaRunMasks& masks, std::int64_t request) {
  ScoreBias bias{};
  bias.rule = plan.schedule.requests[request].mask;
  bias.alibi_slopes = masks.alibi_slopes;
  const std::int64_t index = plan.is_batch ? request : 0;
  if (masks.additive != nullptr && bias.rule.query_len > 0 && bias.rule.kv_len > bias.rule.kv_begin)
    bias.additive = element_of(masks.additive, masks.additive_size, index);
  if (masks.bits != nullptr) bias.bits = element_of(masks.bits, masks.bits_size, index);
  if (bias.bits.num_keys == 0 || bias.rule.query_len == 0) bias.bits = {};
  return bias;
}

intflash_status check_field(const CudaDevice& device, const Name& owner, const char* field,
                            const void* pointer) {
  char name[64];
  std::snprintf(name, sizeof name, "%s%s", owner.text, field);
  return pointer == nullptr ? INTFLASH_OK : check_place(device, name, pointer);
}

CudaMask cuda_mask(const ScoreBias& bias, std::int64_t batch) {
  CudaMask mask{};
  const MaskRule& rule = bias.rule;
  if (bias.additive.data != nullptr) {
    const std::int64_t offset =
        batch * bias.additive.stride_batch * dtype_bytes(bias.additive.dtype);
    mask.elements = static_cast<const char*>(bias.additive.data) + offset;
    mask.dtype = static_cast<Dtype>(bias.additive.dtype);
    mask.stride_head = bias.additive.stride_head;
    mask.stride_query = bias.additive.stride_query;
    mask.begin = rule.kv_begin;
    mask.end = rule.kv_len;
    mask.head_scale = bias.additive.head_scale;
    mask.is_checked = batch > 0 && bias.additive.stride_batch == 0;
  }
  mask.bits = bias.bits.words;
  mask.bits_begin = rule.kv_len - bias.bits.num_keys;
  mask.bit_words = ceil_div(bias.bits.num_keys, 64);
  return mask;
}

// The first of a query's elements that is NaN or +infinity, as the host has it.
intflash_status report_bad_elements(const CudaRun& run, std::int64_t request, std::int64_t query) {
  const Problem& p = run.plan->problem;
  const CudaMask& mask = run.requests[request].mask;
  const std::int64_t bytes = dtype_bytes(static_cast<intflash_dtype>(mask.dtype));
  alignas(64) char elements[4096];
  const std::int64_t some = static_cast<std::int64_t>(sizeof elements) / bytes;
  const std::int64_t count = mask.end - mask.begin;
  intflash_tensor copied{};
  copied.data = elements;
  for (std::int64_t h = 0; h < (mask.stride_head == 0 ? 1 : p.num_query_heads); ++h) {
    const char* const row = static_cast<const char*>(mask.elements) +
                            (h * mask.stride_head + query * mask.stride_query) * bytes;
    for (std::int64_t first = 0; first < count; first += some) {
      const std::int64_t n = std::min(some, count - first);
      const intflash_status status =
          fetch(run, "looking at masks", row + first * bytes, n * bytes, elements);
      if (status != INTFLASH_OK) return status;
      for (std::int64_t i = 0; i < n; ++i) {
        const double element =
            tensor_element(copied, static_cast<intflash_dtype>(mask.dtype), 0, 0, 0, i);
        if (element < std::numeric_limits<double>::infinity()) continue;
        return report_bad_element(name_of(*run.plan, "additive_mask", request).text,
                                  run.plan->is_batch ? 0 : request, h, query, first + i, element);
      }
    }
  }
  return INTFLASH_OK;
}

}  // namespace

CudaRunMasks run_masks(const intflash_attend_args& args) {
  return {&args.additive_mask, sizeof args.additive_mask, &args.bit_mask, sizeof args.bit_mask,
          args.alibi_slopes};
}
CudaRunMasks run_masks(const intflash_batch_args& args) {
  return {args.additive_masks, args.additive_mask_size, args.bit_masks, args.bit_mask_size,
          args.alibi_slopes};
}

intflash_status check_mask_places(const intflash_plan& plan, const CudaRunMasks& masks) {
  const CudaDevice& device = cuda_device(*plan.context);
  intflash_status status = masks.alibi_slopes == nullptr
                               ? INTFLASH_OK
                               : check_place(device, "alibi_slopes", masks.alibi_slopes);
  const std::int64_t count = plan.is_batch ? plan.schedule.num_requests : 1;
  for (std::int64_t r = 0; status == INTFLASH_OK && r < count; ++r) {
    const ScoreBias bias = bias_of(plan, masks, r);
    const Name additive = name_of(plan, "additive_mask", r);
    status = check_field(device, additive, ".data", bias.additive.data);
    if (status == INTFLASH_OK)
      status = check_field(device, additive, ".head_scale", bias.additive.head_scale);
    if (status == INTFLASH_OK)
      status = check_field(device, name_of(plan, "bit_mask", r), ".words", bias.bits.words);
  }
  return status;
}

void set_masks(const CudaRunMasks& masks, CudaRun& run) {
  run.call.alibi_slopes = masks.alibi_slopes;
  for (std::int64_t r = 0; r < run.call.num_requests; ++r) {
    CudaMask& mask = run.requests[r].mask;
    mask = cuda_mask(bias_of(*run.plan, masks, r), run.plan->is_batch ? 0 : r);
    run.call.has_masks |= mask.elements != nullptr || mask.bits != nullptr;
  }
}

intflash_status check_slopes_found(const CudaRun& run) {
  const std::int64_t head = run.found.first_bad_slope;
  if (head == INT64_MAX) return INTFLASH_OK;
  float slope = 0;
  const intflash_status status =
      fetch(run, "looking at slopes", run.call.alibi_slopes + head, sizeof slope, &slope);
  return status == INTFLASH_OK ? report_bad_factor("alibi_slopes", "", head, slope) : status;
}

std::int64_t bad_head_scale_request(const CudaRun& run) {
  const std::int64_t found = run.found.first_bad_head_scale;
  return found == INT64_MAX ? found : found / run.plan->problem.num_query_heads;
}

intflash_status check_head_scales_found(const CudaRun& run) {
  const std::int64_t request = bad_head_scale_request(run);
  if (request == INT64_MAX) return INTFLASH_OK;
  const std::int64_t head = run.found.first_bad_head_scale % run.plan->problem.num_query_heads;
  float scale = 0;
  const intflash_status status = fetch(
      run, "looking at masks", run.requests[request].mask.head_scale + head, sizeof scale, &scale);
  if (status != INTFLASH_OK) return status;
  return report_bad_factor(name_of(*run.plan, "additive_mask", request).text, ".head_scale", head,
                           scale);
}

intflash_status check_masks_found(const CudaRun& run) {
  const std::int64_t query = run.found.first_bad_mask;
  if (query == INT64_MAX) return INTFLASH_OK;
  const std::int64_t request = request_of_query(run, query);
  return report_bad_elements(run, request,
                             query - run.plan->schedule.requests[request].first_query);
}

}  // namespace intflash::internal
