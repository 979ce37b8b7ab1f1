// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "errors.h"

namespace intflash::python {
namespace {

nb::object errors() { return nb::module_::import_("intflash._errors"); }

}  // namespace

nb::object error_class(intflash_status status) {
  return errors().attr("BY_STATUS")[nb::int_(static_cast<int>(status))];
}

void raise(intflash_status status, const std::string& message) {
  PyErr_SetObject(error_class(status).ptr(), nb::str(message.c_str()).ptr());
  throw nb::python_error();
}

void warn_of_copy(const std::string& message) {
  constexpr int kCallerOfThePackage = 2;
  const nb::object category = errors().attr("CopyWarning");
  if (PyErr_WarnEx(category.ptr(), message.c_str(), kCallerOfThePackage) != 0)
    throw nb::python_error();
}

}  // namespace intflash::python
