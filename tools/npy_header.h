// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The header of a .npy file: a Python dictionary of three entries.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace intflash {

struct NpyHeader {
  std::string descr;  // such as "<f4"
  bool fortran_order = false;
  std::vector<std::int64_t> shape;
};

// Throws Failure, whose message begins with name, for whatever NumPy would not write.
NpyHeader parse_npy_header(std::string_view text, const std::string& name);

}  // namespace intflash
