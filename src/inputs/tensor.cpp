// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "inputs/tensor.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <limits>

#include "core/checks.h"

namespace intflash::internal {
namespace {

// ---- Binary16 and bfloat16, bit by bit ----

// Without branches, so that compilers convert several elements of a row at a time.
float half_to_float(std::uint16_t half) {
  const std::int32_t exponent = (half >> 10) & 31;
  const std::int32_t fraction = half & 1023;
  // Subnormals, of exponent 0, lack the hidden 1 and count in the unit of exponent 1, 2^-24.
  const std::int32_t is_subnormal = exponent == 0;
  const std::int32_t significand = fraction + ((1 - is_subnormal) << 10);
  const float unit = std::bit_cast<float>((exponent + is_subnormal - 25 + 127) << 23);
  const auto finite = std::bit_cast<std::int32_t>(static_cast<float>(significand) * unit);
  // Infinity and NaN have all exponent bits set, there and here; the fraction is in place already.
  const std::int32_t is_special = exponent == 31;
  return std::bit_cast<float>(finite | is_special * 0x7f800000 | (half & 0x8000) << 16);
}

std::uint16_t float_to_half(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000;
  const std::uint32_t magnitude = bits & 0x7fffffff;
  std::uint32_t half;
  if (magnitude > 0x7f800000) {
    half = 0x7e00;  // NaN
  } else if (magnitude >= 0x477ff000) {
    half = 0x7c00;  // 65520 is halfway between 65504, the largest finite value, and the next step
  } else if (magnitude >= 0x38800000) {
    // Half of the 13 bits' unit that goes, less one, plus the lowest bit that stays: ties go to
    // even. Then the bias falls from 127 to 15.
    half = (magnitude + 0xfff + ((magnitude >> 13) & 1) - ((127u - 15u) << 23)) >> 13;
  } else {
    // Below 2^-14 the unit is 2^-24; 1024 of them are the smallest normal number, whose bits are
    // 1024 as well.
    half = static_cast<std::uint32_t>(std::lrint(std::bit_cast<float>(magnitude) * 0x1p24f));
  }
  return static_cast<std::uint16_t>(sign | half);
}

float bf16_to_float(std::uint16_t value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value) << 16);
}

std::uint16_t float_to_bf16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;  // rounding would carry some into infinity
  const std::uint32_t rounded = is_nan ? bits | 0x400000 : bits + 0x7fff + ((bits >> 16) & 1);
  return static_cast<std::uint16_t>(rounded >> 16);
}

// ---- OCP's 8-bit floats ----

// E5M2 is the upper byte of a binary16.
float e5m2_to_float(std::uint8_t code) {
  return half_to_float(static_cast<std::uint16_t>(code << 8));
}

// A sign, 4 bits of exponent of bias 7, 3 of fraction; all set but the sign is NaN.
float e4m3_to_float(std::uint8_t code) {
  const int exponent = (code >> 3) & 15;
  const int fraction = code & 7;
  if (exponent == 15 && fraction == 7) return std::numeric_limits<float>::quiet_NaN();
  // Subnormals, of exponent 0, lack the hidden 1 and count in the unit of exponent 1, 2^-9.
  const int significand = exponent == 0 ? fraction : fraction + 8;
  const float magnitude = std::ldexp(static_cast<float>(significand), std::max(exponent, 1) - 10);
  return code < 128 ? magnitude : -magnitude;
}

// ---- ggml's blocks ----

constexpr std::int64_t kBlockElements = 32;

std::int64_t block_bytes(intflash_dtype dtype) { return dtype == INTFLASH_Q8_0 ? 34 : 18; }

// A half, then 32 codes: of Q8_0 a byte each; of Q4_0 four bits plus 8, where byte i has element i
// below and element i + 16 above.
double block_element(const std::uint8_t* block, intflash_dtype dtype, std::int64_t i) {
  const double scale = half_to_float(static_cast<std::uint16_t>(block[0] | block[1] << 8));
  const std::uint8_t* codes = block + 2;
  if (dtype == INTFLASH_Q8_0) return scale * static_cast<std::int8_t>(codes[i]);
  return scale * ((i < 16 ? codes[i] & 15 : codes[i - 16] >> 4) - 8);
}

// ---- Tensors ----

