// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Products of codes by smmla and usmmla: two rows of eight bytes times two outputs of eight, into
// four sums. Zipping two quads of four outputs gives two such pairs of outputs; 24 rows share them.
#pragma once

#include <cstdint>

#include "neon/rdm.h"

namespace intflash::internal {
namespace {

struct MatrixProducts : NeonRdm {
  using Weight = std::uint8_t;
  static constexpr std::int32_t kPanelRows = 24;  // as many registers of sums

  // sum += two rows times two outputs. As instructions and not intrinsics: g++ 12 moves the sums of
  // an intrinsic from register to register.
  static INTFLASH_INLINE I32 multiply_add(I32 sum, int8x16_t rows, int8x16_t outputs) {
    __asm__("smmla %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(rows), "w"(outputs));
    return sum;
  }
  static INTFLASH_INLINE I32 multiply_add(I32 sum, uint8x16_t rows, int8x16_t outputs) {
    __asm__("usmmla %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(rows), "w"(outputs));
    return sum;
  }
  // The low and the high halves of a and b.
  static INTFLASH_INLINE I32 low_halves(I32 a, I32 b) {
    return vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
  }
  static INTFLASH_INLINE I32 high_halves(I32 a, I32 b) {
    return vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
  }

  // Two rows by two outputs a register. An odd last row is multiplied beside whatever lies in the
  // next one's place.
  template <std::int32_t kRows, std::int32_t kGroups>
  struct Sums {
    I32 at[(kRows + 1) / 2][kGroups][2];

    INTFLASH_INLINE void start(std::int32_t r, std::int32_t g, I32 a) {
      at[r / 2][g][0] = low_halves(a, a);
      at[r / 2][g][1] = high_halves(a, a);
    }
    INTFLASH_INLINE I32 row(std::int32_t r, std::int32_t g) const {
      const I32(&pair)[2] = at[r / 2][g];
      return r % 2 == 0 ? low_halves(pair[0], pair[1]) : high_halves(pair[0], pair[1]);
    }
  };

  template <std::int32_t kRows, std::int32_t kGroups, class Code>
  static INTFLASH_INLINE void add_octet(Sums<kRows, kGroups>& sums, const Code* rows,
                                        const std::int8_t* outputs) {
    int8x16_t pair[kGroups][2];
    INTFLASH_UNROLL
    for (std::int32_t g = 0; g < kGroups; ++g) {
      if (g % 2 == 0) keep_loads_here();
      const I32 first = vreinterpretq_s32_s8(load(outputs + g * 16));
      const I32 second = vreinterpretq_s32_s8(load(outputs + 64 + g * 16));
      pair[g][0] = vreinterpretq_s8_s32(vzip1q_s32(first, second));
      pair[g][1] = vreinterpretq_s8_s32(vzip2q_s32(first, second));
    }
    INTFLASH_UNROLL
    for (std::int32_t r = 0; r < kRows; r += 2) {
      if (r % 4 == 0) keep_loads_here();
      const auto two = load(rows + r * 8);
      INTFLASH_UNROLL
      for (std::int32_t g = 0; g < kGroups; ++g) {
        I32(&sum)[2] = sums.at[r / 2][g];
        sum[0] = multiply_add(sum[0], two, pair[g][0]);
        sum[1] = multiply_add(sum[1], two, pair[g][1]);
      }
    }
  }

  static double integer_peak(std::int64_t repeats) {
    std::int64_t left = repeats;
    __asm__ volatile(
        "1:\n"
        ".irp sum, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
        "smmla v\\sum\\().4s, v30.16b, v31.16b\n"
        ".endr\n"
        "subs %0, %0, #1\n"
        "b.ne 1b\n"
        : "+r"(left)
        :
        : "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12",
          "v13", "v14", "v15");
    return 2.0 * 32 * 16 * static_cast<double>(repeats);
  }
};

}  // namespace
}  // namespace intflash::internal
