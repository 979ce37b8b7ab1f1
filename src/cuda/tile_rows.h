// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A tile's query rows: which keys they see, what their scores are multiplied by, and where all of a
// tile lies in shared memory.
#pragma once

#include <cstdint>

#include "cuda/products.h"
#include "cuda/simt.h"
#include "cuda/table.h"
#include "cuda/weights.h"

namespace intflash::internal {
namespace {

constexpr std::int32_t kWarpRows = 16;
constexpr std::int32_t kWarps = static_cast<std::int32_t>(kCudaTileRows) / kWarpRows;
constexpr std::int32_t kThreads = kWarps * kWarpThreads;
constexpr std::int64_t kBlocksPerSpan = kSpanTokens / kScoreBlock;

// A query row, as its warp reads it.
struct alignas(16) TileRow {
  QueryRow query;
  std::int32_t begin, end;  // keys that it sees; 0 and -1 of a row behind the last

  INTFLASH_DEVICE bool is_absent() const { return end < 0; }
};
// What a block, or all of them, came to for a row.
struct alignas(16) RowOutcome {
  BlockWeight weight;
  std::int32_t is_active;  // sees a key
};

// Where all of it lies in shared memory. Four words more than there are keys keep the rows that a
// warp writes at once out of each other's banks.
template <int kDim>
struct Place {
  static constexpr std::int32_t kDotStride = kScoreBlock + 4;      // words
  static constexpr std::int32_t kWeightStride = kScoreBlock + 16;  // bytes
  static constexpr std::size_t kKeys = 0;
  static constexpr std::size_t kValues = kKeys + BlockCopy<kDim>::kBytes;
  static constexpr std::size_t kDots = kValues + BlockCopy<kDim>::kBytes;
  static constexpr std::size_t kDotBytes = kWarpRows * kDotStride * 4;  // of a warp; its out, too
  static constexpr std::size_t kWeights = kDots + kWarps * kDotBytes;
  static constexpr std::size_t kWeightBytes = kWarpRows * kWeightStride;
  static constexpr std::size_t kRows = kWeights + kWarps * kWeightBytes;
  static constexpr std::size_t kOutcomes = kRows + kCudaTileRows * sizeof(TileRow);
  static constexpr std::size_t kFactors = kOutcomes + kCudaTileRows * sizeof(RowOutcome);
  static constexpr std::size_t kBytes = kFactors + kScoreBlock * 8;
  static_assert(kDim <= kDotStride);
};

// ---- Which keys a row sees ----

INTFLASH_DEVICE std::int64_t first_seen(const CudaCall& call, std::int64_t query) {
  const std::int64_t position = call.first_position + query;
  return call.window_left < 0 ? 0 : max_of<std::int64_t>(0, position - call.window_left);
}
INTFLASH_DEVICE std::int64_t end_seen(const CudaCall& call, std::int64_t query) {
  const std::int64_t position = call.first_position + query;
  const std::int64_t end = max_of(position + call.window_right + 1, call.prefix_len);
  return call.window_right < 0 ? call.kv_len : min_of(call.kv_len, end);
}

// A bit per key of a lane, from first_key on.
INTFLASH_DEVICE std::uint32_t kept_keys(const TileRow& row, std::int32_t first_key) {
  std::uint32_t kept = 0;
  for (std::int32_t i = 0; i < kLaneKeys; ++i)
    kept |= (first_key + i >= row.begin && first_key + i < row.end ? 1u : 0u) << i;
  return kept;
}

// ---- A row ----

// What query_scale * softmax_scale * log2(e) is in fixed point, and what bounds the row's products.
INTFLASH_DEVICE TileRow make_row(const CudaCall& call, std::int64_t head, std::int64_t row,
                                 std::int32_t head_dim) {
  TileRow made{};
  made.end = -1;
  if (row >= call.rows()) return made;
  const std::int64_t at = head * call.rows() + row;
  QueryRow& query = made.query;
  query.digits_above = call.digits_above;
  query.factor = call.query_scale[at] * call.softmax_factor;
  if (query.factor < kLeastFactor) {
    query.scale.mantissa = 0.5f;
    query.scale.exponent = -126;
  } else {
    query.scale.mantissa = mantissa_of(query.factor);
    query.scale.exponent = exponent_of(query.factor);
    query.scale.multiplier = min_of(round_to_int(query.scale.mantissa * 32768.0f), 32767);
  }
  std::int32_t sum = 0;
  for (std::int32_t c = 0; c < head_dim; ++c) {
    const std::int32_t code = call.query_codes[at * head_dim + c];
    sum += code < 0 ? -code : code;
  }
  std::uint32_t bound = static_cast<std::uint32_t>(128 * sum + 64 * head_dim);
  for (; bound != 0; bound >>= 1) ++query.scale.score_bits;
  const std::int64_t token = row / call.group_size;
  made.begin = static_cast<std::int32_t>(first_seen(call, token));
  made.end = static_cast<std::int32_t>(max_of<std::int64_t>(0, end_seen(call, token)));
  return made;
}

}  // namespace
}  // namespace intflash::internal
