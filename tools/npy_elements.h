// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The elements of a .npy file, as they lie in it and as the library takes them.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "npy.h"
#include "npy_header.h"

namespace intflash {

struct NpyElement {
  std::size_t bytes;  // 2, 4 or 8: float16, float32, float64; 1: bool, uint8
  bool is_big_endian;
};

// Throws Failure naming the file where descr is none of the types.
NpyElement npy_element(const std::string& descr, NpyTypes types, const std::string& name);

// Elements of the file, as many as the header's shape says, to C order and little-endian, and from
// float64 to float32. Throws Failure where a finite element is beyond float32.
void convert_elements(const NpyElement& element, const NpyHeader& header, const std::string& name,
                      std::vector<std::byte>& data);

// "[1, 0, 17]" for element 'index' of an array of that shape.
std::string index_text(std::int64_t index, const std::vector<std::int64_t>& shape);

}  // namespace intflash
