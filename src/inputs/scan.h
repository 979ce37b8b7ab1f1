// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Looks for NaN and infinity (and codes of -128) in the tensors of a call, and keeps their largest
// magnitude.
#pragma once

#include <atomic>
#include <cstdint>

#include "intflash/intflash.h"
#include "tile/types.h"

namespace intflash::internal {

// A tensor of the call's, with its shape.
struct ScannedTensor {
  const char* name;
  const intflash_tensor& tensor;
  intflash_dtype dtype;
  std::int64_t batch, heads, tokens, dim;
};

// What the scan of one tensor found.
struct TensorScan {
  std::atomic<std::uint32_t>
      magnitude;  // bits of the largest |x|; codes of INT8 are scanned as numbers
  std::atomic<std::int64_t>
      first_bad;  // lowest chunk with NaN, infinity or a code of -128; INT64_MAX = none
};

// What several workers find: the lowest, the largest.
void lower_to(std::atomic<std::int64_t>& least, std::int64_t value);
void raise_to(std::atomic<std::uint32_t>& largest, std::uint32_t value);

void reset_scan(TensorScan& scan);

// A tensor is scanned in chunks of kSpanTokens rows of one head.
std::int64_t num_chunks(const ScannedTensor& t);
// Scans a chunk, and adds its rows into sums (double [dim], set to 0 first) where that is not null.
void scan_chunk(const KernelTable& kernels, const ScannedTensor& t, std::int64_t chunk,
                TensorScan& scan, double* sums);
// Keeps what quantizing tokens of one head met: bits of the largest magnitude.
void note_magnitude(TensorScan& scan, const ScannedTensor& t, std::int64_t head, std::int64_t token,
                    std::uint32_t magnitude);

// INTFLASH_OK, or the error that names the lowest bad element.
intflash_status report_bad(const ScannedTensor& t, const TensorScan& scan);
// The largest |x| that a scanned tensor stands for.
double largest_of(const ScannedTensor& t, const TensorScan& scan);

}  // namespace intflash::internal
