// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The port for AMX with INT8: tiles of 16 x 64 bytes, beside AVX-512 with VNNI and VBMI.
#include "amx/by_vnni.h"
#include "amx/pipeline.h"
#include "amx/tiles.h"

namespace intflash::internal {
namespace {

double integer_peak(std::int64_t repeats) {
  TileConfig config;
  for (std::int32_t t = 0; t < 8; ++t) config.set_shape(t, 16, 64);
  tiles::repeat_dot(config, repeats);
  return 2.0 * 16 * 16 * 64 * 4 * static_cast<double>(repeats);
}

void attend_tile_by_either(const TileTask& task) {
  if (task.query->rows > kFewRows && task.add_f16_values == nullptr &&
      takes_codes_alone(*task.query, task.blocks, task.num_blocks)) {
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

extern const RowKernels row_kernels_avx512_vnni;
extern constexpr KernelTable kernels_amx_int8 = {
    .name = "amx_int8",
    .tile_rows = kMaxTileRows,
    .rows = &row_kernels_avx512_vnni,
    .prepare_block = prepare_block<Amx>,
    .scratch_bytes = scratch_bytes_of_either,
    .attend_tile = attend_tile_by_either,
    .attend_spans = attend_spans_amx,
    .packed_rows = VnniForAmx::kPackedRows,
    .packed = VnniForAmx::kPacked,
    .integer_peak = integer_peak,
};

}  // namespace intflash::internal
