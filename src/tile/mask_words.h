// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Elements of masks, by their bits: which hide a key, which say nothing, and which are no numbers
// to add.
#pragma once

#include <cstdint>

#include "tile/portability.h"
#include "tile/types.h"

namespace intflash::internal {
namespace {

// Whether two rows read the same mask: requests of a tile have masks of their own.
INTFLASH_INLINE bool same_elements(const BiasRow& a, const BiasRow& b) {
  return a.elements == b.elements && a.dtype == b.dtype && a.begin == b.begin && a.end == b.end;
}

template <Dtype kDtype>
struct ElementBits;
template <>
struct ElementBits<Dtype::kF32> {
  using Bits = std::uint32_t;
  using SignedBits = std::int32_t;
  static constexpr Bits kInfinity = 0x7f800000, kSign = 0x80000000;
};
template <>
struct ElementBits<Dtype::kF16> {
  using Bits = std::uint16_t;
  using SignedBits = std::int16_t;
  static constexpr Bits kInfinity = 0x7c00, kSign = 0x8000;
};
template <>
struct ElementBits<Dtype::kBf16> {
  using Bits = std::uint16_t;
  using SignedBits = std::int16_t;
  static constexpr Bits kInfinity = 0x7f80, kSign = 0x8000;
};

// It and -infinity hide a key: no number has greater bits.
template <Dtype kDtype>
constexpr auto kLowestElement = static_cast<typename ElementBits<kDtype>::Bits>(
    ElementBits<kDtype>::kSign | (ElementBits<kDtype>::kInfinity - 1));
template <class Bits>
INTFLASH_INLINE bool is_zero_element(Bits element) {
  return static_cast<Bits>(element << 1) == 0;
}

// Eight bytes of 0 or 1 as eight bits: the product moves byte i to bit 56 + i, and no two meet.
INTFLASH_INLINE std::uint64_t word_of_flags(const std::uint8_t* flags) {
  std::uint64_t word = 0;
  for (std::int32_t i = 0; i < 8; ++i)
    word |= (load_as<std::uint64_t>(flags + 8 * i) * 0x0102040810204080u) >> 56 << (8 * i);
  return word;
}

// Those from lowest on hide their keys.
template <class Bits>
INTFLASH_INLINE MaskWords words_of_64(const Bits* elements, Bits lowest) {
  const Bits first = elements[0];
  Bits differs = 0;
  for (std::int32_t i = 0; i < 64; ++i)
    differs = static_cast<Bits>(differs | (elements[i] ^ first));
  if (differs == 0)
    return {first >= lowest ? ~std::uint64_t{0} : 0,
            is_zero_element(first) ? 0 : ~std::uint64_t{0}};
  std::uint8_t hidden[64];
  std::uint8_t nonzero[64];
  for (std::int32_t i = 0; i < 64; ++i) hidden[i] = elements[i] >= lowest ? 1 : 0;
  for (std::int32_t i = 0; i < 64; ++i) nonzero[i] = is_zero_element(elements[i]) ? 0 : 1;
  return {word_of_flags(hidden), word_of_flags(nonzero)};
}

// Of up to 64 elements. An instruction set that compares into masks has its own words_of_64.
template <class Isa, Dtype kDtype>
INTFLASH_NOINLINE MaskWords words_of(const void* elements, std::int64_t count) {
  using Bits = typename ElementBits<kDtype>::Bits;
  constexpr Bits kLowest = kLowestElement<kDtype>;
  Bits padded[64];
  if (count < 64) {
    __builtin_memset(padded, 0, sizeof padded);
    __builtin_memcpy(padded, elements, static_cast<std::size_t>(count) * sizeof(Bits));
    elements = padded;
  }
  if constexpr (requires { Isa::words_of_64(static_cast<const Bits*>(elements), kLowest); }) {
    return Isa::words_of_64(static_cast<const Bits*>(elements), kLowest);
  } else {
    return words_of_64(static_cast<const Bits*>(elements), kLowest);
  }
}

// Bytes, of which 0 hides the key.
[[maybe_unused]] INTFLASH_NOINLINE MaskWords words_of_bytes(const void* elements,
                                                            std::int64_t count) {
  const std::uint8_t* bytes = static_cast<const std::uint8_t*>(elements);
  std::uint8_t hidden[64] = {};
  for (std::int64_t i = 0; i < count; ++i) hidden[i] = bytes[i] == 0 ? 1 : 0;
  return {word_of_flags(hidden), 0};
}

// NaN and +infinity are the greatest as signed numbers, and NaN with a sign as unsigned ones.
template <Dtype kDtype>
INTFLASH_NOINLINE bool any_bad(const void* elements, std::int64_t count) {
  using Of = ElementBits<kDtype>;
  using Bits = typename Of::Bits;
  using SignedBits = typename Of::SignedBits;
  const Bits* bits = static_cast<const Bits*>(elements);
  SignedBits greatest = 0;
  Bits greatest_unsigned = 0;
  for (std::int64_t i = 0; i < count; ++i)
    greatest = max_of(greatest, static_cast<SignedBits>(bits[i]));
  for (std::int64_t i = 0; i < count; ++i) greatest_unsigned = max_of(greatest_unsigned, bits[i]);
  return greatest >= static_cast<SignedBits>(Of::kInfinity) ||
         greatest_unsigned > static_cast<Bits>(Of::kSign | Of::kInfinity);
}

template <class Isa>
MaskWords mask_words(const void* elements, Dtype dtype, std::int64_t count) {
  return dtype == Dtype::kF32    ? words_of<Isa, Dtype::kF32>(elements, count)
         : dtype == Dtype::kF16  ? words_of<Isa, Dtype::kF16>(elements, count)
         : dtype == Dtype::kBf16 ? words_of<Isa, Dtype::kBf16>(elements, count)
                                 : words_of_bytes(elements, count);
}
[[maybe_unused]] bool has_bad_element(const void* elements, Dtype dtype, std::int64_t count) {
  return dtype == Dtype::kF32    ? any_bad<Dtype::kF32>(elements, count)
         : dtype == Dtype::kF16  ? any_bad<Dtype::kF16>(elements, count)
         : dtype == Dtype::kBf16 ? any_bad<Dtype::kBf16>(elements, count)
                                 : false;
}

}  // namespace
}  // namespace intflash::internal
