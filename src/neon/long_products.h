// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Products of codes on any AArch64 CPU: two products of bytes fit into 16 bits (at most 128 * 127
// each), so smull and smlal add two before sadalp takes them into 32.
#pragma once

#include <cstdint>

#include "neon/simd.h"

namespace intflash::internal {
namespace {

struct LongProducts : Neon {
  using Weight = std::int8_t;
  static constexpr std::int32_t kPanelRows = 8;  // 16 registers of sums

  // Each quad of a row four times, as four outputs share it.
  static constexpr std::int32_t kOctetBytes = 32;
  static INTFLASH_INLINE void pack_octet(std::int8_t* to, std::uint64_t eight) {
    store(to, vreinterpretq_s8_u32(vdupq_n_u32(static_cast<std::uint32_t>(eight))));
    store(to + 16, vreinterpretq_s8_u32(vdupq_n_u32(static_cast<std::uint32_t>(eight >> 32))));
  }

  // Of each output two sums: of the even and of the odd pairs of its elements.
  template <std::int32_t kRows, std::int32_t kGroups>
  struct Sums {
    I32 at[kRows][kGroups][2];

    INTFLASH_INLINE void start(std::int32_t r, std::int32_t g, I32 a) {
      at[r][g][0] = vzip1q_s32(a, zero());
      at[r][g][1] = vzip2q_s32(a, zero());
    }
    INTFLASH_INLINE I32 row(std::int32_t r, std::int32_t g) const {
      return vpaddq_s32(at[r][g][0], at[r][g][1]);
    }
  };

  template <std::int32_t kRows, std::int32_t kGroups>
  static INTFLASH_INLINE void add_octet(Sums<kRows, kGroups>& sums, const std::int8_t* rows,
                                        const std::int8_t* outputs) {
    INTFLASH_UNROLL
    for (std::int32_t g = 0; g < kGroups; ++g) {
      const int8x16_t first = load(outputs + g * 16);
      const int8x16_t second = load(outputs + 64 + g * 16);
      INTFLASH_UNROLL
      for (std::int32_t r = 0; r < kRows; ++r) {
        keep_loads_here();
        const int8x16_t a = load(rows + r * kOctetBytes);
        const int8x16_t b = load(rows + r * kOctetBytes + 16);
        const I16 low = vmlal_s8(vmull_s8(vget_low_s8(first), vget_low_s8(a)), vget_low_s8(second),
                                 vget_low_s8(b));
        const I16 high = vmlal_high_s8(vmull_high_s8(first, a), second, b);
        sums.at[r][g][0] = vpadalq_s16(sums.at[r][g][0], low);
        sums.at[r][g][1] = vpadalq_s16(sums.at[r][g][1], high);
      }
    }
  }

  // sum += the sums of a's quads.
  static INTFLASH_INLINE I32 add_quads(I32 sum, int8x16_t a) {
    return vpadalq_s16(sum, vpaddlq_s8(a));
  }

  static double integer_peak(std::int64_t repeats) {
    std::int64_t left = repeats;
    __asm__ volatile(
        "1:\n"
        ".irp sum, 0, 1, 2, 3, 4, 5, 6, 7\n"
        "smull v1\\sum\\().8h, v30.8b, v31.8b\n"
        ".endr\n"
        ".irp sum, 0, 1, 2, 3, 4, 5, 6, 7\n"
        "smlal2 v1\\sum\\().8h, v30.16b, v31.16b\n"
        ".endr\n"
        ".irp sum, 0, 1, 2, 3, 4, 5, 6, 7\n"
        "sadalp v\\sum\\().4s, v1\\sum\\().8h\n"
        ".endr\n"
        "subs %0, %0, #1\n"
        "b.ne 1b\n"
        : "+r"(left)
        :
        : "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v10", "v11", "v12", "v13", "v14",
          "v15", "v16", "v17");
    return 2.0 * 16 * 8 * static_cast<double>(repeats);
  }
};

}  // namespace
}  // namespace intflash::internal
