// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Failures as Python's exceptions: the classes of intflash/_errors.py, one for each status.
#pragma once

#include <nanobind/nanobind.h>

#include <string>

#include <intflash/intflash.h>

namespace intflash::python {

namespace nb = nanobind;

// The class that is raised for a status.
nb::object error_class(intflash_status status);

nb::object any_error();  // the base of these classes

[[noreturn]] void raise(intflash_status status, const std::string& message);

// What str gives, for messages; what is no UTF-8 comes escaped.
std::string text_of(nb::handle object);

// Raises what the library says of this thread's last call, unless that was INTFLASH_OK.
inline void check(intflash_status status) {
  if (status != INTFLASH_OK) raise(status, intflash_last_error());
}

// Warns with category CopyWarning, at the line that called the package.
void warn_of_copy(const std::string& message);

}  // namespace intflash::python
