// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The shapes of the eight tile registers, as ldtilecfg reads them.
#pragma once

#include <cstdint>

namespace intflash::internal {
namespace {

struct alignas(64) TileConfig {
  std::uint8_t palette = 1;  // eight tiles of up to 16 rows of up to 64 bytes
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};

  void set_shape(std::int32_t tile, std::int32_t tile_rows, std::int32_t tile_row_bytes) {
    rows[tile] = static_cast<std::uint8_t>(tile_rows);
    row_bytes[tile] = static_cast<std::uint16_t>(tile_row_bytes);
  }
};
static_assert(sizeof(TileConfig) == 64);

}  // namespace
}  // namespace intflash::internal
