// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What differs between compilers, for the code that is compiled once per instruction set, and for
// the parts of it that the CUDA library compiles for its devices.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define INTFLASH_INLINE __host__ __device__ inline __attribute__((always_inline))
#else
#define INTFLASH_INLINE inline __attribute__((always_inline))
#endif
#define INTFLASH_NOINLINE __attribute__((noinline))
#define INTFLASH_RESTRICT __restrict__
#define INTFLASH_ASSUME(condition)             \
  do {                                         \
    if (!(condition)) __builtin_unreachable(); \
  } while (false)

#if defined(__CUDACC__)
#define INTFLASH_UNROLL _Pragma("unroll")
#elif defined(__clang__)
#define INTFLASH_UNROLL _Pragma("clang loop unroll(full)")
#else
#define INTFLASH_UNROLL _Pragma("GCC unroll 64")
#endif

namespace intflash::internal {

// Reads and writes memory as another type without breaking the aliasing rules; compiles to one
// move.
template <class T>
INTFLASH_INLINE T load_as(const void* source) {
  T value;
  __builtin_memcpy(&value, source, sizeof value);
  return value;
}
template <class T>
INTFLASH_INLINE void store_as(void* target, T value) {
  __builtin_memcpy(target, &value, sizeof value);
}
template <class To, class From>
INTFLASH_INLINE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  return __builtin_bit_cast(To, from);
}

template <class T>
INTFLASH_INLINE constexpr T min_of(T a, T b) {
  return b < a ? b : a;
}
template <class T>
INTFLASH_INLINE constexpr T max_of(T a, T b) {
  return a < b ? b : a;
}
INTFLASH_INLINE constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}
INTFLASH_INLINE constexpr std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return ceil_div(value, multiple) * multiple;
}

}  // namespace intflash::internal
