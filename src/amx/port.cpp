// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The port for AMX with INT8: tiles of 16 x 64 bytes, beside AVX-512 with VNNI and VBMI.
#include "amx/by_vnni.h"
#include "amx/pipeline.h"
#include "amx/tiles.h"
#include "tile/mask_words.h"
#include "tile/pack.h"
#include "tile/rows.h"
#include "tile/state.h"
#include "tile/value_levels.h"

namespace intflash::internal {
namespace {

double integer_peak(std::int64_t repeats) {
  TileConfig config;
  for (std::int32_t t = 0; t < 8; ++t) config.set_shape(t, 16, 64);
  tiles::repeat_dot(config, repeats);
  return 2.0 * 16 * 16 * 64 * 4 * static_cast<double>(repeats);
}

void attend_tile_by_either(const TileTask& task) {
  if (task.query->rows > kFewRows && takes_codes_alone(*task.query, task.blocks, task.num_blocks)) {
    attend_tile_amx(task);
  } else {
    attend_by_vnni(task);
  }
}
std::size_t scratch_bytes_of_either(std::int32_t head_dim, std::int32_t head_dim_v,
                                    bool has_digits) {
  return max_of(scratch_bytes_by_vnni(head_dim, head_dim_v, has_digits),
                scratch_bytes_amx(head_dim, head_dim_v));
}

}  // namespace

extern constexpr KernelTable kernels_amx_int8 = {
    .name = "amx_int8",
    .tile_rows = kMaxTileRows,
    .max_magnitude = max_magnitude<Avx512>,
    .sum_rows = sum_rows<Avx512>,
    .quantize_rows = quantize_rows<Avx512>,
    .sum_magnitudes = sum_magnitudes,
    .pack_keys = pack_keys<Avx512>,
    .pack_values = pack_values<Avx512>,
    .prepare_block = prepare_block<Amx>,
    .mask_words = mask_words<Avx512>,
    .has_bad_element = has_bad_element,
    .scratch_bytes = scratch_bytes_of_either,
    .attend_tile = attend_tile_by_either,
    .attend_spans = attend_spans_amx,
    .merge_states = merge_states,
    .write_row = write_row<Avx512>,
    .integer_peak = integer_peak,
    .expand = {nullptr, nullptr, expand_k8v4<Avx512>},
};

}  // namespace intflash::internal
