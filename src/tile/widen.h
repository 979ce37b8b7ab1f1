// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Elements of every input type as f32, each exactly.
#pragma once

#include <cstdint>

#include "tile/halves.h"
#include "tile/portability.h"
#include "tile/row_ops.h"
#include "tile/types.h"

namespace intflash::internal {
namespace {

// ggml's block_q8_0 and block_q4_0: a half, then the codes of 32 elements. In a byte of block_q4_0
// are element i below and element i + 16 above, both plus 8.
constexpr std::int64_t kGgmlBlock = 32;
constexpr std::int64_t kQ8_0BlockBytes = 2 + 32;
constexpr std::int64_t kQ4_0BlockBytes = 2 + 16;

template <class Ops>
INTFLASH_INLINE void widen_q8_0(const std::uint8_t* block, float* elements) {
  Ops::scale_codes(block + 2, load_as<std::uint16_t>(block), elements);
}
template <class Ops>
INTFLASH_INLINE void widen_q4_0(const std::uint8_t* block, float* elements) {
  Ops::scale_nibbles(block + 2, load_as<std::uint16_t>(block), elements);
}

// Of a row of kDtype the vector of channels from first + i on, first a multiple of 64.
template <class Ops, Dtype kDtype>
INTFLASH_INLINE typename Ops::F32 widened(const void* row, std::int64_t first, std::int64_t i) {
  if constexpr (kDtype == Dtype::kF16) {
    return Ops::load_halves(static_cast<const std::uint16_t*>(row) + first + i);
  } else if constexpr (kDtype == Dtype::kBf16) {
    return Ops::load_bf16(static_cast<const std::uint16_t*>(row) + first + i);
  } else {
    constexpr std::int64_t kBytes = kDtype == Dtype::kQ8_0 ? kQ8_0BlockBytes : kQ4_0BlockBytes;
    const std::uint8_t* block = static_cast<const std::uint8_t*>(row) +
                                first / kGgmlBlock * kBytes + i / kGgmlBlock * kBytes;
    const auto codes = kDtype == Dtype::kQ8_0 ? Ops::load_codes(block + 2 + i % kGgmlBlock)
                                              : Ops::load_nibbles(block + 2, i % kGgmlBlock);
    return Ops::mul_f32(codes, Ops::broadcast_half(load_as<std::uint16_t>(block)));
  }
}

// Bytes of consecutive elements: of whole blocks where the type has them.
INTFLASH_INLINE std::int64_t bytes_of(Dtype dtype, std::int64_t elements) {
  switch (dtype) {
    case Dtype::kF32:
      return elements * 4;
    case Dtype::kF16:
    case Dtype::kBf16:
      return elements * 2;
    case Dtype::kInt8:
    case Dtype::kBool:
    case Dtype::kF8E4m3:
    case Dtype::kF8E5m2:
      break;
    case Dtype::kQ8_0:
      return elements / kGgmlBlock * kQ8_0BlockBytes;
    case Dtype::kQ4_0:
      return elements / kGgmlBlock * kQ4_0BlockBytes;
  }
  return elements;
}

INTFLASH_INLINE const void* row_of(const RowSource& source, std::int64_t row) {
  return static_cast<const char*>(source.data) + bytes_of(source.dtype, row * source.stride);
}

// One row in f32: the row itself where it is f32 already, else the buffer. dim: a multiple of 8,
// unless Ops are the loops.
template <class Ops = RowLoops>
INTFLASH_INLINE const float* widen_row(const void* row, Dtype dtype, std::int64_t dim,
                                       float* INTFLASH_RESTRICT buffer) {
  const std::uint16_t* halves = static_cast<const std::uint16_t*>(row);
  const std::uint8_t* bytes = static_cast<const std::uint8_t*>(row);
  switch (dtype) {
    case Dtype::kF16:
      Ops::widen_halves(halves, dim, buffer);
      return buffer;
    case Dtype::kBf16:
      for (std::int64_t c = 0; c < dim; ++c) buffer[c] = widen_bf16(halves[c]);
      return buffer;
    case Dtype::kInt8:
      for (std::int64_t c = 0; c < dim; ++c)
        buffer[c] = static_cast<float>(static_cast<const std::int8_t*>(row)[c]);
      return buffer;
    case Dtype::kQ8_0:
      for (std::int64_t c = 0; c < dim; c += kGgmlBlock)
        widen_q8_0<Ops>(bytes + c / kGgmlBlock * kQ8_0BlockBytes, buffer + c);
      return buffer;
    case Dtype::kQ4_0:
      for (std::int64_t c = 0; c < dim; c += kGgmlBlock)
        widen_q4_0<Ops>(bytes + c / kGgmlBlock * kQ4_0BlockBytes, buffer + c);
      return buffer;
    case Dtype::kF8E4m3:
    case Dtype::kF8E5m2:
      RowLoops::widen_bytes(bytes, dtype == Dtype::kF8E4m3 ? kE4m3 : kE5m2, dim, buffer);
      return buffer;
    case Dtype::kF32:
    case Dtype::kBool:  // of masks, which are not widened
      break;
  }
  return static_cast<const float*>(row);
}

}  // namespace
}  // namespace intflash::internal
