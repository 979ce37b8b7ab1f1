// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Looks for NaN and infinity (and codes of -128) in the tensors of a call, and keeps their largest
// magnitude.
#pragma once

#include <cstdint>

#include "call.h"

namespace intflash {

void reset_scan(TensorScan& scan);

// A tensor is scanned in chunks of kSpanTokens rows of one head.
std::int64_t num_chunks(const CallTensor& t);
// Scans a chunk, and adds its rows into sums (double [dim], set to 0 first) where that is not null.
void scan_chunk(const Call& call, const CallTensor& t, std::int64_t chunk, TensorScan& scan,
                double* sums);
// Keeps what quantizing tokens of one head met: bits of the largest magnitude.
void note_magnitude(TensorScan& scan, const CallTensor& t, std::int64_t head, std::int64_t token,
                    std::uint32_t magnitude);

// INTFLASH_OK, or the error that names the lowest bad element.
intflash_status report_bad(const CallTensor& t, const TensorScan& scan);
// The largest |x| that a scanned tensor stands for.
double largest_of(const CallTensor& t, const TensorScan& scan);

}  // namespace intflash
