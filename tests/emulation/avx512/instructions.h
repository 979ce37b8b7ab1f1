// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Stands in for src/avx512/instructions.h where there is no AVX-512: the intrinsics that the ports
// use, under their own names, on two halves in AVX2 or element by element. In this namespace the
// names hide the compiler's; an intrinsic that is missing here does not compile.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "avx2/avx_vnni.h"
#include "tile/portability.h"

// These are macros of the compiler's header.
#undef _mm512_cmp_ps_mask
#undef _mm512_cmpge_epu16_mask
#undef _mm512_cmpge_epu32_mask
#undef _mm512_extracti64x4_epi64
#undef _mm512_permute_ps
#undef _mm512_rol_epi32
#undef _mm512_roundscale_ps
#undef _mm512_setr_epi32
#undef _mm512_shuffle_f32x4
#undef _mm512_shuffle_i32x4
#undef _mm512_shuffle_i64x2
#undef _mm512_slli_epi16
#undef _mm512_slli_epi32
#undef _mm512_srai_epi32
#undef _mm512_srli_epi16
#undef _mm512_srli_epi32
#undef _mm512_ternarylogic_epi32

namespace intflash::internal {
namespace {

struct alignas(64) __m512i {
  __m256i half[2];
};
struct alignas(64) __m512 {
  __m256 half[2];
};

// ---- By elements -------------------------------------------------------------------------------

template <class T>
INTFLASH_INLINE T element(const __m512i& a, std::int32_t i) {
  return load_as<T>(reinterpret_cast<const T*>(&a) + i);
}
// The vector of f(0), f(1), and so on.
template <class T, class F>
INTFLASH_INLINE __m512i each_element(F f) {
  T elements[64 / sizeof(T)];
  for (std::int32_t i = 0; i < std::int32_t{64 / sizeof(T)}; ++i) elements[i] = f(i);
  return load_as<__m512i>(elements);
}
// Bit i is f(i).
template <class T, class F>
INTFLASH_INLINE std::uint64_t each_bit(F f) {
  std::uint64_t bits = 0;
  for (std::int32_t i = 0; i < std::int32_t{64 / sizeof(T)}; ++i) bits |= std::uint64_t{f(i)} << i;
  return bits;
}

// ---- Memory ------------------------------------------------------------------------------------

// What the CPU would fault on stops the program.
INTFLASH_INLINE void require_aligned(const void* p) {
  if (reinterpret_cast<std::uintptr_t>(p) % 64 != 0) __builtin_trap();
}

// By halves, so that vectors stay in registers: copied whole they would lie in memory, and unrolled
// kernels would take twice as long to compile.
inline __m512i _mm512_loadu_si512(const void* p) {
  const auto* halves = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1)};
}
inline __m512 _mm512_loadu_ps(const void* p) {
  const auto* floats = static_cast<const float*>(p);
  return {_mm256_loadu_ps(floats), _mm256_loadu_ps(floats + 8)};
}
inline void _mm512_storeu_si512(void* p, __m512i a) {
  auto* halves = static_cast<__m256i*>(p);
  _mm256_storeu_si256(halves, a.half[0]);
  _mm256_storeu_si256(halves + 1, a.half[1]);
}
inline void _mm512_storeu_ps(void* p, __m512 a) {
  auto* floats = static_cast<float*>(p);
  _mm256_storeu_ps(floats, a.half[0]);
  _mm256_storeu_ps(floats + 8, a.half[1]);
}
inline __m512i _mm512_load_si512(const void* p) {
  require_aligned(p);
  return _mm512_loadu_si512(p);
}
inline __m512 _mm512_load_ps(const void* p) {
  require_aligned(p);
  return _mm512_loadu_ps(p);
}
inline void _mm512_store_si512(void* p, __m512i a) {
  require_aligned(p);
  _mm512_storeu_si512(p, a);
}
inline void _mm512_store_ps(void* p, __m512 a) {
  require_aligned(p);
  _mm512_storeu_ps(p, a);
}

inline __m256i _mm256_maskz_loadu_epi16(__mmask16 some, const void* p) {
  std::uint16_t elements[16] = {};
  for (std::int32_t i = 0; i < 16; ++i) {
    if ((some >> i & 1) != 0)
      elements[i] = load_as<std::uint16_t>(static_cast<const char*>(p) + 2 * i);
  }
  return load_as<__m256i>(elements);
}
inline void _mm512_mask_storeu_ps(void* p, __mmask16 some, __m512 a) {
  for (std::int32_t i = 0; i < 16; ++i) {
    if ((some >> i & 1) != 0) store_as(static_cast<char*>(p) + 4 * i, a.half[i / 8][i % 8]);
  }
}

