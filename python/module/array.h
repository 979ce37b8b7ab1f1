// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// An array of the caller's, of any library that speaks DLPack or Python's buffer protocol: where
// its elements lie, of which type, and by which strides. Nothing is copied but what the library
// cannot read in place.
#pragma once

#include <nanobind/nanobind.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include <intflash/intflash.h>

namespace intflash::python {

namespace nb = nanobind;

inline constexpr int kMaxRank = 4;
using Extents = std::array<std::int64_t, kMaxRank>;

std::size_t element_bytes(intflash_dtype dtype);
const char* dtype_name(intflash_dtype dtype);
bool may_be_out(intflash_dtype dtype);  // float32, float16 or bfloat16

// Lives, and goes, with the GIL held.
class Array {
 public:
  // name: of the argument, for messages.
  Array(const char* name, nb::handle source);
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  const char* name() const { return name_; }
  nb::handle source() const { return source_; }
  intflash_dtype dtype() const { return dtype_; }
  int rank() const { return rank_; }
  std::int64_t extent(int i) const { return shape_[static_cast<std::size_t>(i)]; }
  const Extents& shape() const { return shape_; }
  std::int64_t stride(int i) const;  // in elements; 0 where the extent is 1
  void* data() const { return data_; }
  bool is_dense() const;  // in order, without gaps
  std::int64_t num_elements() const;
  std::string shape_text() const;

  // Raises unless the rank is one of the two.
  void want_rank(int least, int most) const;
  // Raises unless the elements are floats as out may have them, or of the other type that is named.
  void want_floats(intflash_dtype or_else = INTFLASH_F32) const;
  // The same of floats as query, key and value may have them: in 8 bits as well.
  void want_input(intflash_dtype or_else = INTFLASH_F32) const;
  bool has_rows() const;  // that can be read in place
  // Copies, with a CopyWarning, what is not aligned, has a negative stride, or elements of a row
  // that do not follow one another.
  void make_rows();
  // The same for what has gaps between its rows, too.
  void make_dense();
  void copy_to(void* memory) const;  // in order, without gaps
  // Raises where the elements cannot be written in place, row by row.
  void want_writable() const;

  void swap_axes(int i, int j);
  // Whether shape and strides are the source's own.
  bool is_as_given() const { return is_as_given_; }
  // One axis in place of the first two. Copies, with a CopyWarning, where they have no common
  // stride.
  void join_first_axes();

 private:
  struct Buffer {
    Py_buffer view{};
    ~Buffer() { PyBuffer_Release(&view); }
  };

  void read_buffer();
  bool read_custom_dtype();
  void read_dlpack();
  [[noreturn]] void refuse_dtype(const char* format) const;
  void copy(const char* reason);
  std::size_t last() const { return static_cast<std::size_t>(rank_ - 1); }

  const char* name_;
  nb::object source_;
  intflash_dtype dtype_ = INTFLASH_F32;
  bool read_only_ = false;
  bool is_as_given_ = true;
  int rank_ = 0;
  void* data_ = nullptr;
  Extents shape_{};
  Extents byte_strides_{};
  Buffer buffer_;
  nb::object owner_;  // what keeps the elements where they are
  std::unique_ptr<std::byte[]> copy_;
};

// "(2, 8, 128, 64)"
std::string shape_text(const std::int64_t* shape, int rank);

}  // namespace intflash::python
