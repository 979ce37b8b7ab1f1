// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Which keys the queries of a request leave to anybody: what lies beside them does not count.
#pragma once

#include <cstdint>

#include "cuda/requests.h"
#include "cuda/row_mask.h"
#include "cuda/simt.h"

namespace intflash::internal {
namespace {

// Whether a query of the request sees the key, of any head of the kv head's group; by all lanes.
INTFLASH_DEVICE bool is_seen(const CudaCall& call, const CudaRequest& request, std::int64_t kv_head,
                             std::int64_t key, std::int32_t lane) {
  // By rules alone queries next to each other see ranges without a gap between them.
  if (key < request.key_begin || key >= request.key_end) return false;
  if (request.mask.elements == nullptr && request.mask.bits == nullptr) return true;
  const std::int64_t rows = rows_of(call, request);
  for (std::int64_t first = 0; first < rows; first += kWarpThreads) {
    const std::int64_t row = first + lane;
    const std::int64_t query = row / call.group_size;
    const bool is_left = row < rows && key >= first_seen(request, query) &&
                         key < end_seen(request, query) &&
                         !row_mask(call, request, kv_head, row).at(key).hides;
    if (warp_any(is_left)) return true;
  }
  return false;
}

}  // namespace
}  // namespace intflash::internal