// ---- The same in all lanes ---------------------------------------------------------------------

INTFLASH_INLINE __m512i both_halves(__m256i a) { return {a, a}; }
inline __m512i _mm512_setzero_si512() { return both_halves(_mm256_setzero_si256()); }
inline __m512i _mm512_set1_epi8(char a) { return both_halves(_mm256_set1_epi8(a)); }
inline __m512i _mm512_set1_epi16(short a) { return both_halves(_mm256_set1_epi16(a)); }
inline __m512i _mm512_set1_epi32(int a) { return both_halves(_mm256_set1_epi32(a)); }
inline __m512i _mm512_set1_epi64(long long a) { return both_halves(_mm256_set1_epi64x(a)); }
inline __m512i _mm512_broadcast_i32x4(__m128i a) {
  return both_halves(_mm256_broadcastsi128_si256(a));
}
inline __m512 _mm512_set1_ps(float a) { return {_mm256_set1_ps(a), _mm256_set1_ps(a)}; }

// ---- By halves ---------------------------------------------------------------------------------

// Operations that stay inside their lanes of at most 128 bits.
#define INTFLASH_BY_HALVES(operation)                                                            \
  inline __m512i _mm512_##operation(__m512i a, __m512i b) {                                      \
    return {_mm256_##operation(a.half[0], b.half[0]), _mm256_##operation(a.half[1], b.half[1])}; \
  }
INTFLASH_BY_HALVES(add_epi16)
INTFLASH_BY_HALVES(add_epi32)
INTFLASH_BY_HALVES(add_epi8)
INTFLASH_BY_HALVES(avg_epu16)
INTFLASH_BY_HALVES(max_epi16)
INTFLASH_BY_HALVES(max_epi32)
INTFLASH_BY_HALVES(min_epi32)
INTFLASH_BY_HALVES(min_epu16)
INTFLASH_BY_HALVES(mulhrs_epi16)
INTFLASH_BY_HALVES(mullo_epi16)
INTFLASH_BY_HALVES(packs_epi16)
INTFLASH_BY_HALVES(packs_epi32)
INTFLASH_BY_HALVES(packus_epi16)
INTFLASH_BY_HALVES(sllv_epi32)
INTFLASH_BY_HALVES(srav_epi32)
INTFLASH_BY_HALVES(sub_epi16)
INTFLASH_BY_HALVES(sub_epi32)
INTFLASH_BY_HALVES(unpackhi_epi8)
INTFLASH_BY_HALVES(unpackhi_epi16)
INTFLASH_BY_HALVES(unpackhi_epi32)
INTFLASH_BY_HALVES(unpackhi_epi64)
INTFLASH_BY_HALVES(unpacklo_epi8)
INTFLASH_BY_HALVES(unpacklo_epi16)
INTFLASH_BY_HALVES(unpacklo_epi32)
INTFLASH_BY_HALVES(unpacklo_epi64)
#undef INTFLASH_BY_HALVES

