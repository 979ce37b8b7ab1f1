// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "inputs.h"

#include <algorithm>

#include "errors.h"
#include "parameters.h"

namespace intflash::python {
namespace {

constexpr std::int64_t kWordBits = 64;

bool is_one_number(nb::handle source) {
  if (PyFloat_Check(source.ptr()) || PyLong_Check(source.ptr())) return true;
  const nb::object rank = nb::getattr(source, "ndim", nb::none());
  return nb::isinstance<nb::int_>(rank) && nb::cast<std::int64_t>(rank) == 0;
}

void want_f32(const Array& array, const char* what) {
  if (array.dtype() == INTFLASH_F32) return;
  raise(INTFLASH_UNSUPPORTED, std::string(array.name()) + " has dtype " +
                                  dtype_name(array.dtype()) + ": " + what + " are in float32");
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return a / b + (a % b != 0); }

}  // namespace

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

Scales::Scales(const char* name, nb::handle source, const Array& codes) {
  if (source.is_none()) return;
  if (codes.dtype() != INTFLASH_INT8) {
    raise(INTFLASH_INVALID_ARGUMENT, std::string(name) + " is of codes in int8, and " +
                                         codes.name() + " has dtype " + dtype_name(codes.dtype()));
  }
  if (is_one_number(source)) {
    number_ = number(name, source, 0);
    scales_.scale = &number_;
  } else if (PyTuple_Check(source.ptr()) && nb::len(source) == 2) {
    read(name, source[0], source[1], codes);
  } else {
    read(name, source, nb::none(), codes);
  }
}

void Scales::read(const char* name, nb::handle numbers, nb::handle block, const Array& codes) {
  Array& array = array_.emplace(name, numbers);
  want_f32(array, "scales");
  array.make_rows();
  const std::int64_t given = array.extent(array.rank() - 1);
  scales_.scale_block = integer(name, block, given == 1 ? 0 : 1);
  if (!block.is_none() && scales_.scale_block < 1) {
    raise(INTFLASH_INVALID_ARGUMENT, std::string(name) + " has blocks of " +
                                         std::to_string(scales_.scale_block) +
                                         " tokens: at least 1 is wanted");
  }
  const Shape of_codes = shape_of(codes);
  const std::int64_t blocks =
      scales_.scale_block == 0 ? 1 : ceil_div(of_codes.tokens, scales_.scale_block);
  const std::int64_t wanted[] = {of_codes.batch, of_codes.heads, blocks};
  const int missing = 3 - array.rank();
  std::int64_t strides[3] = {};
  bool fits = array.rank() < codes.rank();
  for (int i = std::max(missing, 0); i < 3; ++i) {
    const std::int64_t extent = array.extent(i - missing);
    fits &= extent == wanted[i] || (extent == 1 && i < 2);
    strides[i] = array.stride(i - missing);
  }
  if (!fits) {
    raise(INTFLASH_BAD_SHAPE, std::string(name) + " has shape " + array.shape_text() +
                                  ": (batch, heads, scales) is " + shape_text(wanted, 3) +
                                  ", of which all but the last may be 1 or missing, and the last 1 "
                                  "for all tokens");
  }
  scales_.scale = static_cast<const float*>(array.data());
  scales_.scale_stride_batch = strides[0];
  scales_.scale_stride_head = strides[1];
}

void Scales::put_into(intflash_tensor& tensor) const {
  tensor.scale = scales_.scale;
  tensor.scale_stride_batch = scales_.scale_stride_batch;
  tensor.scale_stride_head = scales_.scale_stride_head;
  tensor.scale_block = scales_.scale_block;
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
  out.want_floats();
  out.want_writable();
}

intflash_additive_mask mask_tensor_of(Array& mask, const Extents& shape) {
  mask.want_floats(INTFLASH_BOOL);
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

Tree::Tree(nb::handle source, std::int64_t query_len) {
  if (source.is_none()) return;
  const Array array("tree", source);
  array.want_rank(2, 2);
  if (array.dtype() != INTFLASH_BOOL || array.extent(0) != query_len) {
    raise(INTFLASH_BAD_SHAPE, "tree has shape " + array.shape_text() + " and dtype " +
                                  dtype_name(array.dtype()) + ": booleans are wanted, a row for " +
                                  "each of " + std::to_string(query_len) + " queries");
  }
  num_keys = array.extent(1);
  std::vector<std::uint8_t> keeps(static_cast<std::size_t>(array.num_elements()));
  array.copy_to(keeps.data());
  const std::int64_t words_of_row = ceil_div(num_keys, kWordBits);
  words.resize(static_cast<std::size_t>(query_len * words_of_row));
  for (std::size_t i = 0; i < keeps.size(); ++i) {
    const auto row = static_cast<std::int64_t>(i) / num_keys;
    const auto key = static_cast<std::int64_t>(i) % num_keys;
    const std::size_t word = static_cast<std::size_t>(row * words_of_row + key / kWordBits);
    words[word] |= static_cast<std::uint64_t>(keeps[i] != 0) << (key % kWordBits);
  }
}

std::vector<float> given_center(const char* name, nb::handle source, const char* first,
                                const Extents& shape) {
  std::vector<float> center;
  if (source.is_none()) return center;
  const Array array(name, source);
  want_f32(array, "centres");
  const bool is_of_each = array.rank() == 2;
  const Extents wanted = is_of_each ? Extents{shape[1], shape[2]} : shape;
  if (array.rank() > 3 || array.shape() != wanted) {
    raise(INTFLASH_BAD_SHAPE, std::string(name) + " has shape " + array.shape_text() + ": (" +
                                  first + ", kv heads, dim) is " + shape_text(shape.data(), 3) +
                                  ", of which the first may be missing");
  }
  const auto size = static_cast<std::size_t>(array.num_elements());
  center.resize(is_of_each ? size * static_cast<std::size_t>(shape[0]) : size);
  array.copy_to(center.data());
  for (std::size_t i = size; i < center.size(); ++i) center[i] = center[i - size];
  return center;
}

}  // namespace intflash::python
