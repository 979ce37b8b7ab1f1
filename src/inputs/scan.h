// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Looks for NaN and infinity (and codes of -128) in the tensors of a call, and keeps their largest
// magnitude. What no query sees is looked at again only where something was found: it does not
// count.
#pragma once

#include <atomic>
#include <cstdint>

#include "core/checks.h"
#include "inputs/seen_keys.h"
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
void scan_chunk(const KernelTable& kernels, const ScannedTensor& t, std::int64_t chunk,
                TensorScan& scan);
// Scans the tokens of a chunk that some query sees; sums: double [dim + 1], becomes the sums of
// their channels, and their number.
void sum_chunk(const SeenKeys& seen, const ScannedTensor& t, std::int64_t chunk, TensorScan& scan,
               double* sums);
// Keeps what quantizing tokens of one head met: bits of the largest magnitude.
void note_magnitude(TensorScan& scan, const ScannedTensor& t, std::int64_t head, std::int64_t token,
                    std::uint32_t magnitude);

// The largest |x| that a scanned tensor stands for.
double largest_of(const ScannedTensor& t, const TensorScan& scan);

// What was found in a tensor.
struct Finding {
  double largest;          // |x|
  std::int64_t first_bad;  // as TensorScan has it
};
inline Finding found(const ScannedTensor& t, const TensorScan& scan) {
  return {largest_of(t, scan), scan.first_bad.load(std::memory_order_relaxed)};
}
// The same of the keys or values that some query sees, in one go.
Finding scan_seen(const SeenKeys& seen, const ScannedTensor& t);

// INTFLASH_OK, or the error that names the lowest bad element; seen: nullptr where all count.
intflash_status report_bad(const ScannedTensor& t, std::int64_t first_bad, const SeenKeys* seen);

// Scales of an INT8 tensor: finite and > 0. seen: as above.
intflash_status check_scale_values(const TensorView& view, const SeenKeys* seen);

}  // namespace intflash::internal
