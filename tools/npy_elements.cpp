// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "npy_elements.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "failure.h"

namespace intflash {
namespace {

static_assert(std::endian::native == std::endian::little, "the library takes elements as they lie");

void swap_bytes(std::size_t element_bytes, std::vector<std::byte>& data) {
  for (auto element = data.begin(); element != data.end();) {
    const auto end = element + static_cast<std::ptrdiff_t>(element_bytes);
    std::reverse(element, end);
    element = end;
  }
}

// From Fortran order, in which the first index is contiguous.
std::vector<std::byte> in_c_order(std::size_t element_bytes, const std::vector<std::int64_t>& shape,
                                  const std::vector<std::byte>& data) {
  std::vector<std::size_t> lengths(shape.begin(), shape.end()), strides;
  std::size_t stride = element_bytes;
  for (const std::size_t length : lengths) {
    strides.push_back(stride);
    stride *= length;
  }
  std::vector<std::byte> result(data.size());
  std::vector<std::size_t> position(lengths.size());
  std::size_t source = 0;
  for (std::size_t i = 0; i < data.size(); i += element_bytes) {
    std::memcpy(result.data() + i, data.data() + source, element_bytes);
    for (std::size_t axis = lengths.size(); axis-- > 0;) {
      source += strides[axis];
      if (++position[axis] < lengths[axis]) break;
      source -= strides[axis] * lengths[axis];
      position[axis] = 0;
    }
  }
  return result;
}

void round_to_float32(const std::vector<std::int64_t>& shape, const std::string& name,
                      std::vector<std::byte>& data) {
  const std::size_t count = data.size() / sizeof(double);
  for (std::size_t i = 0; i < count; ++i) {
    double wide = 0;
    std::memcpy(&wide, data.data() + i * sizeof wide, sizeof wide);
    if (std::isfinite(wide) && std::fabs(wide) > std::numeric_limits<float>::max()) {
      throw Failure(fmt::format("{}: element {} is {:g}, beyond the largest float32", name,
                                index_text(static_cast<std::int64_t>(i), shape), wide));
    }
    const float narrow = static_cast<float>(wide);
    std::memcpy(data.data() + i * sizeof narrow, &narrow, sizeof narrow);
  }
  data.resize(count * sizeof(float));
}

}  // namespace

NpyElement npy_element(const std::string& descr, NpyTypes types, const std::string& name) {
  const bool takes_bytes = types == NpyTypes::kFloatsAndBytes;
  if (takes_bytes && (descr == "|b1" || descr == "|u1")) return {1, false};
  for (const std::size_t bytes : {2u, 4u, 8u}) {
    for (const char order : {'<', '>'}) {
      if (descr == fmt::format("{}f{}", order, bytes)) return {bytes, order == '>'};
    }
  }
  throw Failure(
      fmt::format("{}: dtype '{}' is not supported; float16, float32 and float64 are, "
                  "'<f2', '<f4' and '<f8', or big-endian with '>'{}",
                  name, descr, takes_bytes ? "; bool and uint8, '|b1' and '|u1'" : ""));
}

void convert_elements(const NpyElement& element, const NpyHeader& header, const std::string& name,
                      std::vector<std::byte>& data) {
  if (data.empty()) return;  // with a length of 0 the others may be any
  if (element.is_big_endian) swap_bytes(element.bytes, data);
  if (header.fortran_order) data = in_c_order(element.bytes, header.shape, data);
  if (element.bytes == sizeof(double)) round_to_float32(header.shape, name, data);
}

std::string index_text(std::int64_t index, const std::vector<std::int64_t>& shape) {
  std::vector<std::int64_t> position(shape.size());
  for (std::size_t axis = shape.size(); axis-- > 0; index /= shape[axis]) {
    position[axis] = index % shape[axis];
  }
  return fmt::format("[{}]", fmt::join(position, ", "));
}

}  // namespace intflash
