// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Stands in for src/amx/tiles.h where there is no AMX: the same operations on tile registers in
// memory. What the CPU would fault on stops the program.
#pragma once

#include <cstdint>

#include "amx/tile_config.h"
#include "tile/portability.h"

namespace intflash::internal {
namespace {
namespace tiles {

struct Tile {
  alignas(64) std::uint8_t row[16][64];
};

struct TileState {
  bool configured;
  TileConfig config;
  Tile tile[8];
};
inline thread_local TileState state{};

inline void require(bool condition) {
  if (!condition) __builtin_trap();
}

inline void require_shape(std::int32_t tile) {
  require(state.configured && tile < 8 && state.config.rows[tile] > 0 &&
          state.config.row_bytes[tile] > 0);
}

inline void configure(const TileConfig& config) {
  require(config.palette == 1 && config.start_row == 0);
  for (const std::uint8_t byte : config.reserved) require(byte == 0);
  for (std::int32_t t = 0; t < 16; ++t) {
    require(config.rows[t] <= (t < 8 ? 16 : 0) && config.row_bytes[t] <= (t < 8 ? 64 : 0));
    require((config.rows[t] == 0) == (config.row_bytes[t] == 0));
  }
  state.configured = true;
  state.config = config;
  __builtin_memset(state.tile, 0, sizeof state.tile);
}
inline void release() { state.configured = false; }

template <std::int32_t kTile>
void zero() {
  require_shape(kTile);
  __builtin_memset(&state.tile[kTile], 0, sizeof(Tile));
}

// Rows and bytes beyond the tile's shape become zero.
template <std::int32_t kTile>
void load(const void* rows, std::int64_t stride) {
  zero<kTile>();
  for (std::int32_t r = 0; r < state.config.rows[kTile]; ++r) {
    __builtin_memcpy(state.tile[kTile].row[r], static_cast<const char*>(rows) + r * stride,
                     state.config.row_bytes[kTile]);
  }
}
template <std::int32_t kTile>
void load_stream(const void* rows, std::int64_t stride) {
  load<kTile>(rows, stride);
}
template <std::int32_t kTile>
void store(void* rows, std::int64_t stride) {
  require_shape(kTile);
  for (std::int32_t r = 0; r < state.config.rows[kTile]; ++r) {
    __builtin_memcpy(static_cast<char*>(rows) + r * stride, state.tile[kTile].row[r],
                     state.config.row_bytes[kTile]);
  }
}

template <class A>
void dot(std::int32_t sum, std::int32_t a, std::int32_t b) {
  require_shape(sum);
  require_shape(a);
  require_shape(b);
  const TileConfig& config = state.config;
  require(sum != a && sum != b && a != b);
  require(config.rows[sum] == config.rows[a] && config.row_bytes[sum] == config.row_bytes[b]);
  require(config.row_bytes[a] == config.rows[b] * 4 && config.row_bytes[sum] % 4 == 0);
  for (std::int32_t i = 0; i < config.rows[a]; ++i) {
    std::int32_t sums[16];
    __builtin_memcpy(sums, state.tile[sum].row[i], sizeof sums);
    for (std::int32_t k = 0; k < config.rows[b]; ++k) {
      A quad[4];
      __builtin_memcpy(quad, state.tile[a].row[i] + k * 4, 4);
      std::int8_t others[64];
      __builtin_memcpy(others, state.tile[b].row[k], 64);
      for (std::int32_t j = 0; j < 16; ++j) {
        sums[j] += quad[0] * others[4 * j] + quad[1] * others[4 * j + 1] +
                   quad[2] * others[4 * j + 2] + quad[3] * others[4 * j + 3];
      }
    }
    __builtin_memcpy(state.tile[sum].row[i], sums, sizeof sums);
  }
}
template <std::int32_t kSum, std::int32_t kA, std::int32_t kB>
void dot_s8_s8() {
  dot<std::int8_t>(kSum, kA, kB);
}
template <std::int32_t kSum, std::int32_t kA, std::int32_t kB>
void dot_u8_s8() {
  dot<std::uint8_t>(kSum, kA, kB);
}

inline void repeat_dot(const TileConfig& config, std::int64_t repeats) {
  configure(config);
  for (std::int64_t i = 0; i < repeats; ++i) {
    dot_s8_s8<0, 6, 7>();
    dot_s8_s8<1, 6, 7>();
    dot_s8_s8<2, 6, 7>();
    dot_s8_s8<3, 6, 7>();
  }
  release();
}

}  // namespace tiles
}  // namespace
}  // namespace intflash::internal
