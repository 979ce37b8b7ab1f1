// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "element.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace intflash::internal {
namespace {

template <class T>
T load(const intflash_tensor& tensor, std::int64_t byte) {
  T value;
  std::memcpy(&value, static_cast<const char*>(tensor.data) + byte, sizeof value);
  return value;
}

// ggml's blocks: an f16 scale and 32 codes. A byte of Q4_0 has the code of element i in its lower
// half and that of element i + 16 in its upper one, each plus 8.
double element_of_block(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t element) {
  const std::int64_t block = bytes_of(dtype, element / 32 * 32);
  const std::int64_t i = element % 32;
  const double scale = sixteen_bit_value(INTFLASH_F16, load<std::uint16_t>(tensor, block));
  if (dtype == INTFLASH_Q8_0) return scale * load<std::int8_t>(tensor, block + 2 + i);
  const int codes = load<std::uint8_t>(tensor, block + 2 + i % 16);
  return scale * ((i < 16 ? codes % 16 : codes / 16) - 8);
}

}  // namespace

// (-1)^sign * 2^(exponent - bias) * 1.fraction, with the lowest exponent for 0.fraction and the
// highest for inf and NaN.
double sixteen_bit_value(intflash_dtype dtype, std::uint16_t bits) {
  const int fraction_bits = dtype == INTFLASH_F16 ? 10 : 7;
  const int bias = dtype == INTFLASH_F16 ? 15 : 127;
  const int fraction = bits & ((1 << fraction_bits) - 1);
  const int exponent = (bits & 0x7fff) >> fraction_bits;
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  if (exponent == 2 * bias + 1)
    return fraction == 0 ? sign * std::numeric_limits<double>::infinity() : std::nan("");
  const int hidden = exponent == 0 ? 0 : 1 << fraction_bits;
  return sign * std::ldexp(hidden + fraction, std::max(exponent, 1) - bias - fraction_bits);
}

std::int64_t bytes_of(intflash_dtype dtype, std::int64_t elements) {
  switch (dtype) {
    case INTFLASH_F32:
      return 4 * elements;
    case INTFLASH_F16:
    case INTFLASH_BF16:
      return 2 * elements;
    case INTFLASH_INT8:
      return elements;
    case INTFLASH_Q8_0:
      return elements / 32 * (2 + 32);
    case INTFLASH_Q4_0:
      return elements / 32 * (2 + 16);
    case INTFLASH_BOOL:
      return elements;
  }
  return 0;
}

double element_of(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                  std::int64_t h, std::int64_t token, std::int64_t c) {
  const std::int64_t element =
      b * tensor.stride_batch + h * tensor.stride_head + token * tensor.stride_token + c;
  switch (dtype) {
    case INTFLASH_F32:
      return static_cast<double>(load<float>(tensor, 4 * element));
    case INTFLASH_F16:
    case INTFLASH_BF16:
      return sixteen_bit_value(dtype, load<std::uint16_t>(tensor, 2 * element));
    case INTFLASH_INT8: {
      const std::int64_t group = tensor.scale_block == 0 ? 0 : token / tensor.scale_block;
      const std::int64_t scale = b * tensor.scale_stride_batch + h * tensor.scale_stride_head;
      return static_cast<double>(tensor.scale[scale + group]) * load<std::int8_t>(tensor, element);
    }
    case INTFLASH_Q8_0:
    case INTFLASH_Q4_0:
      return element_of_block(tensor, dtype, element);
    case INTFLASH_BOOL:
      return load<std::uint8_t>(tensor, element);
  }
  return std::nan("");
}

}  // namespace intflash::internal
