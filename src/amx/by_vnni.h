// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// attend_tile by vpdpbusd: for few rows, since AMX takes as long for them as for 16 (0.70 of the
// rate of reading at one row, against 0.89, with 32768 keys, before tiles of up to 16 rows asked
// for the next block's lines); and for rows that take second digits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "amx/simd.h"
#include "avx512/vnni.h"
#include "tile/attend_tile.h"

namespace intflash::internal {
namespace {

using VnniForAmx = VnniTiles<Avx512VnniBase, kMaxTileRows>;

// Where 32 keys in the order of VnniForAmx lie in that of Amx.
struct VnniPlaces {
  alignas(64) std::int16_t at[32];
};
constexpr VnniPlaces vnni_places() {
  VnniPlaces places{};
  for (std::int32_t key = 0; key < 32; ++key)
    places.at[NarrowedOrder<VnniForAmx>{}(key)] =
        static_cast<std::int16_t>(NarrowedOrder<Amx>{}(key));
  return places;
}
constexpr VnniPlaces kVnniPlaces = vnni_places();

INTFLASH_INLINE void to_vnni_order(std::int16_t* numbers) {
  const Amx::I16 places = Amx::load(kVnniPlaces.at);
  for (std::int32_t at = 0; at < kScoreBlock; at += 32)
    Amx::store(numbers + at, Amx::permute_words(Amx::load(numbers + at), places));
}

// Of attend_tile<VnniForAmx>; the blocks in its order follow.
INTFLASH_INLINE std::size_t own_scratch_bytes(std::int32_t head_dim, std::int32_t head_dim_v,
                                              bool has_digits) {
  return static_cast<std::size_t>(round_up(
      static_cast<std::int64_t>(scratch_bytes<VnniForAmx>(head_dim, head_dim_v, has_digits)), 64));
}

std::size_t scratch_bytes_by_vnni(std::int32_t head_dim, std::int32_t head_dim_v, bool has_digits) {
  return own_scratch_bytes(head_dim, head_dim_v, has_digits) +
         kSpanTokens / kScoreBlock * sizeof(ScoreBlock);
}

void attend_by_vnni(const TileTask& task) {
  const bool has_digits = task.query->digits_above != kNoDigits;
  ScoreBlock* const blocks = reinterpret_cast<ScoreBlock*>(
      static_cast<char*>(task.scratch) +
      own_scratch_bytes(task.query->head_dim, task.head_dim_v, has_digits));
  for (std::int32_t b = 0; b < task.num_blocks; ++b) {
    blocks[b] = task.blocks[b];
    to_vnni_order(blocks[b].key_factor);
    to_vnni_order(blocks[b].value_log2);
    to_vnni_order(blocks[b].value_weight);
  }
  TileTask own = task;
  own.blocks = blocks;
  attend_tile<VnniForAmx>(own);
}

}  // namespace
}  // namespace intflash::internal