inline __m512i _mm512_or_si512(__m512i a, __m512i b) {
  return {_mm256_or_si256(a.half[0], b.half[0]), _mm256_or_si256(a.half[1], b.half[1])};
}
inline __m512i _mm512_shuffle_epi8(__m512i a, __m512i index) {
  return {_mm256_shuffle_epi8(a.half[0], index.half[0]),
          _mm256_shuffle_epi8(a.half[1], index.half[1])};
}
inline __m512i _mm512_and_si512(__m512i a, __m512i b) {
  return {_mm256_and_si256(a.half[0], b.half[0]), _mm256_and_si256(a.half[1], b.half[1])};
}
inline __m512i _mm512_xor_si512(__m512i a, __m512i b) {
  return {_mm256_xor_si256(a.half[0], b.half[0]), _mm256_xor_si256(a.half[1], b.half[1])};
}
inline __m512i _mm512_slli_epi32(__m512i a, unsigned count) {
  const int bits = static_cast<int>(count);
  return {_mm256_slli_epi32(a.half[0], bits), _mm256_slli_epi32(a.half[1], bits)};
}
inline __m512i _mm512_slli_epi16(__m512i a, unsigned count) {
  const int bits = static_cast<int>(count);
  return {_mm256_slli_epi16(a.half[0], bits), _mm256_slli_epi16(a.half[1], bits)};
}
inline __m512i _mm512_srli_epi16(__m512i a, unsigned count) {
  const int bits = static_cast<int>(count);
  return {_mm256_srli_epi16(a.half[0], bits), _mm256_srli_epi16(a.half[1], bits)};
}
inline __m512i _mm512_srli_epi32(__m512i a, unsigned count) {
  const int bits = static_cast<int>(count);
  return {_mm256_srli_epi32(a.half[0], bits), _mm256_srli_epi32(a.half[1], bits)};
}
inline __m512i _mm512_srai_epi32(__m512i a, unsigned count) {
  const int bits = static_cast<int>(count);
  return {_mm256_srai_epi32(a.half[0], bits), _mm256_srai_epi32(a.half[1], bits)};
}
inline __m512i _mm512_dpwssd_epi32(__m512i sum, __m512i a, __m512i b) {
  return {dot_words(sum.half[0], a.half[0], b.half[0]),
          dot_words(sum.half[1], a.half[1], b.half[1])};
}
inline __m512i _mm512_dpbusd_epi32(__m512i sum, __m512i a, __m512i b) {
  return {dot_bytes(sum.half[0], a.half[0], b.half[0]),
          dot_bytes(sum.half[1], a.half[1], b.half[1])};
}

inline __m512 _mm512_add_ps(__m512 a, __m512 b) {
  return {_mm256_add_ps(a.half[0], b.half[0]), _mm256_add_ps(a.half[1], b.half[1])};
}
inline __m512 _mm512_sub_ps(__m512 a, __m512 b) {
  return {_mm256_sub_ps(a.half[0], b.half[0]), _mm256_sub_ps(a.half[1], b.half[1])};
}
inline __m512 _mm512_max_ps(__m512 a, __m512 b) {
  return {_mm256_max_ps(a.half[0], b.half[0]), _mm256_max_ps(a.half[1], b.half[1])};
}
// Rounds down, which is all that the ports ask for.
inline __m512 _mm512_roundscale_ps(__m512 a, int rounding) {
  if (rounding != (_MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)) __builtin_trap();
  return {_mm256_floor_ps(a.half[0]), _mm256_floor_ps(a.half[1])};
}
inline __m512 _mm512_castsi512_ps(__m512i a) {
  return {_mm256_castsi256_ps(a.half[0]), _mm256_castsi256_ps(a.half[1])};
}
inline __m512i _mm512_castps_si512(__m512 a) {
  return {_mm256_castps_si256(a.half[0]), _mm256_castps_si256(a.half[1])};
}
inline __m512 _mm512_mul_ps(__m512 a, __m512 b) {
  return {_mm256_mul_ps(a.half[0], b.half[0]), _mm256_mul_ps(a.half[1], b.half[1])};
}
inline __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
  return {_mm256_fmadd_ps(a.half[0], b.half[0], c.half[0]),
          _mm256_fmadd_ps(a.half[1], b.half[1], c.half[1])};
}

inline __m512 _mm512_cvtepi32_ps(__m512i a) {
  return {_mm256_cvtepi32_ps(a.half[0]), _mm256_cvtepi32_ps(a.half[1])};
}
inline __m512i _mm512_cvtps_epi32(__m512 a) {
  return {_mm256_cvtps_epi32(a.half[0]), _mm256_cvtps_epi32(a.half[1])};
}
inline __m512 _mm512_cvtph_ps(__m256i a) {
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(a)),
          _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1))};
}
inline __m512i _mm512_cvtepi8_epi32(__m128i a) {
  return {_mm256_cvtepi8_epi32(a), _mm256_cvtepi8_epi32(_mm_srli_si128(a, 8))};
}

inline __m512i _mm512_cvtepu8_epi32(__m128i a) {
  return {_mm256_cvtepu8_epi32(a), _mm256_cvtepu8_epi32(_mm_srli_si128(a, 8))};
}
inline __m512i _mm512_cvtepu16_epi32(__m256i a) {
  return {_mm256_cvtepu16_epi32(_mm256_castsi256_si128(a)),
          _mm256_cvtepu16_epi32(_mm256_extracti128_si256(a, 1))};
}

inline __m256i _mm512_castsi512_si256(__m512i a) { return a.half[0]; }
inline __m256i _mm512_extracti64x4_epi64(__m512i a, int half) { return a.half[half]; }

