// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Binary16 and bfloat16 as tensors hold them, every bit pattern of both.
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include <gtest/gtest.h>

#include "element.h"
#include "inputs/tensor.h"

namespace intflash::internal {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

intflash_tensor one_element(std::uint16_t* bits) {
  intflash_tensor tensor = {};
  tensor.data = bits;
  return tensor;
}

// One element, stored and loaded through the functions that tensors use.
std::uint16_t bits_of(intflash_dtype dtype, float value) {
  std::uint16_t bits = 0;
  store_element(one_element(&bits), dtype, 0, 0, 0, 0, value);
  return bits;
}
double value_of(intflash_dtype dtype, std::uint16_t bits) {
  return tensor_element(one_element(&bits), dtype, 0, 0, 0, 0);
}

struct Format {
  intflash_dtype dtype;
  std::uint16_t infinity;
};
constexpr Format kFormats[] = {{INTFLASH_F16, 0x7c00}, {INTFLASH_BF16, 0x7f80}};

TEST(SixteenBitFormats, EveryBitPatternIsTheNumberThatItsDefinitionSays) {
  for (const Format& format : kFormats) {
    for (int bits = 0; bits < 65536; ++bits) {
      const auto pattern = static_cast<std::uint16_t>(bits);
      const double expected = sixteen_bit_value(format.dtype, pattern);
      const double value = value_of(format.dtype, pattern);
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(value)) << bits;
      } else {
        ASSERT_EQ(value, expected) << bits;
        ASSERT_EQ(std::signbit(value), std::signbit(expected)) << bits;
        ASSERT_EQ(bits_of(format.dtype, static_cast<float>(value)), pattern) << bits;
      }
    }
  }
}

TEST(SixteenBitFormats, WhatLiesBetweenGoesToTheNearestAndTiesToEven) {
  for (const Format& format : kFormats) {
    for (int bits = 0; bits + 1 < format.infinity; ++bits) {
      const auto low = static_cast<std::uint16_t>(bits),
                 high = static_cast<std::uint16_t>(bits + 1);
      // Exact: f32 has more bits of fraction than either format, and its subnormals reach below
      // bfloat16's.
      const auto middle = static_cast<float>(
          (sixteen_bit_value(format.dtype, low) + sixteen_bit_value(format.dtype, high)) / 2);
      ASSERT_EQ(bits_of(format.dtype, middle), bits % 2 == 0 ? low : high) << bits;
      ASSERT_EQ(bits_of(format.dtype, std::nextafter(middle, 0.0f)), low) << bits;
      ASSERT_EQ(bits_of(format.dtype, std::nextafter(middle, kInfinity)), high) << bits;
      ASSERT_EQ(bits_of(format.dtype, -middle), 0x8000 | bits_of(format.dtype, middle)) << bits;
    }
  }
}

TEST(SixteenBitFormats, ValuesBeyondTheLargestBecomeInfinityFromHalfAStepOn) {
  EXPECT_EQ(value_of(INTFLASH_F16, bits_of(INTFLASH_F16, std::nextafter(65520.0f, 0.0f))), 65504);
  EXPECT_EQ(value_of(INTFLASH_F16, bits_of(INTFLASH_F16, 65520.0f)), kInfinity);
  EXPECT_EQ(value_of(INTFLASH_F16, bits_of(INTFLASH_F16, -kInfinity)), -kInfinity);
  EXPECT_EQ(value_of(INTFLASH_BF16, bits_of(INTFLASH_BF16, std::numeric_limits<float>::max())),
            kInfinity);
}

TEST(SixteenBitFormats, NanStaysNanWhateverBitsMakeIt) {
  for (const std::uint32_t bits : {0x7f800001u, 0x7fc00000u, 0x7fffffffu, 0xff800001u}) {
    for (const Format& format : kFormats) {
      const std::uint16_t stored = bits_of(format.dtype, std::bit_cast<float>(bits));
      EXPECT_TRUE(std::isnan(value_of(format.dtype, stored))) << std::hex << bits;
    }
  }
}

}  // namespace
}  // namespace intflash::internal
