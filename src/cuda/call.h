// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What kernels are told, in plain data: where tokens lie, which are new, and what queries see.
#pragma once

#include <cstdint>

#include "cuda/findings.h"
#include "tile/portability.h"
#include "tile/types.h"

namespace intflash::internal {

// Rows of a tensor in the device's memory: of kF32, kF16 or kBf16, channels contiguous, strides in
// elements.
struct CudaTensor {
  void* data;
  Dtype dtype;
  std::int64_t stride_batch, stride_head, stride_token;
};

// What a table of rope may hold at most in magnitude; slopes, and scales of masks.
constexpr float kCudaMaxRope = 16.0f;
constexpr float kCudaMaxFactor = 1e20f;
// Tables of rotary position embedding, by absolute position, in the device's memory.
struct CudaRope {
  const float* cos;  // nullptr: none
  const float* sin;
  std::int32_t dim;  // the first channels, which are turned
  bool halves;       // as in RopeRows
};

// Pages of version 1 of codecs int8 and int8_wide, in the device's memory. A kv head's part of a
// page is as src/pages/page.h has it.
struct CudaPages {
  char* first;
  std::int64_t page_bytes, head_bytes;              // of all kv heads, and of one
  std::int64_t key_block_bytes, value_block_bytes;  // of 64 tokens
  std::int64_t values, scales;  // where in a head's part values and scales begin
  std::int32_t page_size;
  bool has_digits;
};

// An entry of a table of blocks of 64 tokens: a page, and the block's place in it, of which the
// largest page has four; -1: none.
constexpr std::int32_t kCudaPlaces = 4;
INTFLASH_INLINE constexpr std::int32_t cuda_block_entry(std::int64_t page, std::int64_t place) {
  return static_cast<std::int32_t>(page * kCudaPlaces + place);
}

// What is taken from keys and values, in the device's memory.
struct CudaCenters {
  const float* key;    // [num_kv_heads][head_dim]; nullptr = none
  const float* value;  // [num_kv_heads][head_dim_v]; nullptr = none
  // In floats, from one of the tensors' first dimension to the next.
  std::int64_t key_stride, value_stride;

