// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A tile's query rows: which keys they see, what their scores are multiplied by, and where all of a
// tile lies in shared memory.
#pragma once

#include <cstdint>

#include "cuda/key_factors.h"
#include "cuda/products.h"
#include "cuda/requests.h"
#include "cuda/simt.h"
#include "cuda/weights.h"

namespace intflash::internal {
namespace {

constexpr std::int32_t kWarpRows = 16;
constexpr std::int32_t kWarps = static_cast<std::int32_t>(kCudaTileRows) / kWarpRows;
constexpr std::int32_t kThreads = kWarps * kWarpThreads;
constexpr std::int32_t kBlocksPerSpan = kSpanTokens / kScoreBlock;

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
  static constexpr std::size_t kPowers = kFactors + KeyFactors::kBytes;
  static constexpr std::size_t kBytes = kPowers + PowerTable::kBytes;
  static_assert(kDim <= kDotStride);
};

// ---- Which keys a row sees ----

// A bit per key of a lane, from first_key on.
INTFLASH_DEVICE std::uint32_t kept_keys(const TileRow& row, std::int32_t first_key) {
  std::uint32_t kept = 0;
  for (std::int32_t i = 0; i < kLaneKeys; ++i)
    kept |= (first_key + i >= row.begin && first_key + i < row.end ? 1u : 0u) << i;
  return kept;
}

// Channels of a kernel's heads. kPads: its tiles may have more.
template <int kDim, bool kPads>
INTFLASH_DEVICE std::int32_t head_dim_of(const CudaCall& call) {
  return kPads ? static_cast<std::int32_t>(call.head_dim) : kDim;
}
template <int kDim, bool kPads>
INTFLASH_DEVICE std::int32_t head_dim_v_of(const CudaCall& call) {
  return kPads ? static_cast<std::int32_t>(call.head_dim_v) : kDim;
}

// ---- A row ----

// What query_scale * softmax_scale * log2(e) is in fixed point, and what bounds the row's products.
INTFLASH_DEVICE TileRow make_row(const CudaCall& call, const CudaRequest& request,
                                 std::int64_t kv_head, std::int64_t row, std::int32_t head_dim) {
  TileRow made{};
  made.end = -1;
  if (row >= rows_of(call, request)) return made;
  const std::int64_t at = query_index(call, request, kv_head, row);
  QueryRow& query = made.query;
  query.digits_above = call.digits_above;
  query.factor = call.query_scale[at] * request.softmax_factor;
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
    const std::int32_t code = call.query_codes[at * call.tile_dim + c];
    sum += code < 0 ? -code : code;
  }
  std::uint32_t bound = static_cast<std::uint32_t>(128 * sum + 64 * head_dim);
  for (; bound != 0; bound >>= 1) ++query.scale.score_bits;
  const std::int64_t token = row / call.group_size;
  made.begin = static_cast<std::int32_t>(first_seen(request, token));
  made.end = static_cast<std::int32_t>(max_of<std::int64_t>(0, end_seen(request, token)));
  return made;
}

// ---- A thread ----

// A thread of a tile, and the part of the keys that it attends; 32 bits, since all of it stays in
// registers.
struct TileThread {
  std::int32_t thread, warp;
  Lane lane;
  const CudaRequest* request;
  std::int32_t part, tile;  // of the request's: part from its first on, tile of all kv heads
  std::int32_t kv_head;
  std::int32_t first_tile_row, last_row;
  std::int32_t first_row;  // of the warp's

  // Whether the warp has no row: it copies, and meets the others, alone.
  INTFLASH_DEVICE bool is_idle() const { return first_row > last_row; }
  // Of a row of the warp's; nullptr: it lies behind the last.
  INTFLASH_DEVICE const std::uint32_t* words_of_row(const CudaCall& call, const std::int8_t* rows,
                                                    std::int32_t row) const {
    const std::int64_t at = query_index(call, *request, kv_head, first_row + row);
    return first_row + row > last_row
               ? nullptr
               : reinterpret_cast<const std::uint32_t*>(rows + at * call.tile_dim);
  }
};

// Of part `part` of a request's tile.
INTFLASH_DEVICE TileThread tile_thread(const CudaCall& call, const CudaRequest& request,
                                       std::int32_t tile, std::int32_t part) {
  const std::int64_t rows = rows_of(call, request);
  const auto tiles_per_head = static_cast<std::int32_t>(ceil_div(rows, kCudaTileRows));
  TileThread at{};
  at.thread = thread_place();
  at.warp = at.thread / kWarpThreads;
  at.lane = lane_of(at.thread);
  at.request = &request;
  at.part = part;
  at.tile = tile;
  at.kv_head = tile / tiles_per_head;
  at.first_tile_row = tile % tiles_per_head * static_cast<std::int32_t>(kCudaTileRows);
  at.last_row = static_cast<std::int32_t>(min_of(at.first_tile_row + kCudaTileRows, rows) - 1);
  at.first_row = at.first_tile_row + at.warp * kWarpRows;
  return at;
}

}  // namespace
}  // namespace intflash::internal