// ---- What AVX2 has nothing like -----------------------------------------------------------------

inline __m512i _mm512_setr_epi32(int a, int b, int c, int d, int e, int f, int g, int h, int i,
                                 int j, int k, int l, int m, int n, int o, int p) {
  return {_mm256_setr_epi32(a, b, c, d, e, f, g, h), _mm256_setr_epi32(i, j, k, l, m, n, o, p)};
}

// These are called, not inlined: they too would make unrolled kernels slow to compile.
[[gnu::noinline]] inline __m512i _mm512_srlv_epi16(__m512i a, __m512i count) {
  return each_element<std::uint16_t>([&](std::int32_t i) -> std::uint16_t {
    const std::uint16_t bits = element<std::uint16_t>(count, i);
    return bits > 15 ? 0 : static_cast<std::uint16_t>(element<std::uint16_t>(a, i) >> bits);
  });
}
[[gnu::noinline]] inline __m512i _mm512_rol_epi32(__m512i a, int count) {
  return each_element<std::uint32_t>([&](std::int32_t i) {
    const std::uint32_t x = element<std::uint32_t>(a, i);
    return x << count % 32 | x >> (32 - count) % 32;
  });
}
// Bit 4 x + 2 y + z of table is the result for bits x of a, y of b and z of c.
[[gnu::noinline]] inline __m512i _mm512_ternarylogic_epi32(__m512i a, __m512i b, __m512i c,
                                                           int table) {
  return each_element<std::uint64_t>([&](std::int32_t i) {
    const std::uint64_t x[2] = {~element<std::uint64_t>(a, i), element<std::uint64_t>(a, i)};
    const std::uint64_t y[2] = {~element<std::uint64_t>(b, i), element<std::uint64_t>(b, i)};
    const std::uint64_t z[2] = {~element<std::uint64_t>(c, i), element<std::uint64_t>(c, i)};
    std::uint64_t result = 0;
    for (std::int32_t bit = 0; bit < 8; ++bit) {
      if ((table >> bit & 1) != 0) result |= x[bit / 4] & y[bit / 2 % 2] & z[bit % 2];
    }
    return result;
  });
}

// Two 128-bit lanes of a, then two of b: two bits of lanes each.
[[gnu::noinline]] inline __m512i _mm512_shuffle_i32x4(__m512i a, __m512i b, int lanes) {
  return each_element<__m128i>(
      [&](std::int32_t i) { return element<__m128i>(i < 2 ? a : b, lanes >> 2 * i & 3); });
}
[[gnu::noinline]] inline __m512i _mm512_shuffle_i64x2(__m512i a, __m512i b, int lanes) {
  return _mm512_shuffle_i32x4(a, b, lanes);
}
[[gnu::noinline]] inline __m512 _mm512_shuffle_f32x4(__m512 a, __m512 b, int lanes) {
  return _mm512_castsi512_ps(
      _mm512_shuffle_i32x4(_mm512_castps_si512(a), _mm512_castps_si512(b), lanes));
}
// Within each 128 bits: two bits of an element each.
[[gnu::noinline]] inline __m512 _mm512_permute_ps(__m512 a, int order) {
  const __m512i bits = _mm512_castps_si512(a);
  return _mm512_castsi512_ps(each_element<std::int32_t>([&](std::int32_t i) {
    return element<std::int32_t>(bits, (i & ~3) + (order >> 2 * (i & 3) & 3));
  }));
}
[[gnu::noinline]] inline __m512i _mm512_permutexvar_epi32(__m512i index, __m512i a) {
  return each_element<std::int32_t>([&](std::int32_t i) {
    return element<std::int32_t>(a, element<std::int32_t>(index, i) & 15);
  });
}
[[gnu::noinline]] inline __m512i _mm512_permutexvar_epi16(__m512i index, __m512i a) {
  return each_element<std::int16_t>([&](std::int32_t i) {
    return element<std::int16_t>(a, element<std::int16_t>(index, i) & 31);
  });
}
[[gnu::noinline]] inline __m512i _mm512_permutex2var_epi16(__m512i a, __m512i index, __m512i b) {
  return each_element<std::int16_t>([&](std::int32_t i) {
    const std::int32_t place = element<std::int16_t>(index, i) & 63;
    return element<std::int16_t>(place < 32 ? a : b, place & 31);
  });
}
[[gnu::noinline]] inline __m512i _mm512_permutexvar_epi8(__m512i index, __m512i a) {
  return each_element<std::uint8_t>([&](std::int32_t i) {
    return element<std::uint8_t>(a, element<std::uint8_t>(index, i) & 63);
  });
}
// Eight bits of each 64-bit word of a, from where start says.
[[gnu::noinline]] inline __m512i _mm512_multishift_epi64_epi8(__m512i start, __m512i a) {
  return each_element<std::uint8_t>([&](std::int32_t i) {
    const std::uint64_t word = element<std::uint64_t>(a, i / 8);
    const std::int32_t bit = element<std::uint8_t>(start, i) & 63;
    return static_cast<std::uint8_t>(word >> bit | word << (64 - bit) % 64);
  });
}
[[gnu::noinline]] inline __m512i _mm512_mask_multishift_epi64_epi8(__m512i otherwise,
                                                                   __mmask64 some, __m512i start,
                                                                   __m512i a) {
  const __m512i shifted = _mm512_multishift_epi64_epi8(start, a);
  return each_element<std::uint8_t>([&](std::int32_t i) {
    return element<std::uint8_t>((some >> i & 1) != 0 ? shifted : otherwise, i);
  });
}

