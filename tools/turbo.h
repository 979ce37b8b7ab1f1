// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// TurboAttention (arXiv 2412.08585), simulated: FlashQ, which quantizes progressively, and SAS, its
// exponential. The list of pipelines has it with as many bits for every head; here it is by head.
#pragma once

#include <span>
#include <vector>

#include "pipelines.h"

namespace intflash {

// What the cache keeps of a kv head's elements.
struct TurboBits {
  int key = 4, value = 4;
};

// e^x of x <= 0 by SAS: a table of whole powers times a cubic of the rest; 0 below -6.
double sas_exp(double x);

// FlashQ's second stage, on the INT8 codes of one channel of a block, in place: whole numbers s and
// z, and codes q of so many bits, which stand for (q + z) s. What they then stand for.
void flash_q(std::span<double> codes, int bits);

// FlashQ's choice by head, from the kv heads of a layer: half of them, those of the least priority,
// get 2 bits, and the others 4; of keys and of values each by their own. A head's priority is the
// gap times the standard deviation of its channels' ranges; the gap is the widest less the
// narrowest range.
std::vector<TurboBits> turbo_bits(std::span<const Head> kv_heads);

// Decoding (Algorithm 2): each query sees the last block of 64 of its keys in INT8, the buffer, and
// those before in so many bits.
Matrix attend_turbo(const Head& head, TurboBits bits);

}  // namespace intflash
