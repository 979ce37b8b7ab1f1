// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Attention over heads whose channels are no kernel's: those that they lack in a wider kernel's
// tiles are zeros. Few models have such, and three kernels serve all that a call may ask for; that
// of 256 channels spills a register.
#include "cuda/attend_item.h"
#include "cuda/enqueue.h"

namespace intflash::internal {
namespace {

template <int kDim>
cudaError_t enqueue(const CudaCall& call, std::int64_t blocks) {
  return launch(attend_tiles<kDim, true, true, true>,
                {blocks, 1, 1, kThreads<kDim>, Place<kDim>::kBytes}, call.stream, call);
}

}  // namespace

cudaError_t enqueue_padded(const CudaCall& call, std::int64_t blocks) {
  switch (call.tile_dim) {
    case 64:
      return enqueue<64>(call, blocks);
    case 128:
      return enqueue<128>(call, blocks);
    default:
      return enqueue<256>(call, blocks);
  }
}

}  // namespace intflash::internal
