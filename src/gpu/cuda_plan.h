// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Plans of dense calls and of batches on a CUDA device: the keys that requests see, cut for the
// device's multiprocessors.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"
#include "gpu/cuda_memory.h"

namespace intflash::internal {

// What a run hands to the device in one piece: findings of nothing yet, then these.
struct CudaStaging {
  std::int64_t num_blocks;                     // of all requests, 64 tokens each
  std::int64_t num_runs;                       // of tokens that the run stores
  std::int64_t requests, blocks, runs, bytes;  // where they begin, and end
};

// How keys are cut, as CudaCall has it.
struct CudaCut {
  std::int64_t num_items, num_workers, spans_per_part, waiting_states;
};

struct CudaPlan : intflash_plan {
  CudaStaging staging;
  CudaCut cut;
  std::int64_t staging_offset;  // into the workspace
  std::int64_t center_offset;   // room for a dense call's centres, of keys or of values
  double largest_softmax_scale;
};

// The keys that some query of a request sees.
KeyRange keys_that_are_seen(const Request& request);
// The blocks of 64 tokens, in whole score blocks, that they are in.
inline KeyRange blocks_of(KeyRange keys) {
  if (keys.begin == keys.end) return {};
  return {keys.begin / kScoreBlock * 2, ceil_div(keys.end, kScoreBlock) * 2};
}

// Tiles of all kv heads of a request's rows.
std::int64_t cuda_tiles(const CudaPlan& plan, const Request& request);
// Parts of so many spans that keys are in; one where there are none.
KeyRange cuda_parts(KeyRange keys, std::int64_t spans_per_part);

CudaTensor cuda_tensor(const intflash_tensor& tensor, intflash_dtype dtype);
CudaPages cuda_pages(const PageLayout& layout, std::int64_t num_kv_heads);

// Kernels count rows of a kv head in 32 bits.
constexpr std::int64_t kMaxCudaRows = std::int64_t{1} << 30;
// A plan whose schedule is cut, for runs of so many bytes; where its sizes are not served it is
// destroyed.
intflash_status finish_cuda_plan(const RunCalls& calls, const char* kernel, std::size_t run_bytes,
                                 CudaPlan& plan);

}  // namespace intflash::internal
