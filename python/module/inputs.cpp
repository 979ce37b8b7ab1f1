// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "inputs.h"

#include "errors.h"

namespace intflash::python {

Shape shape_of(const Array& array) {
  const int first = array.rank() - 3;
  return {first == 0 ? 1 : array.extent(0), array.extent(first), array.extent(first + 1),
          array.extent(first + 2)};
}

intflash_tensor tensor_of(const Array& array) {
  const int first = array.rank() - 3;
  intflash_tensor tensor{};
  tensor.data = array.data();
  tensor.stride_batch = first == 0 ? 0 : array.stride(0);
  tensor.stride_head = array.stride(first);
  tensor.stride_token = array.stride(first + 1);
  return tensor;
}

void want_same(const char* what, const Array& a, std::int64_t of_a, const Array& b,
               std::int64_t of_b) {
  if (of_a == of_b) return;
  raise(INTFLASH_BAD_SHAPE, std::string(a.name()) + " has shape " + a.shape_text() + ", and " +
                                b.name() + " " + b.shape_text() + ": " + what + " differ");
}

void want_output(const Array& out, const Extents& shape, int rank) {
  if (out.rank() != rank || out.shape() != shape) {
    raise(INTFLASH_BAD_SHAPE, std::string(out.name()) + " has shape " + out.shape_text() + ": " +
                                  shape_text(shape.data(), rank) + " is wanted");
  }
  out.want_dtypes(false);
  out.want_writable();
}

intflash_additive_mask mask_tensor_of(Array& mask, const Extents& shape) {
  mask.make_rows();
  const int missing = kMaxRank - mask.rank();
  std::int64_t strides[kMaxRank] = {};
  bool fits = true;
  for (int i = missing; i < kMaxRank; ++i) {
    const std::int64_t extent = mask.extent(i - missing);
    const bool broadcasts = extent == 1 && i + 1 < kMaxRank;
    fits &= broadcasts || extent == shape[static_cast<std::size_t>(i)];
    strides[i] = mask.stride(i - missing);
  }
  if (!fits) {
    raise(INTFLASH_BAD_SHAPE, std::string(mask.name()) + " has shape " + mask.shape_text() +
                                  ": (batch, heads, query tokens, key tokens) is " +
                                  shape_text(shape.data(), kMaxRank) +
                                  ", of which all but the last may be 1 or missing");
  }
  intflash_additive_mask result{};
  result.data = mask.data();
  result.dtype = mask.dtype();
  result.stride_batch = strides[0];
  result.stride_head = strides[1];
  result.stride_query = strides[2];
  return result;
}

}  // namespace intflash::python
