// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The Hadamard transform of rows in shared memory, by a warp, but for its factor and signs
// (tile/hadamard.h): additions in the order of docs/numerics.md.
#pragma once

#include <cstdint>

#include "cuda/simt.h"

namespace intflash::internal {
namespace {

// Of rows of dim channels, one behind the other: each run of a power of two of them, as many as
// divide dim.
INTFLASH_DEVICE void transform_rows(Shared<float> rows, std::int32_t num_rows, std::int32_t dim,
                                    std::int32_t lane) {
  const std::int32_t run = dim & -dim;
  for (std::int32_t half = 1; half < run; half *= 2) {
    sync_warp();
    for (std::int32_t i = lane; i < num_rows * dim / 2; i += kWarpThreads) {
      const std::int32_t at = i / half * 2 * half + i % half;
      const float a = rows.load(at);
      const float b = rows.load(at + half);
      rows.store(at, a + b);
      rows.store(at + half, a - b);
    }
  }
  sync_warp();
}

}  // namespace
}  // namespace intflash::internal
