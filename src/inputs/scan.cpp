// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "inputs/scan.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/checks.h"
#include "inputs/tensor.h"
#include "inputs/token_rows.h"

namespace intflash::internal {
namespace {

constexpr std::int64_t kScanRows = 64;  // rows a scan sums in f32 before they join a double
constexpr std::uint32_t kInfinityBits = 0x7f800000;

bool is_bad(std::uint32_t magnitude, intflash_dtype dtype) {
  return magnitude >=
         (dtype == INTFLASH_INT8 ? std::bit_cast<std::uint32_t>(128.0f) : kInfinityBits);
}

}  // namespace

void lower_to(std::atomic<std::int64_t>& least, std::int64_t value) {
  std::int64_t seen = least.load(std::memory_order_relaxed);
  while (value < seen && !least.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
  }
}
void raise_to(std::atomic<std::uint32_t>& largest, std::uint32_t value) {
  std::uint32_t seen = largest.load(std::memory_order_relaxed);
  while (value > seen && !largest.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
  }
}

void reset_scan(TensorScan& scan) {
  scan.magnitude.store(0, std::memory_order_relaxed);
  scan.first_bad.store(INT64_MAX, std::memory_order_relaxed);
}

std::int64_t num_chunks(const ScannedTensor& t) {
  return t.batch * t.heads * ((t.tokens + kSpanTokens - 1) / kSpanTokens);
}

void scan_chunk(const KernelTable& kernels, const ScannedTensor& t, std::int64_t chunk,
                TensorScan& scan, double* sums) {
  const std::int64_t chunks = (t.tokens + kSpanTokens - 1) / kSpanTokens;
  const std::int64_t head = chunk / chunks;
  const std::int64_t first = chunk % chunks * kSpanTokens;
  const std::int64_t end = std::min(first + kSpanTokens, t.tokens);
  std::uint32_t magnitude = 0;
  if (sums != nullptr) std::fill_n(sums, t.dim, 0.0);
  for (std::int64_t token = first; token < end; token += kScanRows) {
    const std::int64_t rows = std::min(kScanRows, end - token);
    const RowSource source = rows_of(t.tensor, t.dtype, head / t.heads, head % t.heads, token);
    if (sums == nullptr) {
      magnitude = std::max(magnitude, kernels.max_magnitude(source, rows, t.dim));
      continue;
    }
    alignas(64) float sum[kMaxHeadDim] = {};
    magnitude = std::max(magnitude, kernels.sum_rows(source, rows, t.dim, sum));
    for (std::int64_t c = 0; c < t.dim; ++c) sums[c] += static_cast<double>(sum[c]);
  }
  raise_to(scan.magnitude, magnitude);
  if (is_bad(magnitude, t.dtype)) lower_to(scan.first_bad, chunk);
}

void note_magnitude(TensorScan& scan, const ScannedTensor& t, std::int64_t head, std::int64_t token,
                    std::uint32_t magnitude) {
  raise_to(scan.magnitude, magnitude);
  const std::int64_t chunks = (t.tokens + kSpanTokens - 1) / kSpanTokens;
  if (is_bad(magnitude, t.dtype)) lower_to(scan.first_bad, head * chunks + token / kSpanTokens);
}

intflash_status report_bad(const ScannedTensor& t, const TensorScan& scan) {
  const std::int64_t chunk = scan.first_bad.load(std::memory_order_relaxed);
  if (chunk == INT64_MAX) return INTFLASH_OK;
  const std::int64_t chunks = (t.tokens + kSpanTokens - 1) / kSpanTokens;
  const std::int64_t b = chunk / chunks / t.heads;
  const std::int64_t h = chunk / chunks % t.heads;
  for (std::int64_t token = chunk % chunks * kSpanTokens; token < t.tokens; ++token) {
    for (std::int64_t c = 0; c < t.dim; ++c) {
      const bool is_code = t.dtype == INTFLASH_INT8;
      if (is_code) {
        const RowSource row = rows_of(t.tensor, t.dtype, b, h, token);
        if (static_cast<const std::int8_t*>(row.data)[c] != -128) continue;
        return fail(
            INTFLASH_INVALID_ARGUMENT,
            "%s[batch %lld][head %lld][token %lld][%lld] = -128: codes must be -127 ... 127",
            t.name, static_cast<long long>(b), static_cast<long long>(h),
            static_cast<long long>(token), static_cast<long long>(c));
      }
      const double value = tensor_element(t.tensor, t.dtype, b, h, token, c);
      if (std::isfinite(value)) continue;
      return fail(INTFLASH_NONFINITE_INPUT,
                  "%s[batch %lld][head %lld][token %lld][%lld] = %g: must be finite", t.name,
                  static_cast<long long>(b), static_cast<long long>(h),
                  static_cast<long long>(token), static_cast<long long>(c), value);
    }
  }
  return INTFLASH_OK;
}

double largest_of(const ScannedTensor& t, const TensorScan& scan) {
  const double magnitude =
      static_cast<double>(std::bit_cast<float>(scan.magnitude.load(std::memory_order_relaxed)));
  if (t.dtype != INTFLASH_INT8) return magnitude;
  float scale = 0;
  for (std::int64_t b = 0; b < t.batch; ++b) {
    for (std::int64_t h = 0; h < t.heads; ++h) {
      const std::int64_t step = t.tensor.scale_block == 0 ? t.tokens : t.tensor.scale_block;
      for (std::int64_t token = 0; token < t.tokens; token += step)
        scale = std::max(scale, scale_of(t.tensor, b, h, token));
    }
  }
  return magnitude * static_cast<double>(scale);
}

}  // namespace intflash::internal
