// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "stream.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>

#include "errors.h"

namespace intflash::python {
namespace {

[[noreturn]] void refuse(PyObject* type, const char* message) {
  PyErr_SetString(type, message);
  throw nb::python_error();
}

template <class Step>
std::size_t perform(Stream& stream, Step step) noexcept {
  if (stream.failed) return 0;
  try {
    return step();
  } catch (nb::python_error& error) {
    error.restore();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  stream.failed = true;
  return 0;
}

}  // namespace

void Stream::finish(intflash_status status) const {
  if (failed) throw nb::python_error();
  check(status);
}

std::size_t write_bytes(void* stream, const void* bytes, std::size_t num_bytes) {
  Stream& self = *static_cast<Stream*>(stream);
  return perform(self, [&] {
    const nb::object written = self.function(nb::bytes(bytes, num_bytes));
    const bool is_counted = nb::isinstance<nb::int_>(written);
    if (is_counted && nb::cast<std::int64_t>(written) < static_cast<std::int64_t>(num_bytes))
      refuse(PyExc_OSError, "write took a part of the bytes alone");
    return num_bytes;
  });
}

std::size_t read_bytes(void* stream, void* bytes, std::size_t num_bytes) {
  Stream& self = *static_cast<Stream*>(stream);
  return perform(self, [&] {
    const nb::object read = self.function(num_bytes);
    if (!nb::isinstance<nb::bytes>(read))
      refuse(PyExc_TypeError, "read returned something else than bytes");
    const nb::bytes some = nb::borrow<nb::bytes>(read);
    const std::size_t size = std::min(some.size(), num_bytes);
    std::memcpy(bytes, some.data(), size);
    return size;
  });
}

}  // namespace intflash::python
