// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What crosses between libintflash and libintflash_cuda: plain data, and one table of functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tile/portability.h"
#include "tile/types.h"

namespace intflash::internal {

// Of this header: a library of another one is refused.
constexpr std::uint32_t kCudaTableVersion = 1;
// Names the table of a library, a CudaTableFn.
constexpr const char* kCudaTableSymbol = "intflash_cuda_table";

struct CudaDeviceInfo {
  char name[96];
  std::int32_t compute_major, compute_minor;
  std::int32_t num_multiprocessors;
};

// Rows of a dense tensor in the device's memory: of kF32, kF16 or kBf16, channels contiguous,
// strides in elements.
struct CudaTensor {
  void* data;
  Dtype dtype;
  std::int64_t stride_batch, stride_head, stride_token;
};

// What quantizing found of one tensor.
struct CudaFinding {
  std::uint32_t magnitude;  // bits of the largest |x|, below infinity
  std::int64_t first_bad;   // lowest row (b * heads + h) * tokens + token with NaN or infinity;
                            // INT64_MAX = none
};
struct CudaFindings {
  CudaFinding query, key, value;
};

// A dense call. Rows of one kv head: row r is query r / group_size of query head r % group_size of
// the group. What scratch pointers name is the device's memory, 256-byte aligned.
struct CudaCall {
  void* stream;  // cudaStream_t
  std::int64_t batch, num_kv_heads, group_size, query_len, kv_len;
  std::int64_t head_dim, head_dim_v;
  CudaTensor query, key, value, out;
  float* lse;            // [batch][num_query_heads][query_len]; nullptr: not asked for
  float softmax_factor;  // softmax_scale * log2(e)
  bool rotates_keys, rotates_values;
  std::int32_t digits_above;  // as in QueryTile; kNoDigits: pages have none
  // Query i stands at position p = first_position + i and sees keys [begin, end) that lie in
  // p - window_left ... p + window_right; -1 = no bound on that side. Keys below prefix_len are
  // never too late to be seen.
  std::int64_t first_position, window_left, window_right, prefix_len;
  std::int64_t seen_begin, seen_end;  // keys that some query sees

  CudaFindings* findings;
  std::int8_t* query_codes;   // [batch][num_kv_heads][rows][head_dim]
  std::int8_t* query_digits;  // likewise, where digits_above is not kNoDigits
  float* query_scale;         // [batch][num_kv_heads][rows]
  // [batch][num_kv_heads][2 * blocks_per_head] pages of 64 tokens in page layout version 1, of
  // codec int8_wide where digits_above is not kNoDigits, else of int8.
  char* pages;
  std::int64_t blocks_per_head, page_bytes, key_block_bytes;
  // Key ranges are cut into parts of 2^k spans from position 0 on, each of which a block of threads
  // attends: where there is more than one, their states are merged by another.
  std::int64_t num_parts, spans_per_part;
  // Of threads, which take tiles' parts in turn.
  std::int64_t num_blocks;
  // States that wait to be merged: [num_blocks][waiting_states] of tile_state_bytes().
  char* states;
  std::int64_t waiting_states;
  char* part_states;  // [tiles][num_parts], where there is more than one

  INTFLASH_INLINE std::int64_t rows() const { return group_size * query_len; }
  INTFLASH_INLINE std::int64_t tiles_per_head() const;
  INTFLASH_INLINE std::int64_t num_tiles() const { return batch * num_kv_heads * tiles_per_head(); }
  INTFLASH_INLINE std::int64_t num_items() const { return num_tiles() * num_parts; }
  INTFLASH_INLINE bool has_digits() const { return digits_above != kNoDigits; }
};

// What there are kernels for, of keys and values alike.
constexpr std::int64_t kCudaHeadDims[] = {64, 80, 96, 128};

// Query rows of one kv head that a block of threads attends, 16 to a warp.
constexpr std::int64_t kCudaTileRows = 64;
INTFLASH_INLINE std::int64_t CudaCall::tiles_per_head() const {
  return ceil_div(rows(), kCudaTileRows);
}
// A state of a tile's rows, as its threads lay it down: accumulators, and five words of each
// thread.
INTFLASH_INLINE std::int64_t tile_state_bytes(std::int64_t head_dim_v) {
  return kCudaTileRows * (head_dim_v + 2 * 5) * 4;
}

// Functions return nullptr, or what CUDA says of the failure. They leave the calling thread's
// device as it was.
struct CudaTable {
  std::uint32_t version;
  const char* (*count_devices)(std::int32_t* count);
  const char* (*describe_device)(std::int32_t device, CudaDeviceInfo* info);
  // Whether this library has code that the device runs.
  const char* (*check_device)(std::int32_t device);
  // device: whose memory it is; -1: not of any.
  const char* (*locate)(const void* pointer, std::int32_t* device);
  const char* (*allocate)(std::int32_t device, void* stream, std::size_t bytes, void** memory);
  const char* (*release)(std::int32_t device, void* stream, void* memory);
  // Both wait for the stream.
  const char* (*read)(std::int32_t device, void* stream, const void* from, std::size_t bytes,
                      void* to);
  const char* (*wait)(std::int32_t device, void* stream);
  // Enqueued: findings, codes and scales of queries, pages of keys and values.
  const char* (*quantize)(std::int32_t device, const CudaCall& call);
  // Enqueued: out and lse from these.
  const char* (*attend)(std::int32_t device, const CudaCall& call);
};
using CudaTableFn = const CudaTable* (*)();

}  // namespace intflash::internal
