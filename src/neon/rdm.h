// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What ARMv8.1 adds to NEON's fixed point: sqrdmlah, a rounded Q15 product and a sum in one.
#pragma once

#include "neon/simd.h"

namespace intflash::internal {
namespace {

struct NeonRdm : Neon {
  static INTFLASH_INLINE I16 multiply_q15_add(I16 sum, I16 a, I16 b) {
    return vqrdmlahq_s16(sum, a, b);
  }
};

}  // namespace
}  // namespace intflash::internal
