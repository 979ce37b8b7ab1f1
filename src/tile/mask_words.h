// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Elements of additive masks, f32 or f16, by their bits: which hide a key, which say nothing, and
// which are no numbers to add.
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

template <class Bits>
struct FloatBits;
template <>
struct FloatBits<std::uint32_t> {
  static constexpr std::uint32_t kInfinity = 0x7f800000, kSign = 0x80000000;
};
template <>
struct FloatBits<std::uint16_t> {
  static constexpr std::uint16_t kInfinity = 0x7c00, kSign = 0x8000;
};

// It and -infinity hide a key: no number has greater bits.
template <class Bits>
constexpr Bits kLowestElement = FloatBits<Bits>::kSign | (FloatBits<Bits>::kInfinity - 1);
template <class Bits>
INTFLASH_INLINE bool hides_key(Bits element) {
  return element >= kLowestElement<Bits>;
}
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

template <class Bits>
INTFLASH_INLINE MaskWords words_of_64(const Bits* elements) {
  const Bits first = elements[0];
  Bits differs = 0;
  for (std::int32_t i = 0; i < 64; ++i)
    differs = static_cast<Bits>(differs | (elements[i] ^ first));
  if (differs == 0)
    return {hides_key(first) ? ~std::uint64_t{0} : 0,
            is_zero_element(first) ? 0 : ~std::uint64_t{0}};
  std::uint8_t hidden[64];
  std::uint8_t nonzero[64];
  for (std::int32_t i = 0; i < 64; ++i) hidden[i] = hides_key(elements[i]) ? 1 : 0;
  for (std::int32_t i = 0; i < 64; ++i) nonzero[i] = is_zero_element(elements[i]) ? 0 : 1;
  return {word_of_flags(hidden), word_of_flags(nonzero)};
}

// Of up to 64 elements. An instruction set that compares into masks has its own words_of_64.
template <class Isa, class Bits>
INTFLASH_NOINLINE MaskWords words_of(const void* elements, std::int64_t count) {
  Bits padded[64];
  if (count < 64) {
    __builtin_memset(padded, 0, sizeof padded);
    __builtin_memcpy(padded, elements, static_cast<std::size_t>(count) * sizeof(Bits));
    elements = padded;
  }
  if constexpr (requires { Isa::words_of_64(static_cast<const Bits*>(elements)); }) {
    return Isa::words_of_64(static_cast<const Bits*>(elements));
  } else {
    return words_of_64(static_cast<const Bits*>(elements));
  }
}

// NaN and +infinity are the greatest as signed numbers, and NaN with a sign as unsigned ones.
template <class Bits, class SignedBits>
INTFLASH_NOINLINE bool any_bad(const void* elements, std::int64_t count) {
  const Bits* bits = static_cast<const Bits*>(elements);
  SignedBits greatest = 0;
  Bits greatest_unsigned = 0;
  for (std::int64_t i = 0; i < count; ++i)
    greatest = max_of(greatest, static_cast<SignedBits>(bits[i]));
  for (std::int64_t i = 0; i < count; ++i) greatest_unsigned = max_of(greatest_unsigned, bits[i]);
  using Of = FloatBits<Bits>;
  return greatest >= static_cast<SignedBits>(Of::kInfinity) ||
         greatest_unsigned > static_cast<Bits>(Of::kSign | Of::kInfinity);
}

template <class Isa>
MaskWords mask_words(const void* elements, Dtype dtype, std::int64_t count) {
  return dtype == Dtype::kF32 ? words_of<Isa, std::uint32_t>(elements, count)
                              : words_of<Isa, std::uint16_t>(elements, count);
}
[[maybe_unused]] bool has_bad_element(const void* elements, Dtype dtype, std::int64_t count) {
  return dtype == Dtype::kF32 ? any_bad<std::uint32_t, std::int32_t>(elements, count)
                              : any_bad<std::uint16_t, std::int16_t>(elements, count);
}

}  // namespace
}  // namespace intflash::internal
