// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "array.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstring>
#include <iterator>

#include "errors.h"
#include "frameworks.h"
#include "parameters.h"

namespace intflash::python {
namespace {

// What a DLPack capsule holds, by its name: versions before 1.0, and from then on.
constexpr const char* kOldName = "dltensor";
constexpr const char* kName = "dltensor_versioned";
struct OldManagedTensor {
  nb::dlpack::dltensor tensor;
};
struct ManagedTensor {
  std::uint32_t major, minor;
  void* manager;
  void (*deleter)(ManagedTensor*);
  std::uint64_t flags;
  nb::dlpack::dltensor tensor;
};
constexpr std::uint64_t kReadOnly = 1;

// Functions of a type that spare its objects the capsule, from version 1.3 on.
struct ExchangeApi {
  std::uint32_t major, minor;
  const ExchangeApi* previous;
  const void* allocate;
  const void* export_managed;
  const void* import_managed;
  int (*borrow)(void* object, nb::dlpack::dltensor* tensor);
};

const ExchangeApi* find_exchange_api(nb::handle type) {
  static const nb::handle name = nb::str("__dlpack_c_exchange_api__").release();
  const nb::object capsule = nb::steal(PyObject_GetAttr(type.ptr(), name.ptr()));
  const auto* api = static_cast<const ExchangeApi*>(
      capsule.is_valid() ? PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api") : nullptr);
  if (api == nullptr) PyErr_Clear();
  while (api != nullptr && (api->major != 1 || api->borrow == nullptr)) api = api->previous;
  return api;
}

// Of a type once, as the protocol allows: calls have arrays of one type, as a rule.
const ExchangeApi* exchange_api(nb::handle source) {
  static nb::handle last_type;  // kept, so that no other can be at its place
  static const ExchangeApi* api;
  const nb::handle type = source.type();
  if (type.is(last_type)) return api;
  const ExchangeApi* const found = find_exchange_api(type);  // other threads may come in between
  const nb::handle former = last_type;
  last_type = type.inc_ref();
  api = found;
  former.dec_ref();
  return found;
}

nb::object capsule_of(nb::handle source) {
  try {
    return source.attr("__dlpack__")(nb::arg("max_version") = nb::make_tuple(1, 1));
  } catch (nb::python_error& error) {
    if (!error.matches(PyExc_TypeError)) throw;
    return source.attr("__dlpack__")();  // made before DLPack 1.0
  }
}

const nb::dlpack::dltensor* tensor_in(nb::handle capsule, bool& is_read_only) {
  if (PyCapsule_IsValid(capsule.ptr(), kName)) {
    const auto* managed =
        static_cast<const ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), kName));
    if (managed->major != 1) {
      PyErr_Format(PyExc_BufferError, "it is of version %u of DLPack", managed->major);
      throw nb::python_error();
    }
    is_read_only = (managed->flags & kReadOnly) != 0;
    return &managed->tensor;
  }
  const auto* managed =
      static_cast<const OldManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), kOldName));
  if (managed == nullptr) throw nb::python_error();
  return &managed->tensor;
}

// What an exporter's function returns; its exceptions become ours.
template <class Call>
auto exporting(const char* name, Call call) {
  try {
    return call();
  } catch (nb::python_error& error) {
    if (!error.matches(PyExc_Exception)) throw;
    raise(INTFLASH_UNSUPPORTED, std::string(name) + " cannot be read: " + text_of(error.value()));
  }
}

void want_host_memory(const char* name, nb::handle source, std::int64_t device_type) {
  constexpr std::int64_t kCpu = 1, kPinned = 3;
  if (device_type == kCpu || device_type == kPinned) return;
  const nb::object device = nb::getattr(source, "device", source.attr("__dlpack_device__")());
  raise(INTFLASH_UNSUPPORTED, std::string(name) + " is on device " + text_of(device) +
                                  ": intflash computes on the CPU, so move it there first");
}

