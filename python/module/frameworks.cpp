// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "frameworks.h"

#include <nanobind/ndarray.h>

#include <algorithm>
#include <new>
#include <string>

#include "array.h"
#include "errors.h"

namespace intflash::python {
namespace {

// The module where the process has imported it; an invalid object where not.
nb::object imported(nb::handle name) {
  nb::object module = nb::steal(PyImport_GetModule(name.ptr()));
  if (!module.is_valid()) PyErr_Clear();
  return module;
}

nb::object imported_numpy() {
  static const nb::handle name = nb::str("numpy").release();
  return imported(name);
}

// What makes arrays of a library that the process has imported; looked up once.
struct Maker {
  nb::handle array_type, empty, float32;
};

// nullptr where there is no such library, or it is still being imported: then it has no arrays.
const Maker* find_maker(Maker& maker, nb::object (*library)(), const char* array_type) {
  if (maker.float32.is_valid()) return &maker;
  const nb::object found = library();
  if (!found.is_valid()) return nullptr;
  for (const char* name : {array_type, "empty", "float32"})
    if (!nb::hasattr(found, name)) return nullptr;
  maker = {nb::getattr(found, array_type).release(), nb::getattr(found, "empty").release(),
           nb::getattr(found, "float32").release()};
  return &maker;
}

const Maker* numpy_maker() {
  static Maker maker;
  return find_maker(maker, imported_numpy, "ndarray");
}

const Maker* torch_maker() {
  static Maker maker;
  return find_maker(maker, imported_torch, "Tensor");
}

bool is_of(nb::handle source, const Maker* maker) {
  return maker != nullptr && PyObject_IsInstance(source.ptr(), maker->array_type.ptr()) == 1;
}

bool is_true(const nb::object& answer) {
  const int truth = answer.is_valid() ? PyObject_IsTrue(answer.ptr()) : -1;
  if (truth < 0) throw nb::python_error();
  return truth == 1;
}

bool is_negated(nb::handle tensor) {
  static const nb::handle name = nb::str("is_neg").release();
  PyObject* const arguments[] = {tensor.ptr()};
  return is_true(nb::steal(PyObject_VectorcallMethod(name.ptr(), arguments, 1, nullptr)));
}

// The same where the result is as dense; torch.empty takes twice the time. Invalid where it is not.
nb::object make_alike(const Array& like, const std::int64_t* shape, int rank,
                      intflash_dtype dtype) {
  const bool fits = is_plain_tensor(like.source()) && like.is_as_given() && like.is_dense() &&
                    dtype == like.dtype() && rank == like.rank() &&
                    std::equal(shape, shape + rank, like.shape().begin());
  return fits ? empty_like(like.source()) : nb::object();
}

nb::object shape_tuple(const std::int64_t* shape, int rank) {
  nb::object tuple = nb::steal(PyTuple_New(rank));
  for (int i = 0; i < rank; ++i) PyTuple_SetItem(tuple.ptr(), i, PyLong_FromLongLong(shape[i]));
  return tuple;
}

nb::dlpack::dtype dlpack_dtype(intflash_dtype dtype) {
  constexpr std::uint8_t kFloat = 2, kBfloat = 4;
  return {dtype == INTFLASH_BF16 ? kBfloat : kFloat,
          static_cast<std::uint8_t>(8 * element_bytes(dtype)), 1};
}

nb::object make_plain_output(const Array& like, const std::int64_t* shape, int rank,
                             intflash_dtype dtype) {
  std::size_t bytes = element_bytes(dtype);
  std::size_t extents[kMaxRank] = {};
  for (int i = 0; i < rank; ++i) bytes *= extents[i] = static_cast<std::size_t>(shape[i]);
  constexpr std::align_val_t kAlignment{64};
  void* data = ::operator new(bytes == 0 ? 1 : bytes, kAlignment);
  const nb::capsule owner(data,
                          [](void* memory) noexcept { ::operator delete(memory, kAlignment); });
  const nb::object plain = nb::cast(nb::ndarray<nb::array_api>(
      data, static_cast<std::size_t>(rank), extents, owner, nullptr, dlpack_dtype(dtype)));
  if (!nb::hasattr(like.source(), "__array_namespace__")) return plain;
  return like.source().attr("__array_namespace__")().attr("from_dlpack")(plain);
}

}  // namespace

nb::object imported_torch() {
  static const nb::handle name = nb::str("torch").release();
  return imported(name);
}

bool requires_grad(nb::handle tensor) {
  static const nb::handle name = nb::str("requires_grad").release();
  return is_true(nb::steal(PyObject_GetAttr(tensor.ptr(), name.ptr())));
}

bool is_plain_tensor(nb::handle source) {
  const Maker* const maker = torch_maker();
  return maker != nullptr && source.type().is(maker->array_type);
}

nb::object empty_like(nb::handle tensor) {
  static nb::handle function;
  if (!function.is_valid()) function = nb::getattr(imported_torch(), "empty_like").release();
  PyObject* const arguments[] = {tensor.ptr()};
  nb::object result = nb::steal(PyObject_Vectorcall(function.ptr(), arguments, 1, nullptr));
  if (!result.is_valid()) throw nb::python_error();
  return result;
}

bool is_tensor(nb::handle source) { return is_of(source, torch_maker()); }

nb::object detached(const char* name, nb::handle source) {
  if (!is_tensor(source)) return nb::borrow(source);
  if (is_negated(source)) {
    raise(INTFLASH_UNSUPPORTED, std::string(name) +
                                    " is a view of numbers that are yet to be negated: pass its "
                                    "resolve_neg()");
  }
  if (!requires_grad(source)) return nb::borrow(source);
  if (nb::cast<bool>(imported_torch().attr("is_grad_enabled")())) {
    raise(INTFLASH_UNSUPPORTED, std::string(name) +
                                    " requires grad, and intflash has no gradients: pass its "
                                    "detach(), or call it under torch.no_grad()");
  }
  return source.attr("detach")();
}

nb::object make_output(const Array& like, const std::int64_t* shape, int rank,
                       intflash_dtype dtype) {
  const nb::handle source = like.source();
  const Maker* maker = numpy_maker();
  if (!is_of(source, maker)) maker = torch_maker();
  if (!is_of(source, maker)) return make_plain_output(like, shape, rank, dtype);
  if (maker == torch_maker())
    if (nb::object tensor = make_alike(like, shape, rank, dtype); tensor.is_valid()) return tensor;
  static const nb::handle dtype_name = nb::str("dtype").release();
  static const nb::handle device = nb::str("cpu").release();  // of PyTorch, which has a default one
  static const nb::handle keywords = nb::make_tuple(dtype_name).release();
  static const nb::handle torch_keywords = nb::make_tuple(dtype_name, nb::str("device")).release();
  const nb::object type = dtype == like.dtype()
                              ? nb::steal(PyObject_GetAttr(source.ptr(), dtype_name.ptr()))
                              : nb::borrow(maker->float32);
  const nb::object extents = shape_tuple(shape, rank);
  PyObject* const arguments[] = {extents.ptr(), type.ptr(), device.ptr()};
  const nb::handle names = maker == torch_maker() ? torch_keywords : keywords;
  nb::object array = nb::steal(PyObject_Vectorcall(maker->empty.ptr(), arguments, 1, names.ptr()));
  if (!array.is_valid()) throw nb::python_error();
  return array;
}

}  // namespace intflash::python
