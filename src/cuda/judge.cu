// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Whether a call may write: a second look at the keys that are seen, where a first one at all of
// them leaves doubt, and the judgement.
#include "cuda/enqueue.h"
#include "cuda/judgement.h"
#include "cuda/page_block.h"
#include "cuda/quantize.h"
#include "cuda/seen_keys.h"

namespace intflash::internal {
namespace {

constexpr std::int32_t kWarps = 4;
constexpr std::int32_t kThreads = kWarps * kWarpThreads;
// Blocks of threads that look at a kv head's keys.
constexpr std::int32_t kLookers = 64;

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

// A block of 64 keys of a kv head, by the call's number of it.
INTFLASH_DEVICE void look_at_block(const CudaCall& call, const CudaTokens& tokens,
                                   std::int64_t number, std::int32_t kv_head, std::int32_t warp,
                                   std::int32_t lane) {
  const std::int32_t entry = call.blocks[number];
  if (entry < 0) return;
  const CudaRequest& request = call.requests[request_of(call, &CudaRequest::first_block, number)];
  const std::int64_t first_key = (number - request.first_entry) * kBlockTokens;
  for (std::int32_t i = warp; i < kBlockTokens; i += kWarps) {
    const std::int64_t key = first_key + i;
    if (!is_seen(call, request, kv_head, key, lane)) continue;
    if (call.has_own_pages()) {
      note_seen(tokens.key, tokens, request.tensor_batch, kv_head, key, tokens.head_dim,
                &call.findings->seen_key, lane);
      note_seen(tokens.value, tokens, request.tensor_batch, kv_head, key, tokens.head_dim_v,
                &call.findings->seen_value, lane);
    } else if (lane == 0) {
      const std::int64_t page = entry / kCudaPlaces, place = entry % kCudaPlaces;
      const PageBlock block = page_block(call.pages, call.head_dim, kv_head,
                                         page * call.pages.page_size + place * kBlockTokens);
      raise_to(&call.findings->largest_seen_scale, bits_as<std::uint32_t>(block.key_scale[i]));
    }
  }
}

// Few blocks of threads take all blocks of keys in turn: as good as always there is nothing to do.
INTFLASH_KERNEL(kThreads)
look_again(CudaCall call, CudaTokens tokens) {
  if (needed_look(call, *call.findings) == CudaLook::kAll) return;
  const BlockPlace3 place = block_place();
  for (std::int64_t block = place.x; block < call.num_blocks; block += kLookers)
    look_at_block(call, tokens, block, place.y, thread_place() / kWarpThreads,
                  thread_place() % kWarpThreads);
}

INTFLASH_KERNEL(kWarpThreads)
judge(CudaCall call) {
  if (thread_place() == 0 && !is_sound(call, *call.findings)) call.findings->refused = 1;
}

}  // namespace

cudaError_t enqueue_judgement(const CudaCall& call, const CudaTokens& tokens) {
  if (call.num_blocks > 0) {
    const cudaError_t error =
        launch(look_again,
               {min_of<std::int64_t>(call.num_blocks, kLookers), call.num_kv_heads, 1, kThreads, 0},
               call.stream, call, tokens);
    if (error != cudaSuccess) return error;
  }
  return launch(judge, {1, 1, 1, kWarpThreads, 0}, call.stream, call);
}

}  // namespace intflash::internal
