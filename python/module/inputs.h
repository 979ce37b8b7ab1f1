// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Arrays as tensors of the C interface.
#pragma once

#include <optional>
#include <vector>

#include "array.h"

namespace intflash::python {

// [batch][heads][tokens][dim] of an array of that shape, or without batch.
struct Shape {
  std::int64_t batch, heads, tokens, dim;
};
Shape shape_of(const Array& array);
intflash_tensor tensor_of(const Array& array);

// What codes of INT8 are to be multiplied by; none where source is None.
class Scales {
 public:
  // source: a number; an array that broadcasts to (batch, heads, tokens) of codes; or a pair of an
  // array and how many tokens share one of its numbers. Raises unless it belongs to codes.
  Scales(const char* name, nb::handle source, const Array& codes);
  Scales(const Scales&) = delete;
  Scales& operator=(const Scales&) = delete;
  void put_into(intflash_tensor& tensor) const;

 private:
  void read(const char* name, nb::handle numbers, nb::handle block, const Array& codes);

  std::optional<Array> array_;
  float number_ = 0;
  intflash_tensor scales_{};  // those fields of it alone
};

// Raises unless the two agree in what the name says.
void want_same(const char* what, const Array& a, std::int64_t of_a, const Array& b,
               std::int64_t of_b);

// Raises unless results of that shape can be written to out.
void want_output(const Array& out, const Extents& shape, int rank);

// mask, which broadcasts to [batch][heads][query_len][kv_len]: numbers that are added to scores, or
// booleans of which true keeps the key. Keys are not broadcast.
intflash_additive_mask mask_tensor_of(Array& mask, const Extents& shape);

// Which of the last keys each query sees: an array of booleans, (query_len, keys), as bits.
struct Tree {
  std::vector<std::uint64_t> words;
  std::int64_t num_keys = 0;

  Tree(nb::handle source, std::int64_t query_len);  // None = no tree
  intflash_bit_mask mask() const { return {words.empty() ? nullptr : words.data(), num_keys}; }
};

// A centre in f32, in order, from an array of that shape, whose first dimension is named; or of the
// last two alone, for each of the first. Empty from None.
std::vector<float> given_center(const char* name, nb::handle source, const char* first,
                                const Extents& shape);

}  // namespace intflash::python