  INTFLASH_INLINE const float* key_of(std::int64_t batch, std::int64_t head,
                                      std::int64_t dim) const {
    return key == nullptr ? nullptr : key + batch * key_stride + head * dim;
  }
  INTFLASH_INLINE const float* value_of(std::int64_t batch, std::int64_t head,
                                        std::int64_t dim) const {
    return value == nullptr ? nullptr : value + batch * value_stride + head * dim;
  }
};

// ---- New tokens ----

// Consecutive rows of key and value that lie one after the other in a block of 64 tokens.
struct CudaTokenRun {
  std::int64_t slot;      // of the first one: page * page_size + its place in the page
  std::int64_t position;  // of it, for rope
  std::int64_t first;     // its row in the tensors
  std::int32_t count;
  std::int32_t batch;    // index into the tensors' first dimension
  std::int32_t request;  // that it is of
  bool clears;           // the block's other tokens are absent, and what it held is gone
};

// New tokens for pages: turned, centred, rotated, quantized and packed.
struct CudaTokens {
  void* stream;  // cudaStream_t
  CudaPages pages;
  std::int64_t num_kv_heads, head_dim, head_dim_v;
  CudaTensor key, value;
  std::int64_t num_rows;  // of each head of the tensors
  CudaRope rope;          // of keys
  CudaCenters centers;
  bool rotates_keys, rotates_values;
  const CudaTokenRun* runs;
  std::int64_t num_runs;
  // By page: bits of what no key of it exceeds, begun anew with its first token; nullptr: of all
  // in findings alone.
  std::uint32_t* largest_key;
  CudaFindings* findings;
};

// Means of a dense call's keys or values that some query sees, to be computed.
struct CudaMeans {
  bool of_values;
  bool rotates;   // the rows, as CudaTokens has it
  float* center;  // [batch][num_kv_heads][dim]: 0 where it would make the rows' steps coarser
  double* sums;   // scratch: [batch][num_kv_heads][spans][dim + 1]
  double* gains;  // scratch: [batch][num_kv_heads][num_rows]
};

// ---- Queries over pages ----

// A request's masks that are data, in the device's memory.
struct CudaMask {
  const void* elements;  // of query 0 and head 0 from the key at `begin` on, of kF32, kF16, kBf16
                         // or kBool; nullptr = none
  Dtype dtype;
  std::int64_t stride_head, stride_query;  // in elements
  std::int64_t begin, end;                 // positions of the keys that they are of
  const float* head_scale;                 // [query heads]; nullptr = 1
  const std::uint64_t* bits;               // [query_len][bit_words]; nullptr = none
  std::int64_t bits_begin, bit_words;      // the position of a query's first bit; 64 to a word
  bool is_checked;                         // its elements are those of the request before
};

// The queries of a request, or of a batch's element of a dense call. Rows of one kv head: row r is
// query r / group_size of query head r % group_size of the group.
struct CudaRequest {
  // Query i stands at position p = first_position + i and sees keys [key_begin, key_end) that lie
  // in p - window_left ... p + window_right; -1 = no bound on that side. Keys below prefix_len are
  // never too late to be seen.
  std::int64_t first_position, window_left, window_right, prefix_len;
  std::int64_t key_begin, key_end;
  std::int64_t query_len;
  std::int64_t first_rope;    // the first query's position, for rope and slopes
  std::int64_t tensor_batch;  // where its queries lie: index into the first dimension
  std::int64_t first_token;   // and the first one's into the third
  std::int64_t first_lse;     // index of the first one's log-sum-exp, for head 0
  std::int64_t first_row;     // of one kv head's rows of all requests
  // Of blocks of 64 tokens, by absolute position: the table's entry of block b is
  // first_entry + b.
  std::int64_t first_entry;
  std::int64_t first_block;  // entries of requests before it
  // Keys are cut into parts of 2^k spans, of which those from first_part on have keys that are
  // seen. Items are [tile of a kv head][part], kv heads one after the other.
  std::int64_t first_part, num_parts;
  std::int64_t first_item;   // of those of all requests
  std::int64_t first_state;  // of the states of parts, where there are more than one
  std::int64_t first_merge;  // tiles of requests before it whose parts are merged
  float softmax_scale;
  float softmax_factor;  // softmax_scale * log2(e)
  CudaMask mask;
};

// Heads of so many channels, of keys and values alike, have kernels of their own.
constexpr std::int64_t kCudaHeadDims[] = {64, 80, 96, 128, 256};
// Channels that a kernel's tiles have; others are served by tiles of 64, 128 or 256, padded, and
// where that is not enough by a kernel that has none.
constexpr std::int64_t kMaxCudaTileDim = 256;
constexpr std::int64_t cuda_tile_dim(std::int64_t head_dim, std::int64_t head_dim_v) {
  for (const std::int64_t dim : kCudaHeadDims)
    if (dim == head_dim && dim == head_dim_v) return dim;
  if (head_dim <= 64 && head_dim_v <= 64) return 64;
  if (head_dim <= 128 && head_dim_v <= 128) return 128;
  return head_dim <= 256 && head_dim_v <= 256 ? 256 : kMaxHeadDim;
}
// Warps that share 16 rows: a thread's registers hold no 256 channels of a row.
INTFLASH_INLINE constexpr std::int32_t cuda_sides(std::int64_t tile_dim) {
  return tile_dim == 256 ? 2 : 1;
}

// Requests over pages. What scratch pointers name is the device's memory, 256-byte aligned.
struct CudaCall {
  void* stream;  // cudaStream_t
  std::int64_t num_requests, num_kv_heads, group_size;
  std::int64_t head_dim, head_dim_v;
  std::int64_t tile_dim;  // cuda_tile_dim(); channels that heads do not have are zeros
  std::int64_t num_rows;  // of one kv head, of all requests
  CudaTensor query, out;
  float* lse;  // nullptr: not asked for
  std::int64_t lse_stride_head;
  CudaRope rope;  // of queries
  CudaCenters centers;
  const float* sinks;         // [num_kv_heads * group_size]; nullptr = none
  const float* alibi_slopes;  // the same
  bool has_masks;             // some request has masks that are data
  float score_cap;            // as in TileTask
  bool rotates_keys, rotates_values;
  std::int32_t digits_above;  // as in QueryTile; kNoDigits: pages have none
  CudaPages pages;
  const std::uint32_t* largest_key;  // as CudaTokens has it; nullptr: pages are the run's own

