// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What depends on whose array an argument is. Nobody's package is imported: what the caller's
// arrays are made of is there already.
#pragma once

#include <nanobind/nanobind.h>

#include <intflash/intflash.h>

namespace intflash::python {

namespace nb = nanobind;

class Array;

// torch where the process has imported it; an invalid object where not.
nb::object imported_torch();

// Whether source is one of PyTorch's tensors, of its own class or a subclass.
bool is_tensor(nb::handle source);

bool is_plain_tensor(nb::handle source);  // of its own class alone
bool requires_grad(nb::handle tensor);
nb::object empty_like(nb::handle tensor);  // torch.empty_like

// source, or without its gradient where that is not asked for. Raises where it is: the library has
// none.
nb::object detached(const char* name, nb::handle source);

// A new array of the library that like is of, NumPy and PyTorch by name and others by the array
// API's __array_namespace__, or with DLPack and the buffer protocol alone. dtype: like's, or F32.
nb::object make_output(const Array& like, const std::int64_t* shape, int rank,
                       intflash_dtype dtype);

}  // namespace intflash::python
