// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A row of a dense tensor, element by element as f32.
#pragma once

#include <cstdint>

#include "cuda/call.h"
#include "cuda/simt.h"
#include "tile/halves.h"

namespace intflash::internal {
namespace {

struct TensorRow {
  void* data = nullptr;
  Dtype dtype = Dtype::kF32;

  INTFLASH_DEVICE float load(std::int64_t i) const {
    if (dtype == Dtype::kF32) return static_cast<const float*>(data)[i];
    const std::uint16_t half = static_cast<const std::uint16_t*>(data)[i];
    return dtype == Dtype::kF16 ? widen_f16(half) : widen_bf16(half);
  }
  INTFLASH_DEVICE void store(std::int64_t i, float x) const {
    if (dtype == Dtype::kF32) {
      static_cast<float*>(data)[i] = x;
    } else {
      // The weights' rounding may lift out above the values, and the largest of them to infinity.
      static_cast<std::uint16_t*>(data)[i] =
          dtype == Dtype::kF16 ? narrow_f16(min_of(max_of(x, -65504.0f), 65504.0f))
                               : narrow_bf16(x);
    }
  }
};

INTFLASH_DEVICE TensorRow row_of(const CudaTensor& tensor, std::int64_t b, std::int64_t head,
                                 std::int64_t token) {
  const std::int64_t at =
      b * tensor.stride_batch + head * tensor.stride_head + token * tensor.stride_token;
  return {static_cast<char*>(tensor.data) + at * (tensor.dtype == Dtype::kF32 ? 4 : 2),
          tensor.dtype};
}

}  // namespace
}  // namespace intflash::internal
