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

constexpr int last_finite(intflash_dtype dtype) { return dtype == INTFLASH_F8_E4M3 ? 0x7e : 0x7b; }

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

// The same with 4 bits of exponent and 3 of fraction, all of them set for NaN and none for inf; or
// with 5 and 2.
double eight_bit_value(intflash_dtype dtype, std::uint8_t code) {
  const int fraction_bits = dtype == INTFLASH_F8_E4M3 ? 3 : 2;
  const int bias = dtype == INTFLASH_F8_E4M3 ? 7 : 15;
  const int magnitude = code & 0x7f;
  const double sign = code < 128 ? 1 : -1;
  if (dtype == INTFLASH_F8_E5M2 && magnitude == 0x7c)
    return sign * std::numeric_limits<double>::infinity();
  if (magnitude > last_finite(dtype)) return std::nan("");
  const int exponent = magnitude >> fraction_bits;
  const int fraction = magnitude & ((1 << fraction_bits) - 1);
  const int hidden = exponent == 0 ? 0 : 1 << fraction_bits;
  return sign * std::ldexp(hidden + fraction, std::max(exponent, 1) - bias - fraction_bits);
}

std::uint8_t eight_bit_code(intflash_dtype dtype, float value) {
  const double magnitude = std::fabs(static_cast<double>(value));
  int code = 0;
  for (int step = 64; step > 0; step /= 2) {
    const int next = std::min(code + step, last_finite(dtype));
    if (eight_bit_value(dtype, static_cast<std::uint8_t>(next)) <= magnitude) code = next;
  }
  if (code < last_finite(dtype)) {
    const double below = magnitude - eight_bit_value(dtype, static_cast<std::uint8_t>(code));
    const double above = eight_bit_value(dtype, static_cast<std::uint8_t>(code + 1)) - magnitude;
    if (above < below || (above == below && code % 2 == 1)) ++code;
  }
  return static_cast<std::uint8_t>(std::signbit(value) ? code | 0x80 : code);
}

std::int64_t bytes_of(intflash_dtype dtype, std::int64_t elements) {
  switch (dtype) {
    case INTFLASH_F32:
      return 4 * elements;
    case INTFLASH_F16:
    case INTFLASH_BF16:
      return 2 * elements;
    case INTFLASH_INT8:
    case INTFLASH_BOOL:
    case INTFLASH_F8_E4M3:
    case INTFLASH_F8_E5M2:
      return elements;
    case INTFLASH_Q8_0:
      return elements / 32 * (2 + 32);
    case INTFLASH_Q4_0:
      return elements / 32 * (2 + 16);
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
    case INTFLASH_F8_E4M3:
    case INTFLASH_F8_E5M2:
      return eight_bit_value(dtype, load<std::uint8_t>(tensor, element));
    case INTFLASH_BOOL:
      return load<std::uint8_t>(tensor, element);
  }
  return std::nan("");
}

}  // namespace intflash::internal
