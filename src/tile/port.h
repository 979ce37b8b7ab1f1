// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A kernel table from an instruction set's operations.
#pragma once

#include "tile/attend_tile.h"
#include "tile/mask_words.h"
#include "tile/pack.h"
#include "tile/rows.h"
#include "tile/value_levels.h"

namespace intflash::internal {
namespace {

template <class Isa>
constexpr KernelTable make_kernel_table(const char* name) {
  return {
      .name = name,
      .tile_rows = Isa::kTileRows,
      .max_magnitude = max_magnitude<Isa>,
      .sum_rows = sum_rows<Isa>,
      .quantize_rows = quantize_rows<Isa>,
      .sum_magnitudes = sum_magnitudes,
      .pack_keys = pack_keys<Isa>,
      .pack_values = pack_values<Isa>,
      .prepare_block = prepare_block<Isa>,
      .mask_words = mask_words<Isa>,
      .has_bad_element = has_bad_element,
      .scratch_bytes = scratch_bytes<Isa>,
      .attend_tile = attend_tile<Isa>,
      .attend_spans = nullptr,
      .merge_states = merge_states,
      .write_row = write_row<Isa>,
      .integer_peak = Isa::integer_peak,
      .expand = {nullptr, nullptr, expand_k8v4<Isa>},
  };
}

}  // namespace
}  // namespace intflash::internal