[[gnu::noinline]] inline __m512i _mm512_mask_sub_epi32(__m512i otherwise, __mmask16 some, __m512i a,
                                                       __m512i b) {
  const __m512i difference = _mm512_sub_epi32(a, b);
  return each_element<std::int32_t>([&](std::int32_t i) {
    return element<std::int32_t>((some >> i & 1) != 0 ? difference : otherwise, i);
  });
}

[[gnu::noinline]] inline int _mm512_reduce_max_epi32(__m512i a) {
  std::int32_t largest = INT32_MIN;
  for (std::int32_t i = 0; i < 16; ++i) largest = max_of(largest, element<std::int32_t>(a, i));
  return largest;
}

[[gnu::noinline]] inline __m512i _mm512_movm_epi16(__mmask32 bits) {
  return each_element<std::int16_t>(
      [&](std::int32_t i) { return static_cast<std::int16_t>(-(bits >> i & 1)); });
}
[[gnu::noinline]] inline __m512i _mm512_movm_epi32(__mmask16 bits) {
  return each_element<std::int32_t>([&](std::int32_t i) { return -(bits >> i & 1); });
}
[[gnu::noinline]] inline __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int kind) {
  return static_cast<__mmask16>(each_bit<float>([&](std::int32_t i) {
    const float x = a.half[i / 8][i % 8];
    const float y = b.half[i / 8][i % 8];
    return kind == _CMP_LT_OQ ? x < y : x <= y;
  }));
}
[[gnu::noinline]] inline __mmask32 _mm512_cmpge_epu16_mask(__m512i a, __m512i b) {
  return static_cast<__mmask32>(each_bit<std::uint16_t>([&](std::int32_t i) {
    return element<std::uint16_t>(a, i) >= element<std::uint16_t>(b, i);
  }));
}
[[gnu::noinline]] inline __mmask16 _mm512_cmpge_epu32_mask(__m512i a, __m512i b) {
  return static_cast<__mmask16>(each_bit<std::uint32_t>([&](std::int32_t i) {
    return element<std::uint32_t>(a, i) >= element<std::uint32_t>(b, i);
  }));
}
[[gnu::noinline]] inline __mmask32 _mm512_test_epi16_mask(__m512i a, __m512i b) {
  return static_cast<__mmask32>(each_bit<std::uint16_t>([&](std::int32_t i) {
    return (element<std::uint16_t>(a, i) & element<std::uint16_t>(b, i)) != 0;
  }));
}
[[gnu::noinline]] inline __mmask16 _mm512_test_epi32_mask(__m512i a, __m512i b) {
  return static_cast<__mmask16>(each_bit<std::uint32_t>([&](std::int32_t i) {
    return (element<std::uint32_t>(a, i) & element<std::uint32_t>(b, i)) != 0;
  }));
}

// ---- What the intrinsics cannot say -------------------------------------------------------------

inline __m512i dot_64_bytes(__m512i sum, __m512i a, __m512i b) {
  return _mm512_dpbusd_epi32(sum, a, b);
}
INTFLASH_INLINE void repeat_dot_64_bytes(std::int64_t repeats) { repeat_dot_bytes(2 * repeats); }

inline __m512i opaque(__m512i a) { return a; }
inline __mmask64 opaque(__mmask64 a) { return a; }

}  // namespace
}  // namespace intflash::internal