bool dtype_of_dlpack(const nb::dlpack::dtype& type, intflash_dtype& dtype) {
  constexpr std::uint8_t kInt = 0, kFloat = 2, kBfloat = 4, kBool = 6, kE4m3fn = 10, kE5m2 = 12;
  if (type.lanes != 1) return false;
  if (type.code == kInt && type.bits == 8) return dtype = INTFLASH_INT8, true;
  if (type.code == kFloat && type.bits == 32) return dtype = INTFLASH_F32, true;
  if (type.code == kFloat && type.bits == 16) return dtype = INTFLASH_F16, true;
  if (type.code == kBfloat && type.bits == 16) return dtype = INTFLASH_BF16, true;
  if (type.code == kBool && type.bits == 8) return dtype = INTFLASH_BOOL, true;
  if (type.code == kE4m3fn && type.bits == 8) return dtype = INTFLASH_F8_E4M3, true;
  if (type.code == kE5m2 && type.bits == 8) return dtype = INTFLASH_F8_E5M2, true;
  return false;
}

bool dtype_of_format(const char* format, intflash_dtype& dtype) {
  if (format == nullptr) return false;
  if (*format == '@' || *format == '=') ++format;
  if (*format == '\0' || format[1] != '\0') return false;
  switch (*format) {
    case 'f':
      return dtype = INTFLASH_F32, true;
    case 'e':
      return dtype = INTFLASH_F16, true;
    case 'b':
      return dtype = INTFLASH_INT8, true;
    case '?':
      return dtype = INTFLASH_BOOL, true;
    default:
      return false;
  }
}

// Of ml_dtypes, and what of NumPy's has its bits.
struct CustomDtype {
  const char* name;
  intflash_dtype dtype;
  const char* bits;
};
constexpr CustomDtype kCustomDtypes[] = {{"bfloat16", INTFLASH_BF16, "uint16"},
                                         {"float8_e4m3fn", INTFLASH_F8_E4M3, "uint8"},
                                         {"float8_e5m2", INTFLASH_F8_E5M2, "uint8"}};

template <std::size_t kBytes>
void copy_row(const std::byte* from, std::int64_t stride, std::int64_t count, std::byte* to) {
  for (std::int64_t i = 0; i < count; ++i)
    std::memcpy(to + i * static_cast<std::int64_t>(kBytes), from + i * stride, kBytes);
}

}  // namespace

std::size_t element_bytes(intflash_dtype dtype) {
  return dtype == INTFLASH_F32 ? 4 : dtype == INTFLASH_F16 || dtype == INTFLASH_BF16 ? 2 : 1;
}

bool may_be_out(intflash_dtype dtype) {
  return dtype == INTFLASH_F32 || dtype == INTFLASH_F16 || dtype == INTFLASH_BF16;
}

const char* dtype_name(intflash_dtype dtype) {
  switch (dtype) {
    case INTFLASH_F32:
      return "float32";
    case INTFLASH_F16:
      return "float16";
    case INTFLASH_BF16:
      return "bfloat16";
    case INTFLASH_INT8:
      return "int8";
    case INTFLASH_F8_E4M3:
      return "float8_e4m3fn";
    case INTFLASH_F8_E5M2:
      return "float8_e5m2";
    default:
      return "bool";
  }
}

