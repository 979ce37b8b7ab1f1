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

constexpr std::uint32_t kInfinityBits = 0x7f800000;

bool is_bad(std::uint32_t magnitude, intflash_dtype dtype) {
  return magnitude >=
         (dtype == INTFLASH_INT8 ? std::bit_cast<std::uint32_t>(128.0f) : kInfinityBits);
}

// The first channel of a row that is bad; the row's length: none.
std::int64_t bad_channel(const ScannedTensor& t, std::int64_t b, std::int64_t h,
                         std::int64_t token) {
  const auto* codes = static_cast<const std::int8_t*>(rows_of(t.tensor, t.dtype, b, h, token).data);
  for (std::int64_t c = 0; c < t.dim; ++c) {
    const bool good = t.dtype == INTFLASH_INT8
                          ? codes[c] != -128
                          : std::isfinite(tensor_element(t.tensor, t.dtype, b, h, token, c));
    if (!good) return c;
  }
  return t.dim;
}

bool has_zero_codes(const ScannedTensor& t, std::int64_t b, std::int64_t h, std::int64_t token) {
  const auto* codes = static_cast<const std::int8_t*>(rows_of(t.tensor, t.dtype, b, h, token).data);
  return std::all_of(codes, codes + t.dim, [](std::int8_t code) { return code == 0; });
}

// Whether a bad scale is one of tokens that some query sees, and that need one: of codes that are 0
// it may be 0. Heads may share it.
bool is_scale_wanted(const SeenKeys* seen, const TensorView& view, std::int64_t batch,
                     std::int64_t head, std::int64_t index, float scale) {
  const intflash_tensor& tensor = *view.tensor;
  const ScannedTensor scanned = {view.name,  tensor,      view.dtype, view.batch,
                                 view.heads, view.tokens, view.dim};
  const std::int64_t step = tensor.scale_block == 0 ? view.tokens : tensor.scale_block;
  const std::int64_t begin = index * step;
  const std::int64_t end = std::min(begin + std::min(step, view.tokens), view.tokens);
  const std::int64_t last_batch = tensor.scale_stride_batch == 0 ? view.batch - 1 : batch;
  const std::int64_t last_head = tensor.scale_stride_head == 0 ? view.heads - 1 : head;
  for (std::int64_t b = batch; b <= last_batch; ++b) {
    for (std::int64_t h = head; h <= last_head; ++h) {
      for (std::int64_t token = begin; token < end; ++token) {
        if (scale == 0 && has_zero_codes(scanned, b, h, token)) continue;
        if (seen == nullptr || seen->any(b, h, token, token + 1)) return true;
      }
    }
  }
  return false;
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
                TensorScan& scan) {
  const std::int64_t chunks = (t.tokens + kSpanTokens - 1) / kSpanTokens;
  const std::int64_t head = chunk / chunks;
  const std::int64_t first = chunk % chunks * kSpanTokens;
  const std::int64_t rows = std::min<std::int64_t>(kSpanTokens, t.tokens - first);
  const RowSource source = rows_of(t.tensor, t.dtype, head / t.heads, head % t.heads, first);
  note_magnitude(scan, t, head, first, kernels.rows->max_magnitude(source, rows, t.dim));
}

void sum_chunk(const SeenKeys& seen, const ScannedTensor& t, std::int64_t chunk, TensorScan& scan,
               double* sums) {
  const std::int64_t chunks = (t.tokens + kSpanTokens - 1) / kSpanTokens;
  const std::int64_t head = chunk / chunks;
  const std::int64_t begin = chunk % chunks * kSpanTokens;
  const std::int64_t end = std::min<std::int64_t>(begin + kSpanTokens, t.tokens);
  std::uint32_t magnitude = 0;
  std::fill_n(sums, t.dim + 1, 0.0);
  for (std::int64_t first = begin; first < end; first += kBlockTokens) {
    alignas(64) float sum[kMaxHeadDim] = {};
    seen.for_each_run(
        head / t.heads, head % t.heads, first, [&](std::int64_t token, std::int64_t rows) {
          const RowSource source =
              rows_of(t.tensor, t.dtype, head / t.heads, head % t.heads, token);
          magnitude = std::max(magnitude, seen.kernels.rows->sum_rows(source, rows, t.dim, sum));
          sums[t.dim] += static_cast<double>(rows);
        });
    for (std::int64_t c = 0; c < t.dim; ++c) sums[c] += static_cast<double>(sum[c]);
  }
  note_magnitude(scan, t, head, begin, magnitude);
}

