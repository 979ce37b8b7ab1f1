// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Products of codes by sdot: four outputs' quads times one quad of a row.
#pragma once

#include <cstdint>

#include "neon/rdm.h"

namespace intflash::internal {
namespace {

struct DotProducts : NeonRdm {
  using Weight = std::int8_t;
  static constexpr std::int32_t kPanelRows = 24;  // as many registers of sums

  template <std::int32_t kRows, std::int32_t kGroups>
  struct Sums {
    I32 at[kRows][kGroups];

    INTFLASH_INLINE void start(std::int32_t r, std::int32_t g, I32 a) { at[r][g] = a; }
    INTFLASH_INLINE I32 row(std::int32_t r, std::int32_t g) const { return at[r][g]; }
  };

  // sum += quads of a times quad kLane of b. As an instruction and not an intrinsic: g++ 12 moves
  // the sums of an intrinsic from register to register.
  template <std::int32_t kLane>
  static INTFLASH_INLINE void multiply_add(I32& sum, int8x16_t a, int8x16_t b) {
    __asm__("sdot %0.4s, %1.16b, %2.4b[%3]" : "+w"(sum) : "w"(a), "w"(b), "i"(kLane));
  }

  template <std::int32_t kRows, std::int32_t kGroups>
  static INTFLASH_INLINE void add_octet(Sums<kRows, kGroups>& sums, const std::int8_t* rows,
                                        const std::int8_t* outputs) {
    int8x16_t first[kGroups];
    int8x16_t second[kGroups];
    INTFLASH_UNROLL
    for (std::int32_t g = 0; g < kGroups; ++g) {
      first[g] = load(outputs + g * 16);
      second[g] = load(outputs + 64 + g * 16);
    }
    INTFLASH_UNROLL
    for (std::int32_t r = 0; r < kRows; r += 2) {
      if (r % 4 == 0) keep_loads_here();
      const int8x16_t two = load(rows + r * 8);
      INTFLASH_UNROLL
      for (std::int32_t g = 0; g < kGroups; ++g) {
        multiply_add<0>(sums.at[r][g], first[g], two);
        multiply_add<1>(sums.at[r][g], second[g], two);
        if (r + 1 == kRows) continue;
        multiply_add<2>(sums.at[r + 1][g], first[g], two);
        multiply_add<3>(sums.at[r + 1][g], second[g], two);
      }
    }
  }

  // sum += the sums of a's quads.
  static INTFLASH_INLINE I32 add_quads(I32 sum, int8x16_t a) {
    return vdotq_s32(sum, a, vdupq_n_s8(1));
  }

  static double integer_peak(std::int64_t repeats) {
    std::int64_t left = repeats;
    __asm__ volatile(
        "1:\n"
        ".irp sum, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
        "sdot v\\sum\\().4s, v30.16b, v31.4b[0]\n"
        ".endr\n"
        "subs %0, %0, #1\n"
        "b.ne 1b\n"
        : "+r"(left)
        :
        : "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12",
          "v13", "v14", "v15");
    return 2.0 * 16 * 16 * static_cast<double>(repeats);
  }
};

}  // namespace
}  // namespace intflash::internal