std::string shape_text(const std::int64_t* shape, int rank) {
  std::string text = "(";
  for (int i = 0; i < rank; ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + ")";
}

Array::Array(const char* name, nb::handle source) : name_(name), source_(nb::borrow(source)) {
  if (PyObject_CheckBuffer(source.ptr())) {
    read_buffer();
  } else if (is_tensor(source) || nb::hasattr(source, "__dlpack__")) {
    read_dlpack();
  } else {
    raise(INTFLASH_INVALID_ARGUMENT,
          std::string(name) + " is a " + text_of(nb::type_name(source.type())) +
              ": an array is wanted, with DLPack or the buffer protocol");
  }
}

void Array::refuse_dtype(const char* format) const {
  const nb::object dtype = nb::getattr(source_, "dtype", nb::str(format));
  raise(INTFLASH_UNSUPPORTED,
        std::string(name_) + " has dtype " + text_of(dtype) +
            ": float32, float16 and bfloat16 in this machine's order of bytes are served, and "
            "float8_e4m3fn and float8_e5m2 of query, key and value");
}

void Array::read_buffer() {
  Py_buffer& view = buffer_.view;
  if (PyObject_GetBuffer(source_.ptr(), &view, PyBUF_STRIDES | PyBUF_FORMAT) != 0)
    PyErr_Clear();  // NumPy has no format for the types of others
  if (!dtype_of_format(view.format, dtype_) && !read_custom_dtype())
    refuse_dtype(view.format == nullptr ? "unknown" : view.format);
  rank_ = view.ndim;
  want_rank(1, kMaxRank);
  data_ = view.buf;
  read_only_ = view.readonly != 0;
  for (int i = 0; i < rank_; ++i) {
    shape_[static_cast<std::size_t>(i)] = view.shape[i];
    byte_strides_[static_cast<std::size_t>(i)] = view.strides[i];
  }
}

// A type of ml_dtypes in an array of NumPy's: its bits.
bool Array::read_custom_dtype() {
  const nb::object dtype = nb::getattr(source_, "dtype", nb::none());
  const nb::object dtype_text = nb::getattr(dtype, "name", nb::none());
  if (!nb::isinstance<nb::str>(dtype_text) ||
      !nb::cast<bool>(nb::getattr(dtype, "isnative", nb::bool_(true))))
    return false;
  const auto* const custom =
      std::find_if(std::begin(kCustomDtypes), std::end(kCustomDtypes),
                   [name = nb::cast<std::string>(dtype_text)](const CustomDtype& type) {
                     return name == type.name;
                   });
  if (custom == std::end(kCustomDtypes)) return false;
  PyBuffer_Release(&buffer_.view);
  owner_ = source_.attr("view")(custom->bits);
  if (PyObject_GetBuffer(owner_.ptr(), &buffer_.view, PyBUF_STRIDES | PyBUF_FORMAT) != 0)
    throw nb::python_error();
  dtype_ = custom->dtype;
  return true;
}

void Array::read_dlpack() {
  const nb::object exported = detached(name_, source_);
  nb::dlpack::dltensor borrowed;
  const nb::dlpack::dltensor* tensor = &borrowed;
  if (const ExchangeApi* const api = exchange_api(exported); api != nullptr) {
    exporting(name_, [&] {
      if (api->borrow(exported.ptr(), &borrowed) != 0) throw nb::python_error();
      return 0;
    });
    owner_ = exported;
  } else {
    const std::int64_t device = exporting(
        name_, [&] { return integer("its device", exported.attr("__dlpack_device__")()[0], 0); });
    want_host_memory(name_, source_, device);
    owner_ = exporting(name_, [&] { return capsule_of(exported); });
    tensor = exporting(name_, [&] { return tensor_in(owner_, read_only_); });
  }
  want_host_memory(name_, source_, tensor->device.device_type);
  if (!dtype_of_dlpack(tensor->dtype, dtype_)) refuse_dtype("unknown");
  rank_ = tensor->ndim;
  want_rank(1, kMaxRank);
  data_ = static_cast<std::byte*>(tensor->data) + tensor->byte_offset;
  std::int64_t stride = static_cast<std::int64_t>(element_bytes(dtype_));
  for (int i = rank_ - 1; i >= 0; --i) {
    const std::size_t at = static_cast<std::size_t>(i);
    shape_[at] = tensor->shape[i];
    byte_strides_[at] = tensor->strides == nullptr
                            ? stride
                            : tensor->strides[i] * static_cast<std::int64_t>(element_bytes(dtype_));
    stride *= shape_[at];
  }
}

std::int64_t Array::stride(int i) const {
  const std::size_t at = static_cast<std::size_t>(i);
  return shape_[at] <= 1 ? 0 : byte_strides_[at] / static_cast<std::int64_t>(element_bytes(dtype_));
}

std::int64_t Array::num_elements() const {
  std::int64_t count = 1;
  for (int i = 0; i < rank_; ++i) count *= extent(i);
  return count;
}

std::string Array::shape_text() const { return python::shape_text(shape_.data(), rank_); }

void Array::want_rank(int least, int most) const {
  if (rank_ >= least && rank_ <= most) return;
  std::string ranks = std::to_string(least);
  if (most != least) ranks += " to " + std::to_string(most);
  raise(INTFLASH_BAD_SHAPE, std::string(name_) + " has " + std::to_string(rank_) +
                                " dimensions: " + ranks + " are wanted");
}

void Array::want_floats(intflash_dtype or_else) const {
  if (!may_be_out(dtype_) && dtype_ != or_else) refuse_dtype(dtype_name(dtype_));
}

void Array::want_input(intflash_dtype or_else) const {
  if (dtype_ != INTFLASH_F8_E4M3 && dtype_ != INTFLASH_F8_E5M2) want_floats(or_else);
}

bool Array::has_rows() const {
  const std::int64_t bytes = static_cast<std::int64_t>(element_bytes(dtype_));
  if (num_elements() == 0) return true;
  if (reinterpret_cast<std::uintptr_t>(data_) % static_cast<std::uintptr_t>(bytes) != 0)
    return false;
  for (int i = 0; i < rank_; ++i) {
    const std::int64_t stride = byte_strides_[static_cast<std::size_t>(i)];
    if (extent(i) == 1) continue;
    if (stride < 0 || stride % bytes != 0 || (i == rank_ - 1 && stride != bytes)) return false;
  }
  return true;
}

void Array::make_rows() {
  if (!has_rows()) copy("elements of its last dimension do not follow one another");
}

bool Array::is_dense() const {
  std::int64_t stride = static_cast<std::int64_t>(element_bytes(dtype_));
  for (int i = rank_ - 1; i >= 0; stride *= extent(i--))
    if (extent(i) != 1 && byte_strides_[static_cast<std::size_t>(i)] != stride) return false;
  return true;
}

void Array::make_dense() {
  make_rows();
  if (!is_dense()) copy("its rows do not follow one another without gaps");
}

void Array::swap_axes(int i, int j) {
  const std::size_t a = static_cast<std::size_t>(i), b = static_cast<std::size_t>(j);
  is_as_given_ = false;
  std::swap(shape_[a], shape_[b]);
  std::swap(byte_strides_[a], byte_strides_[b]);
}

void Array::join_first_axes() {
  is_as_given_ = false;
  const bool is_one_long = extent(0) == 1 || extent(1) == 1 || num_elements() == 0;
  if (!is_one_long && byte_strides_[0] != extent(1) * byte_strides_[1])
    copy("rows of all sequences do not follow one another at one distance");
  if (extent(1) == 1) byte_strides_[1] = byte_strides_[0];
  shape_[1] *= shape_[0];
  for (std::size_t i = 1; i < kMaxRank; ++i) {
    shape_[i - 1] = shape_[i];
    byte_strides_[i - 1] = byte_strides_[i];
  }
  shape_[static_cast<std::size_t>(--rank_)] = 0;
}

void Array::want_writable() const {
  if (read_only_) raise(INTFLASH_INVALID_ARGUMENT, std::string(name_) + " is read-only");
  if (!has_rows()) {
    raise(INTFLASH_BAD_STRIDE,
          std::string(name_) +
              " cannot be written in place: elements of its last dimension must "
              "follow one another, and other strides be positive");
  }
}

void Array::copy_to(void* memory) const {
  const std::size_t bytes = element_bytes(dtype_);
  const std::int64_t row = extent(rank_ - 1), stride = byte_strides_[last()];
  const std::int64_t elements = num_elements();
  Extents index{};
  for (std::int64_t done = 0; done < elements; done += row) {
    const std::byte* from = static_cast<const std::byte*>(data_);
    for (std::size_t i = 0; i < kMaxRank; ++i) from += index[i] * byte_strides_[i];
    std::byte* to = static_cast<std::byte*>(memory) + static_cast<std::size_t>(done) * bytes;
    if (bytes == 4) copy_row<4>(from, stride, row, to);
    if (bytes == 2) copy_row<2>(from, stride, row, to);
    if (bytes == 1) copy_row<1>(from, stride, row, to);
    for (int i = rank_ - 2; i >= 0 && ++index[static_cast<std::size_t>(i)] == extent(i); --i)
      index[static_cast<std::size_t>(i)] = 0;
  }
}

void Array::copy(const char* reason) {
  warn_of_copy(std::string(name_) + " is copied, since " + reason);
  std::int64_t stride = static_cast<std::int64_t>(element_bytes(dtype_));
  copy_ = std::make_unique_for_overwrite<std::byte[]>(
      static_cast<std::size_t>(num_elements() * stride));
  copy_to(copy_.get());
  data_ = copy_.get();
  is_as_given_ = false;
  for (int i = rank_ - 1; i >= 0; --i) {
    byte_strides_[static_cast<std::size_t>(i)] = stride;
    stride *= extent(i);
  }
}

}  // namespace intflash::python
