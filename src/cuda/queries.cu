// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Rows of queries in INT8, and what the keys that they are to meet may be at most.
#include "cuda/enqueue.h"
#include "cuda/quantize.h"
#include "cuda/requests.h"
#include "cuda/row_mask.h"

namespace intflash::internal {
namespace {

constexpr std::int32_t kWarps = 4;
constexpr std::int32_t kThreads = kWarps * kWarpThreads;

// What centring took from a row's scores, in double, in the order of channels.
INTFLASH_DEVICE double score_of_center(Shared<float> row, const float* center, std::int32_t dim,
                                       float softmax_scale) {
  double dot = 0;
  for (std::int32_t c = 0; c < dim; ++c)
    dot += static_cast<double>(row.load(c)) * static_cast<double>(center[c]);
  return dot * static_cast<double>(softmax_scale);
}

INTFLASH_KERNEL(kThreads)
quantize_queries(CudaCall call) {
  const BlockPlace3 place = block_place();
  const std::int32_t warp = thread_place() / kWarpThreads;
  const std::int32_t lane = thread_place() % kWarpThreads;
  const auto dim = static_cast<std::int32_t>(call.head_dim);
  const std::int64_t row_of_all = static_cast<std::int64_t>(place.x) * kWarps + warp;
  if (row_of_all >= call.num_rows) return;
  const CudaRequest& request = call.requests[request_of(call, &CudaRequest::first_row, row_of_all)];
  const std::int64_t row = row_of_all - request.first_row;
  const Shared<float> buffer(static_cast<std::size_t>(warp * dim) * sizeof(float));
  const std::int64_t query_head = place.y * call.group_size + row % call.group_size;
  const std::int64_t query = row / call.group_size;
  const RowChange change = {call.rope, request.first_rope + query, nullptr, call.rotates_keys,
                            false};
  if (query_head == 0)
    check_rope(call.rope, change.position, request.first_token + query,
               &call.findings->first_bad_rope, lane);
  if (query == 0 && lane == 0 && call.sinks != nullptr &&
      !(call.sinks[query_head] < bits_as<float>(0x7f800000)))
    lower_to(&call.findings->first_bad_sink, query_head);
  if (query == 0 && lane == 0 && call.alibi_slopes != nullptr &&
      !is_factor(call.alibi_slopes[query_head]))
    lower_to(&call.findings->first_bad_slope, query_head);
  const std::uint32_t raw =
      load_row(row_of(call.query, request.tensor_batch, query_head, request.first_token + query),
               dim, change, buffer, lane);
  const std::int64_t at = query_index(call, request, place.y, row);
  if (call.center_score != nullptr) {
    sync_warp();
    if (lane == 0)
      call.center_score[at] =
          score_of_center(buffer, call.centers.key_of(request.tensor_batch, place.y, dim), dim,
                          request.softmax_scale);
    sync_warp();
  }
  const RowQuantum quantum = prepare_row(raw, dim, change, buffer, lane);
  note_row(&call.findings->query, quantum, quantum.raw_magnitude,
           request.first_lse + query_head * call.lse_stride_head + query, lane);
  std::int8_t* const codes = call.query_codes + at * call.tile_dim;
  std::int8_t* const digits = call.query_digits + at * call.tile_dim;
  for (std::int32_t c = lane; c < call.tile_dim; c += kWarpThreads) {
    codes[c] = c < dim ? code_of(buffer.load(c), quantum.inverse) : std::int8_t{0};
    if (!call.has_digits()) continue;
    digits[c] = c < dim ? digit_of(buffer.load(c), quantum.inverse) : std::int8_t{0};
  }
  if (lane == 0) call.query_scale[at] = quantum.scale;
}

INTFLASH_DEVICE void note_center(const float* center, std::int64_t dim, std::int64_t row,
                                 CudaFinding* finding, std::int32_t lane) {
  std::int32_t largest = 0;
  for (std::int64_t c = lane; c < dim; c += kWarpThreads)
    largest = max_of(largest, magnitude_bits(center[c]));
  RowQuantum found{};
  found.raw_magnitude = static_cast<std::uint32_t>(warp_max(largest));
  note_row(finding, found, found.raw_magnitude, row, lane);
}

// Means that a dense call is given.
INTFLASH_KERNEL(kWarpThreads)
check_centers(CudaCall call) {
  const BlockPlace3 place = block_place();
  const std::int64_t row = place.x * call.num_kv_heads + place.y;
  if (call.has_given_key_centers())
    note_center(call.centers.key_of(place.x, place.y, call.head_dim), call.head_dim, row,
                &call.findings->key_center, thread_place());
  if (call.has_given_value_centers())
    note_center(call.centers.value_of(place.x, place.y, call.head_dim_v), call.head_dim_v, row,
                &call.findings->value_center, thread_place());
}

// Of the pages that hold keys which are attended.
INTFLASH_KERNEL(kWarpThreads)
find_largest_keys(CudaCall call) {
  const std::int64_t i = static_cast<std::int64_t>(block_place().x) * kWarpThreads + thread_place();
  const std::int32_t block = i < call.num_blocks ? call.blocks[i] : -1;
  const std::uint32_t own = block < 0 ? 0 : call.largest_key[block / kCudaPlaces];
  const std::int32_t largest = warp_max(static_cast<std::int32_t>(own));
  if (thread_place() == 0)
    raise_to(&call.findings->largest_key, static_cast<std::uint32_t>(largest));
}

}  // namespace

cudaError_t enqueue_queries(const CudaCall& call) {
  const auto buffers = static_cast<std::size_t>(kWarps * call.head_dim) * sizeof(float);
  if (call.num_rows > 0) {
    const cudaError_t error =
        launch(quantize_queries,
               {ceil_div(call.num_rows, kWarps), call.num_kv_heads, 1, kThreads, buffers},
               call.stream, call);
    if (error != cudaSuccess) return error;
  }
  if (call.has_own_pages()) {
    if (!call.has_given_key_centers() && !call.has_given_value_centers()) return cudaSuccess;
    return launch(check_centers, {call.num_requests, call.num_kv_heads, 1, kWarpThreads, 0},
                  call.stream, call);
  }
  if (call.num_blocks == 0) return cudaSuccess;
  return launch(find_largest_keys, {ceil_div(call.num_blocks, kWarpThreads), 1, 1, kWarpThreads, 0},
                call.stream, call);
}

}  // namespace intflash::internal
