// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A tile's query rows: which keys they see, what their scores are multiplied by, and where all of a
// tile lies in shared memory.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/key_factors.h"
#include "cuda/products.h"
#include "cuda/requests.h"
#include "cuda/simt.h"
#include "cuda/weights.h"

namespace intflash::internal {
namespace {

constexpr std::int32_t kWarpRows = 16;
constexpr std::int32_t kWarps = static_cast<std::int32_t>(kCudaTileRows) / kWarpRows;  // of a side
template <int kDim>
constexpr std::int32_t kThreads = static_cast<std::int32_t>(cuda_threads(kDim));
constexpr std::int32_t kBlocksPerSpan = kSpanTokens / kScoreBlock;

// A query row, as its warp reads it.
struct alignas(16) TileRow {
  QueryRow query;
  std::int32_t begin, end;  // keys that it sees; 0 and -1 of a row behind the last

  INTFLASH_DEVICE bool is_absent() const { return end < 0; }
};
// The same in shared memory where two warps share 16 rows: 24 bytes, so that a block of 256
// channels has room for all else.
struct alignas(8) PackedRow {
  std::int32_t begin, end;
  float mantissa, factor;
  std::int16_t multiplier, exponent, score_bits, digits_above;
};
INTFLASH_DEVICE PackedRow packed_row(const TileRow& row) {
  const QueryRow& query = row.query;
  return {row.begin,
          row.end,
          query.scale.mantissa,
          query.factor,
          static_cast<std::int16_t>(query.scale.multiplier),
          static_cast<std::int16_t>(query.scale.exponent),
          static_cast<std::int16_t>(query.scale.score_bits),
          static_cast<std::int16_t>(query.digits_above)};
}
INTFLASH_DEVICE TileRow unpacked_row(const PackedRow& row) {
  return {
      {{row.multiplier, row.exponent, row.mantissa, row.score_bits}, row.factor, row.digits_above},
      row.begin,
      row.end};
}
template <int kDim>
using StoredRow = std::conditional_t<kSides<kDim> == 2, PackedRow, TileRow>;

// What a block, or all of them, came to for a row.
struct alignas(16) RowOutcome {
  BlockWeight weight;
  std::int32_t is_active;  // sees a key
};

// Where all of it lies in shared memory.
template <int kDim>
struct Place {
  static constexpr std::size_t kKeys = 0;
  static constexpr std::size_t kValues = kKeys + BlockCopy<kDim>::kBytes;
  static constexpr std::size_t kDots = kValues + BlockCopy<kDim>::kBytes;
  // Of 16 rows: their products, then in place of them their weights; in the end out, of 8.
  static constexpr std::size_t kDotBytes = kWarpRows * kScoreBlock * 4;
  static constexpr std::size_t kRows = kDots + kWarps * kDotBytes;
  static constexpr std::size_t kFactors = kRows + kCudaTileRows * sizeof(StoredRow<kDim>);
  static constexpr std::size_t kPowers = kFactors + KeyFactors::kBytes;
  static constexpr std::size_t kBytes = kPowers + PowerTable::kBytes;
  static_assert(kFactors % 16 == 0 && kWarpRows / 2 * kDim * 4 <= kDotBytes);
  static_assert(kBytes <= 99 * 1024, "what a block has on devices 8.6 and 8.9");
};

// A tile's rows in shared memory, from one of them on.
template <int kDim>
class TileRows {
 public:
  INTFLASH_DEVICE explicit TileRows(std::int32_t first)
      : rows_(Place<kDim>::kRows + first * sizeof(StoredRow<kDim>)) {}

  INTFLASH_DEVICE TileRow load(std::int32_t i) const {
    if constexpr (kSides<kDim> == 2) {
      return unpacked_row(rows_.load(i));
    } else {
      return rows_.load(i);
    }
  }
  INTFLASH_DEVICE void store(std::int32_t i, const TileRow& row) const {
    if constexpr (kSides<kDim> == 2) {
      rows_.store(i, packed_row(row));
    } else {
      rows_.store(i, row);
    }
  }

 private:
  Shared<StoredRow<kDim>> rows_;
};

// Where in the words of 16 rows a row has four sums next to each other, or four keys' weights as a
// word, and behind these what they came to. Rows are turned, so that those which a warp reads or
// writes at once are out of each other's banks.
INTFLASH_DEVICE std::int32_t place_of_sums(std::int32_t row, std::int32_t four_keys) {
  return row * (kScoreBlock / 4) + (four_keys ^ row % 2 * 4);
}
INTFLASH_DEVICE std::int32_t place_of_weights(std::int32_t row, std::int32_t four_keys) {
  return row * kScoreBlock + (four_keys ^ row % 8 * 4);
}
INTFLASH_DEVICE std::int32_t place_of_outcome(std::int32_t row) {
  return row * (kScoreBlock / 4) + 8 + row % 8;
}

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
  std::int32_t thread;
  std::int32_t warp, side;  // which 16 rows, and which warp of theirs
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
template <int kDim>
INTFLASH_DEVICE TileThread tile_thread(const CudaCall& call, const CudaRequest& request,
                                       std::int32_t tile, std::int32_t part) {
  constexpr auto kRows = static_cast<std::int32_t>(cuda_tile_rows(kDim));
  const std::int64_t rows = rows_of(call, request);
  const auto tiles_per_head = static_cast<std::int32_t>(ceil_div(rows, kRows));
  TileThread at{};
  at.thread = thread_place();
  at.warp = at.thread / kWarpThreads / kSides<kDim>;
  at.side = at.thread / kWarpThreads % kSides<kDim>;
  at.lane = lane_of(at.thread);
  at.request = &request;
  at.part = part;
  at.tile = tile;
  at.kv_head = tile / tiles_per_head;
  at.first_tile_row = tile % tiles_per_head * kRows;
  at.last_row =
      static_cast<std::int32_t>(min_of<std::int64_t>(at.first_tile_row + kRows, rows) - 1);
  at.first_row = at.first_tile_row + at.warp * kWarpRows;
  return at;
}

}  // namespace
}  // namespace intflash::internal
