// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Which request a row, an item or a tile of a call is of, and which keys its rules let it see.
#pragma once

#include <cstdint>

#include "cuda/call.h"
#include "cuda/simt.h"

namespace intflash::internal {
namespace {

// The last request whose number, one that ascends from 0, is at most `at`.
INTFLASH_DEVICE std::int32_t request_of(const CudaCall& call, std::int64_t CudaRequest::*number,
                                        std::int64_t at) {
  std::int32_t first = 0;
  auto end = static_cast<std::int32_t>(call.num_requests);
  while (end - first > 1) {
    const std::int32_t middle = first + (end - first) / 2;
    if (call.requests[middle].*number <= at) {
      first = middle;
    } else {
      end = middle;
    }
  }
  return first;
}

INTFLASH_DEVICE std::int64_t rows_of(const CudaCall& call, const CudaRequest& request) {
  return request.query_len * call.group_size;
}

// Of the codes and scales of queries: those of a kv head's row of a request.
INTFLASH_DEVICE std::int64_t query_index(const CudaCall& call, const CudaRequest& request,
                                         std::int64_t kv_head, std::int64_t row) {
  return request.first_row * call.num_kv_heads + kv_head * rows_of(call, request) + row;
}

// The keys that a query of a request sees by its rules.
INTFLASH_DEVICE std::int64_t first_seen(const CudaRequest& request, std::int64_t query) {
  const std::int64_t position = request.first_position + query;
  return request.window_left < 0 ? request.key_begin
                                 : max_of(request.key_begin, position - request.window_left);
}
INTFLASH_DEVICE std::int64_t end_seen(const CudaRequest& request, std::int64_t query) {
  const std::int64_t position = request.first_position + query;
  const std::int64_t end = max_of(position + request.window_right + 1, request.prefix_len);
  return request.window_right < 0 ? request.key_end : min_of(request.key_end, end);
}

}  // namespace
}  // namespace intflash::internal
