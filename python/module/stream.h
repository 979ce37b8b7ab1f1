// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Functions of Python's that take or give a file's bytes, as the C interface calls them.
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>

#include <intflash/cache.h>

namespace intflash::python {

namespace nb = nanobind;

// What write_bytes and read_bytes take as user: write(bytes) or read(size), called under the GIL.
struct Stream {
  nb::handle function;
  bool failed = false;  // with Python's error set

  // Raises what the function raised, or else what the library says.
  void finish(intflash_status status) const;
};

std::size_t write_bytes(void* stream, const void* bytes, std::size_t num_bytes);
std::size_t read_bytes(void* stream, void* bytes, std::size_t num_bytes);

}  // namespace intflash::python
