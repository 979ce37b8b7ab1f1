// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Arrays as tensors of the C interface.
#pragma once

#include "array.h"

namespace intflash::python {

// [batch][heads][tokens][dim] of an array of that shape, or without batch.
struct Shape {
  std::int64_t batch, heads, tokens, dim;
};
Shape shape_of(const Array& array);
intflash_tensor tensor_of(const Array& array);

// Raises unless the two agree in what the name says.
void want_same(const char* what, const Array& a, std::int64_t of_a, const Array& b,
               std::int64_t of_b);

// Raises unless results of that shape can be written to out.
void want_output(const Array& out, const Extents& shape, int rank);

// mask, which broadcasts to [batch][heads][query_len][kv_len]: numbers that are added to scores, or
// booleans of which true keeps the key. Keys are not broadcast.
intflash_additive_mask mask_tensor_of(Array& mask, const Extents& shape);

}  // namespace intflash::python