void note_magnitude(TensorScan& scan, const ScannedTensor& t, std::int64_t head, std::int64_t token,
                    std::uint32_t magnitude) {
  raise_to(scan.magnitude, magnitude);
  const std::int64_t chunks = (t.tokens + kSpanTokens - 1) / kSpanTokens;
  if (is_bad(magnitude, t.dtype)) lower_to(scan.first_bad, head * chunks + token / kSpanTokens);
}

intflash_status report_bad(const ScannedTensor& t, std::int64_t first_bad, const SeenKeys* seen) {
  if (first_bad == INT64_MAX) return INTFLASH_OK;
  const std::int64_t chunks = (t.tokens + kSpanTokens - 1) / kSpanTokens;
  const std::int64_t b = first_bad / chunks / t.heads;
  const std::int64_t h = first_bad / chunks % t.heads;
  for (std::int64_t token = first_bad % chunks * kSpanTokens; token < t.tokens; ++token) {
    const std::int64_t c = bad_channel(t, b, h, token);
    if (c == t.dim || (seen != nullptr && !seen->any(b, h, token, token + 1))) continue;
    const double value = tensor_element(t.tensor, t.dtype, b, h, token, c);
    if (t.dtype == INTFLASH_INT8) {
      return fail(INTFLASH_INVALID_ARGUMENT,
                  "%s[batch %lld][head %lld][token %lld][%lld] = -128: codes must be -127 ... 127",
                  t.name, static_cast<i64>(b), static_cast<i64>(h), static_cast<i64>(token),
                  static_cast<i64>(c));
    }
    return fail(INTFLASH_NONFINITE_INPUT,
                "%s[batch %lld][head %lld][token %lld][%lld] = %g: must be finite", t.name,
                static_cast<i64>(b), static_cast<i64>(h), static_cast<i64>(token),
                static_cast<i64>(c), value);
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

Finding scan_seen(const SeenKeys& seen, const ScannedTensor& t) {
  Finding finding = {0, INT64_MAX};
  const std::int64_t chunks = (t.tokens + kSpanTokens - 1) / kSpanTokens;
  for (std::int64_t head = t.batch * t.heads - 1; head >= 0; --head) {
    const std::int64_t b = head / t.heads;
    const std::int64_t h = head % t.heads;
    for (std::int64_t first = 0; first < t.tokens; first += kBlockTokens) {
      seen.for_each_run(b, h, first, [&](std::int64_t begin, std::int64_t rows) {
        for (std::int64_t token = begin; token < begin + rows; ++token) {
          const RowSource source = rows_of(t.tensor, t.dtype, b, h, token);
          const std::uint32_t magnitude = seen.kernels.rows->max_magnitude(source, 1, t.dim);
          const float scale = t.dtype == INTFLASH_INT8 ? scale_of(t.tensor, b, h, token) : 1.0f;
          finding.largest =
              std::max(finding.largest, static_cast<double>(std::bit_cast<float>(magnitude)) *
                                            static_cast<double>(scale));
          if (is_bad(magnitude, t.dtype))
            finding.first_bad = std::min(finding.first_bad, head * chunks + token / kSpanTokens);
        }
      });
    }
  }
  return finding;
}

intflash_status check_scale_values(const TensorView& view, const SeenKeys* seen) {
  if (view.dtype != INTFLASH_INT8 || view.is_empty()) return INTFLASH_OK;
  const intflash_tensor& tensor = *view.tensor;
  const std::int64_t count = view.scales_of_head();
  for (std::int64_t b = 0; b < (tensor.scale_stride_batch == 0 ? 1 : view.batch); ++b) {
    for (std::int64_t h = 0; h < (tensor.scale_stride_head == 0 ? 1 : view.heads); ++h) {
      const float* scale =
          tensor.scale + b * tensor.scale_stride_batch + h * tensor.scale_stride_head;
      for (std::int64_t i = 0; i < count; ++i) {
        if (std::isfinite(scale[i]) && scale[i] > 0) continue;
        if (!is_scale_wanted(seen, view, b, h, i, scale[i])) continue;
        return fail(INTFLASH_BAD_SCALE,
                    "%s.scale[batch %lld][head %lld][%lld] = %g: must be finite and > 0, or 0 "
                    "where all codes are 0",
                    view.name, static_cast<i64>(b), static_cast<i64>(h), static_cast<i64>(i),
                    static_cast<double>(scale[i]));
      }
    }
  }
  return INTFLASH_OK;
}

}  // namespace intflash::internal
