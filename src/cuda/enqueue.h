// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What a call enqueues: kernels in the stream of the current device. Findings must be there, of
// nothing yet.
#pragma once

#include <cuda_runtime.h>

#include "cuda/call.h"

namespace intflash::internal {

// Looks at new tokens, which must be in range: first_bad_token and first_bad_rope.
cudaError_t enqueue_checks(const CudaTokens& tokens);
// New tokens into pages; notes what is not finite, which gets codes of 0.
cudaError_t enqueue_tokens(const CudaTokens& tokens);
// What a page's largest key may be with a block that was copied into it.
cudaError_t enqueue_note(void* stream, const float* key_scale, std::uint32_t* largest_key,
                         bool begins_page);

// Means that a dense call is to compute, a request to an element of the batch, and findings of the
// rows' magnitudes.
cudaError_t enqueue_means(const CudaCall& call, const CudaTokens& tokens, const CudaMeans& means);

// Findings, codes and scales of queries; what the pages' largest key may be, or of a dense call
// what its centres are; and findings of masks that are data.
cudaError_t enqueue_queries(const CudaCall& call);
cudaError_t enqueue_masks(const CudaCall& call);
// Looks at the keys and values that some query sees, masks included, where findings leave doubt,
// and notes whether the call is refused. Of a call with pages of its own it reads the rows of
// tokens.
cudaError_t enqueue_judgement(const CudaCall& call, const CudaTokens& tokens);
// Out and log-sum-exp, but where the call is refused.
cudaError_t enqueue_attend(const CudaCall& call);
// Its items, by so many blocks of threads, of a call that has_acts(), and of one that is_padded().
cudaError_t enqueue_acts(const CudaCall& call, std::int64_t blocks);
cudaError_t enqueue_padded(const CudaCall& call, std::int64_t blocks);
// All of one that is_wide().
cudaError_t enqueue_wide(const CudaCall& call);

// Whether this library has code for the current device: cudaSuccess, or why not.
cudaError_t check_attend();

}  // namespace intflash::internal