std::int64_t row_offset(const intflash_tensor& tensor, std::int64_t b, std::int64_t h,
                        std::int64_t token) {
  return b * tensor.stride_batch + h * tensor.stride_head + token * tensor.stride_token;
}

}  // namespace

float token_scale(const intflash_tensor& tensor, std::int64_t b, std::int64_t h,
                  std::int64_t token) {
  const std::int64_t group = tensor.scale_block == 0 ? 0 : token / tensor.scale_block;
  return tensor.scale[b * tensor.scale_stride_batch + h * tensor.scale_stride_head + group];
}

void tensor_row(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b, std::int64_t h,
                std::int64_t token, std::int64_t dim, double* row) {
  const std::int64_t offset = row_offset(tensor, b, h, token);
  switch (dtype) {
    case INTFLASH_F32: {
      const float* values = static_cast<const float*>(tensor.data) + offset;
      for (std::int64_t c = 0; c < dim; ++c) row[c] = values[c];
      return;
    }
    case INTFLASH_F16: {
      const std::uint16_t* values = static_cast<const std::uint16_t*>(tensor.data) + offset;
      for (std::int64_t c = 0; c < dim; ++c) row[c] = half_to_float(values[c]);
      return;
    }
    case INTFLASH_BF16: {
      const std::uint16_t* values = static_cast<const std::uint16_t*>(tensor.data) + offset;
      for (std::int64_t c = 0; c < dim; ++c) row[c] = bf16_to_float(values[c]);
      return;
    }
    case INTFLASH_INT8: {
      const std::int8_t* codes = static_cast<const std::int8_t*>(tensor.data) + offset;
      const double scale = token_scale(tensor, b, h, token);
      for (std::int64_t c = 0; c < dim; ++c) row[c] = codes[c] * scale;
      return;
    }
    case INTFLASH_Q8_0:
    case INTFLASH_Q4_0: {
      const std::int64_t bytes = block_bytes(dtype);
      const auto* blocks =
          static_cast<const std::uint8_t*>(tensor.data) + offset / kBlockElements * bytes;
      for (std::int64_t c = 0; c < dim; ++c)
        row[c] = block_element(blocks + c / kBlockElements * bytes, dtype, c % kBlockElements);
      return;
    }
    case INTFLASH_F8_E4M3: {
      const std::uint8_t* values = static_cast<const std::uint8_t*>(tensor.data) + offset;
      for (std::int64_t c = 0; c < dim; ++c) row[c] = e4m3_to_float(values[c]);
      return;
    }
    case INTFLASH_F8_E5M2: {
      const std::uint8_t* values = static_cast<const std::uint8_t*>(tensor.data) + offset;
      for (std::int64_t c = 0; c < dim; ++c) row[c] = e5m2_to_float(values[c]);
      return;
    }
    case INTFLASH_BOOL:
      return;  // masks only; make_problem refuses it for tensors
  }
}

double tensor_element(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                      std::int64_t h, std::int64_t token, std::int64_t c) {
  intflash_tensor from_c = tensor;  // the same rows, seen from column c on, or from its block
  const std::int64_t before = has_blocks(dtype) ? c % kBlockElements : 0;
  const std::int64_t bytes =
      has_blocks(dtype) ? c / kBlockElements * block_bytes(dtype) : c * dtype_bytes(dtype);
  from_c.data = static_cast<std::byte*>(tensor.data) + bytes;
  double elements[kBlockElements];
  tensor_row(from_c, dtype, b, h, token, before + 1, elements);
  return elements[before];
}

void store_element(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                   std::int64_t h, std::int64_t token, std::int64_t c, float value) {
  const std::int64_t offset = row_offset(tensor, b, h, token) + c;
  switch (dtype) {
    case INTFLASH_F32:
      static_cast<float*>(tensor.data)[offset] = value;
      return;
    case INTFLASH_F16:
      static_cast<std::uint16_t*>(tensor.data)[offset] = float_to_half(value);
      return;
    case INTFLASH_BF16:
      static_cast<std::uint16_t*>(tensor.data)[offset] = float_to_bf16(value);
      return;
    case INTFLASH_INT8:
    case INTFLASH_Q8_0:
    case INTFLASH_Q4_0:
    case INTFLASH_BOOL:
    case INTFLASH_F8_E4M3:
    case INTFLASH_F8_E5M2:
      return;  // inputs only; make_problem refuses them for out
  }
}

}  // namespace intflash::internal
