// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Attention over pages, and the merge of what parts of keys have come to.
#include "cuda/attend_item.h"
#include "cuda/enqueue.h"

namespace intflash::internal {
namespace {

// The states of tiles' parts, which are nodes of the tree.
template <int kDim>
INTFLASH_KERNEL(kThreads<kDim>)
merge_parts(CudaCall call) {
  if (call.findings->refused != 0) return;
  const std::int32_t worker = block_place().x;
  const auto merges = static_cast<std::int32_t>(call.num_merges);
  for (std::int32_t merge = worker; merge < merges;
       merge += static_cast<std::int32_t>(call.num_workers)) {
    const CudaRequest& request = call.requests[request_of(call, &CudaRequest::first_merge, merge)];
    const TileThread at =
        tile_thread<kDim>(call, request, static_cast<std::int32_t>(merge - request.first_merge), 0);
    WaitingStates<kDim> waiting(slots_of<kDim>(call.states, worker * call.waiting_states, at));
    RowStates<kDim> state;
    for (std::int32_t part = 0; part < request.num_parts; ++part) {
      slots_of<kDim>(call.part_states, part_state(at, part), at).load(0, state);
      waiting.push(static_cast<std::int32_t>(request.first_part) + part, state);
    }
    waiting.finish(state);
    write_rows<kDim, true>(call, at, state);
  }
}

template <int kDim>
cudaError_t enqueue_items(const CudaCall& call, const Grid& grid) {
  if (call.is_padded()) return enqueue_padded(call, grid.x);
  if (call.has_acts()) return enqueue_acts(call, grid.x);
  return launch(call.has_digits() ? attend_tiles<kDim, true, false, false>
                                  : attend_tiles<kDim, false, false, false>,
                grid, call.stream, call);
}

template <int kDim>
cudaError_t enqueue(const CudaCall& call) {
  Grid grid = {min_of(call.num_items, call.num_workers), 1, 1, kThreads<kDim>, Place<kDim>::kBytes};
  const cudaError_t error = enqueue_items<kDim>(call, grid);
  if (error != cudaSuccess || call.num_merges == 0) return error;
  grid.x = min_of(call.num_merges, call.num_workers);
  return launch(merge_parts<kDim>, grid, call.stream, call);
}

}  // namespace

cudaError_t enqueue_attend(const CudaCall& call) {
  if (call.num_items == 0) return cudaSuccess;
  if (call.is_wide()) return enqueue_wide(call);
  switch (call.tile_dim) {
    case 64:
      return enqueue<64>(call);
    case 80:
      return enqueue<80>(call);
    case 96:
      return enqueue<96>(call);
    case 128:
      return enqueue<128>(call);
    case 256:
      return enqueue<256>(call);
    default:
      return cudaErrorInvalidValue;
  }
}

cudaError_t check_attend() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(
      &attributes, reinterpret_cast<const void*>(attend_tiles<64, false, false, false>));
}

}  // namespace intflash::internal