  // What findings are judged by.
  double largest_softmax_scale;                   // of requests
  double largest_center;                          // of a cache's keys
  bool computes_key_means, computes_value_means;  // of a dense call: centers are not given
  bool has_keys;
  CudaFindings* findings;
  const CudaRequest* requests;
  // Blocks of 64 tokens, as cuda_block_entry has them; -1: none of its tokens is seen.
  const std::int32_t* blocks;
  std::int64_t num_blocks;
  std::int8_t* query_codes;   // by request, [num_kv_heads][its rows][tile_dim]
  std::int8_t* query_digits;  // likewise, where digits_above is not kNoDigits
  float* query_scale;         // by request, [num_kv_heads][its rows]
  double* center_score;       // the same: what centring took from scores; nullptr: nobody asks
  std::int64_t num_items, num_merges;
  std::int64_t spans_per_part;
  // Of threads, which take items in turn.
  std::int64_t num_workers;
  // States that wait to be merged: [num_workers][waiting_states] of tile_state_bytes().
  char* states;
  std::int64_t waiting_states;
  char* part_states;

  INTFLASH_INLINE bool has_digits() const { return digits_above != kNoDigits; }
  // Whether the run has stored what it attends: new tokens, of a dense call.
  INTFLASH_INLINE bool has_own_pages() const { return largest_key == nullptr; }
  INTFLASH_INLINE bool has_given_key_centers() const {
    return centers.key != nullptr && !computes_key_means;
  }
  INTFLASH_INLINE bool has_given_value_centers() const {
    return centers.value != nullptr && !computes_value_means;
  }
  // Whether something acts on scores, or hides keys, beside the rules of requests.
  INTFLASH_INLINE bool has_acts() const {
    return has_masks || alibi_slopes != nullptr || score_cap > 0.0f;
  }
  // Whether heads have more channels than the widest tiles, or fewer than their own.
  INTFLASH_INLINE bool is_wide() const { return tile_dim > kMaxCudaTileDim; }
  INTFLASH_INLINE bool is_padded() const { return head_dim != tile_dim || head_dim_v != tile_dim; }
};

// Query rows of one kv head that a block of threads attends, 16 to a warp or two; of heads that are
// too wide for that, two to all warps.
constexpr std::int64_t kCudaTileRows = 64;
INTFLASH_INLINE constexpr std::int64_t cuda_tile_rows(std::int64_t tile_dim) {
  return tile_dim > kMaxCudaTileDim ? 2 : kCudaTileRows;
}
// Threads of a block, and blocks to a multiprocessor.
INTFLASH_INLINE constexpr std::int64_t cuda_threads(std::int64_t tile_dim) {
  return 128 * cuda_sides(tile_dim);
}
INTFLASH_INLINE constexpr std::int64_t cuda_blocks(std::int64_t tile_dim) {
  return tile_dim > kMaxCudaTileDim ? 8 : 2 / cuda_sides(tile_dim);
}
// A state of a tile's rows, as its threads lay it down: accumulators, and five words of each
// thread.
INTFLASH_INLINE std::int64_t tile_state_bytes(std::int64_t tile_dim) {
  return (cuda_tile_rows(tile_dim) * tile_dim + cuda_threads(tile_dim) * 5) * 4;
}

}  // namespace intflash::internal
