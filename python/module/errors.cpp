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

nb::object any_error() { return errors().attr("Error"); }

void raise(intflash_status status, const std::string& message) {
  PyErr_SetObject(error_class(status).ptr(), nb::str(message.c_str()).ptr());
  throw nb::python_error();
}

std::string text_of(nb::handle object) {
  const nb::object text = nb::steal(PyObject_Str(object.ptr()));
  const nb::object bytes =
      text.is_valid()
          ? nb::steal(PyUnicode_AsEncodedString(text.ptr(), "utf-8", "backslashreplace"))
          : nb::object();
  if (bytes.is_valid()) return PyBytes_AsString(bytes.ptr());
  PyErr_Clear();
  return "?";
}

void warn_of_copy(const std::string& message) {
  constexpr int kCallerOfThePackage = 2;
  const nb::object category = errors().attr("CopyWarning");
  if (PyErr_WarnEx(category.ptr(), message.c_str(), kCallerOfThePackage) != 0)
    throw nb::python_error();
}

}  // namespace intflash::python
