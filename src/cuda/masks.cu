// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Masks that are data, as they are looked at before anything is computed: what in them is no
// number, and what the keys hold that they leave.
#include "cuda/enqueue.h"
#include "cuda/page_block.h"
#include "cuda/quantize.h"
#include "cuda/seen_keys.h"

namespace intflash::internal {
namespace {

constexpr std::int32_t kWarps = 4;
constexpr std::int32_t kThreads = kWarps * kWarpThreads;

// ---- Elements ----

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

// ---- Keys that are left ----

// Of a row of a tensor, as it came.
INTFLASH_DEVICE void note_seen(const CudaTensor& tensor, const CudaTokens& tokens,
                               std::int64_t batch, std::int64_t head, std::int64_t token,
                               std::int64_t dim, CudaFinding* finding, std::int32_t lane) {
  const TensorRow row = row_of(tensor, batch, head, token);
  std::int32_t largest = 0;
  for (std::int64_t c = lane; c < dim; c += kWarpThreads)
    largest = max_of(largest, magnitude_bits(row.load(c)));
  RowQuantum seen{};
  seen.raw_magnitude = static_cast<std::uint32_t>(warp_max(largest));
  note_row(finding, seen, seen.raw_magnitude,
           (batch * tokens.num_kv_heads + head) * tokens.num_rows + token, lane);
}

// A block of 64 keys of a kv head.
INTFLASH_KERNEL(kThreads)
find_seen(CudaCall call, CudaTokens tokens) {
  const BlockPlace3 place = block_place();
  const std::int32_t warp = thread_place() / kWarpThreads;
  const std::int32_t lane = thread_place() % kWarpThreads;
  const std::int32_t entry = call.blocks[place.x];
  if (entry < 0) return;
  const std::int32_t index = request_of(call, &CudaRequest::first_block, place.x);
  const CudaRequest& request = call.requests[index];
  const std::int64_t first_key = (place.x - request.first_entry) * kBlockTokens;
  for (std::int32_t i = warp; i < kBlockTokens; i += kWarps) {
    const std::int64_t key = first_key + i;
    if (!is_seen(call, request, place.y, key, lane)) continue;
    if (tokens.num_runs > 0) {
      note_seen(tokens.key, tokens, request.tensor_batch, place.y, key, tokens.head_dim,
                &call.findings->key, lane);
      note_seen(tokens.value, tokens, request.tensor_batch, place.y, key, tokens.head_dim_v,
                &call.findings->value, lane);
    } else if (lane == 0) {
      const PageBlock block = page_block(call.pages, call.head_dim, place.y,
                                         static_cast<std::int64_t>(entry) * kBlockTokens);
      raise_to(&call.findings->largest_key, bits_as<std::uint32_t>(block.key_scale[i]));
    }
  }
}

}  // namespace

cudaError_t enqueue_masks(const CudaCall& call) {
  const std::int64_t queries = call.num_rows / call.group_size;
  if (!call.has_masks || queries == 0) return cudaSuccess;
  return launch(check_masks, {queries, 1, 1, kThreads, 0}, call.stream, call);
}

cudaError_t enqueue_seen(const CudaCall& call, const CudaTokens& tokens) {
  if (call.num_blocks == 0) return cudaSuccess;
  return launch(find_seen, {call.num_blocks, call.num_kv_heads, 1, kThreads, 0}, call.stream, call,
                tokens);
}

}  // namespace intflash::internal
