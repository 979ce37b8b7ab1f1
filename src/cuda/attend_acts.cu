// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Attention over pages where something acts on scores, or hides keys, beside the rules of requests:
// kernels of their own, so that others pay nothing for it.
#include "cuda/attend_item.h"
#include "cuda/enqueue.h"

namespace intflash::internal {
namespace {

template <int kDim>
cudaError_t enqueue(const CudaCall& call, std::int64_t blocks) {
  return launch(attend_tiles<kDim, true, true, false>,
                {blocks, 1, 1, kThreads<kDim>, Place<kDim>::kBytes}, call.stream, call);
}

}  // namespace

cudaError_t enqueue_acts(const CudaCall& call, std::int64_t blocks) {
  switch (call.tile_dim) {
    case 64:
      return enqueue<64>(call, blocks);
    case 80:
      return enqueue<80>(call, blocks);
    case 96:
      return enqueue<96>(call, blocks);
    case 128:
      return enqueue<128>(call, blocks);
    case 256:
      return enqueue<256>(call, blocks);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace intflash::internal
