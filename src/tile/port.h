// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A kernel table from an instruction set's operations.
#pragma once

#include "tile/attend_tile.h"

namespace intflash::internal {
namespace {

template <class Isa>
constexpr KernelTable make_kernel_table(const char* name, const RowKernels& rows) {
  return {
      .name = name,
      .tile_rows = Isa::kTileRows,
      .rows = &rows,
      .prepare_block = prepare_block<Isa>,
      .scratch_bytes = scratch_bytes<Isa>,
      .attend_tile = attend_tile<Isa>,
      .attend_spans = nullptr,
      .packed_rows = Isa::kPackedRows,
      .packed = Isa::kPacked,
      .integer_peak = Isa::integer_peak,
  };
}

}  // namespace
}  // namespace intflash::internal
