// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Masks that are data, as they are looked at before anything is computed: what in them is no
// number.
#include "cuda/enqueue.h"
#include "cuda/requests.h"
#include "cuda/row_mask.h"

namespace intflash::internal {
namespace {

constexpr std::int32_t kWarps = 4;
constexpr std::int32_t kThreads = kWarps * kWarpThreads;

// A query's, of any head; and its request's scales by head.
INTFLASH_KERNEL(kThreads)
check_masks(CudaCall call) {
  const std::int64_t query = block_place().x;
  const CudaRequest& request =
      call.requests[request_of(call, &CudaRequest::first_row, query * call.group_size)];
  const CudaMask& mask = request.mask;
  if (mask.elements == nullptr) return;
  const std::int64_t own = query - request.first_row / call.group_size;
  const std::int64_t heads = call.num_kv_heads * call.group_size;
  for (std::int64_t h = thread_place(); own == 0 && mask.head_scale != nullptr && h < heads;
       h += kThreads) {
    if (!is_factor(mask.head_scale[h]))
      lower_to(&call.findings->first_bad_head_scale, (&request - call.requests) * heads + h);
  }
  if (mask.is_checked) return;
  bool is_bad = false;
  for (std::int64_t h = 0; h < (mask.stride_head == 0 ? 1 : heads); ++h) {
    const void* const elements = elements_of(mask, h, own);
    for (std::int64_t key = thread_place(); key < mask.end - mask.begin; key += kThreads)
      is_bad |= !(load_element(elements, mask.dtype, key).x < bits_as<float>(0x7f800000));
  }
  if (is_bad) lower_to(&call.findings->first_bad_mask, query);
}

}  // namespace

cudaError_t enqueue_masks(const CudaCall& call) {
  const std::int64_t queries = call.num_rows / call.group_size;
  if (!call.has_masks || queries == 0) return cudaSuccess;
  return launch(check_masks, {queries, 1, 1, kThreads, 0}, call.stream, call);
}

}  // namespace intflash::internal
