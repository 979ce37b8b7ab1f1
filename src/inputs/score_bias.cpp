// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "inputs/score_bias.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <limits>

#include "core/checks.h"
#include "tile/limits.h"
#include "tile/mask_words.h"
#include "tile/widen.h"

namespace intflash::internal {
namespace {

constexpr float kMaxFactor = 1e20f;

const void* elements_of(const intflash_additive_mask& mask, std::int64_t batch, std::int64_t head,
                        std::int64_t query) {
  if (mask.data == nullptr) return nullptr;
  const std::int64_t offset =
      batch * mask.stride_batch + head * mask.stride_head + query * mask.stride_query;
  return static_cast<const char*>(mask.data) + offset * dtype_bytes(mask.dtype);
}

// What one element adds to a score: -infinity where it hides the key.
double element_of(const intflash_additive_mask& mask, const void* elements, std::int64_t key) {
  constexpr double kHidden = -std::numeric_limits<double>::infinity();
  if (mask.dtype == INTFLASH_BOOL)
    return static_cast<const std::uint8_t*>(elements)[key] == 0 ? kHidden : 0.0;
  if (mask.dtype == INTFLASH_F32) {
    const float element = static_cast<const float*>(elements)[key];
    return element == -FLT_MAX ? kHidden : static_cast<double>(element);
  }
  const std::uint16_t bits = static_cast<const std::uint16_t*>(elements)[key];
  if (mask.dtype == INTFLASH_F16)
    return bits == kLowestElement<Dtype::kF16> ? kHidden : static_cast<double>(widen_f16(bits));
  return bits == kLowestElement<Dtype::kBf16> ? kHidden : static_cast<double>(widen_bf16(bits));
}

// Heads whose masks differ.
std::int64_t distinct_heads(const intflash_additive_mask& mask, std::int64_t heads) {
  return mask.stride_head == 0 ? 1 : heads;
}

// The bits of the keys at [first, first + 64); those before the row's first are set.
std::uint64_t word_of_bits(const BitRow& row, std::int64_t first) {
  const std::int64_t words = ceil_div(row.end - row.begin, 64);
  const auto word = [&](std::int64_t i) {
    return i < 0 ? ~std::uint64_t{0} : i < words ? row.words[i] : std::uint64_t{0};
  };
  const std::int64_t bit = std::max<std::int64_t>(first - row.begin, -64);
  const std::int64_t index = bit >= 0 ? bit / 64 : -1;
  const std::int64_t shift = bit - index * 64;
  return shift == 0 ? word(index) : word(index) >> shift | word(index + 1) << (64 - shift);
}

intflash_status check_factors(const char* owner, const char* field, const float* factors,
                              std::int64_t heads) {
  for (std::int64_t h = 0; factors != nullptr && h < heads; ++h) {
    if (std::fabs(factors[h]) <= kMaxFactor) continue;
    return report_bad_factor(owner, field, h, factors[h]);
  }
  return INTFLASH_OK;
}

}  // namespace

float cap_in_log2(float score_cap) {
  if (score_cap == 0) return 0;
  return static_cast<float>(std::clamp(static_cast<double>(score_cap) * kLog2E, 0x1p-100, 3e38));
}

intflash_status check_additive_mask(const char* name, const intflash_additive_mask& mask,
                                    std::int64_t batch, std::int64_t heads, const MaskRule& rule) {
  if (mask.data == nullptr) return INTFLASH_OK;
  if (mask.dtype != INTFLASH_BOOL && (mask.dtype < INTFLASH_F32 || mask.dtype > INTFLASH_BF16)) {
    return fail(INTFLASH_INVALID_ARGUMENT, "%s.dtype = %d: must be F32, F16, BF16 or BOOL", name,
                static_cast<int>(mask.dtype));
  }
  const Axis axes[] = {{"stride_batch", batch, mask.stride_batch},
                       {"stride_head", heads, mask.stride_head},
                       {"stride_query", rule.query_len, mask.stride_query}};
  intflash_status status =
      check_alignment(name, ".data", mask.data, static_cast<std::size_t>(dtype_bytes(mask.dtype)));
  if (status == INTFLASH_OK) status = check_axes(name, axes, rule.kv_len - rule.kv_begin);
  if (status == INTFLASH_OK) status = check_pointer(name, ".head_scale", mask.head_scale);
  return status;
}

intflash_status check_bit_mask(const char* name, const intflash_bit_mask& mask,
                               std::int64_t kv_len) {
  if (mask.words == nullptr) return INTFLASH_OK;
  if (mask.num_keys >= 0 && mask.num_keys <= kv_len)
    return check_pointer(name, ".words", mask.words);
  return fail(INTFLASH_BAD_SHAPE, "%s.num_keys = %lld: must be 0 ... kv_len = %lld", name,
              static_cast<i64>(mask.num_keys), static_cast<i64>(kv_len));
}

intflash_status check_head_scales(const char* name, const intflash_additive_mask& mask,
                                  std::int64_t heads) {
  if (mask.data == nullptr) return INTFLASH_OK;
  return check_factors(name, ".head_scale", mask.head_scale, heads);
}

intflash_status check_slopes(const float* slopes, std::int64_t heads) {
  return check_factors("alibi_slopes", "", slopes, heads);
}

bool has_bad_mask(const KernelTable& kernels, const ScoreBias& bias, std::int64_t batch,
                  std::int64_t heads, std::int64_t query) {
  if (bias.additive.data == nullptr) return false;
  const std::int64_t count = bias.rule.kv_len - bias.rule.kv_begin;
  bool bad = false;
  for (std::int64_t h = 0; h < distinct_heads(bias.additive, heads); ++h) {
    bad |= kernels.rows->has_bad_element(elements_of(bias.additive, batch, h, query),
                                         static_cast<Dtype>(bias.additive.dtype), count);
  }
  return bad;
}

intflash_status report_bad_mask(const char* name, const ScoreBias& bias, std::int64_t batch,
                                std::int64_t heads, std::int64_t query) {
  for (std::int64_t h = 0; h < distinct_heads(bias.additive, heads); ++h) {
    const void* elements = elements_of(bias.additive, batch, h, query);
    for (std::int64_t key = 0; key < bias.rule.kv_len - bias.rule.kv_begin; ++key) {
      const double element = element_of(bias.additive, elements, key);
      if (element < std::numeric_limits<double>::infinity()) continue;
      return report_bad_element(name, batch, h, query, key, element);
    }
  }
  return INTFLASH_OK;
}

intflash_status report_bad_element(const char* name, std::int64_t batch, std::int64_t head,
                                   std::int64_t query, std::int64_t key, double element) {
  return fail(INTFLASH_NONFINITE_INPUT,
              "%s[batch %lld][head %lld][query %lld][key %lld] = %g: must be finite, or -infinity "
              "to hide the key",
              name, static_cast<i64>(batch), static_cast<i64>(head), static_cast<i64>(query),
              static_cast<i64>(key), element);
}

intflash_status report_bad_factor(const char* owner, const char* field, std::int64_t head,
                                  float factor) {
  return fail(INTFLASH_NONFINITE_INPUT, "%s%s[%lld] = %g: must be at most %g in magnitude", owner,
              field, static_cast<i64>(head), static_cast<double>(factor),
              static_cast<double>(kMaxFactor));
}

KeyRange plain_keys(const KernelTable& kernels, const ScoreBias& bias, std::int64_t batch,
                    std::int64_t query) {
  constexpr KeyRange kOther = {-1, -1};
  if (bias.additive.data == nullptr || bias.additive.stride_head != 0) return kOther;
  const RowSource source = {elements_of(bias.additive, batch, 0, query),
                            static_cast<Dtype>(bias.additive.dtype), 1};
  const std::int64_t count = bias.rule.kv_len - bias.rule.kv_begin;
  KeyRange keys = {0, 0};
  for (std::int64_t first = 0; first < count; first += 64) {
    const std::int64_t some = std::min<std::int64_t>(64, count - first);
    const MaskWords words = kernels.rows->mask_words(row_of(source, first), source.dtype, some);
    const std::uint64_t left = ~words.hidden & ~std::uint64_t{0} >> (64 - some);
    if (left == 0) continue;
    const int begin = std::countr_zero(left);
    const int end = 64 - std::countl_zero(left);
    const bool is_run = std::popcount(left) == end - begin;
    const bool follows = keys.end == 0 || keys.end == first + begin;
    if (!is_run || !follows || (words.nonzero & left) != 0) return kOther;
    if (keys.end == 0) keys.begin = first + begin;
    keys.end = first + end;
  }
  return {bias.rule.kv_begin + keys.begin, bias.rule.kv_begin + keys.end};
}

BiasRow bias_row(const ScoreBias& bias, std::int64_t batch, std::int64_t head, std::int64_t query) {
  const float* scale = bias.additive.head_scale;
  const double head_scale = scale != nullptr ? static_cast<double>(scale[head]) : 1.0;
  const double slope =
      bias.alibi_slopes != nullptr ? static_cast<double>(bias.alibi_slopes[head]) : 0.0;
  BiasRow row{};
  row.elements = elements_of(bias.additive, batch, head, query);
  row.dtype = static_cast<Dtype>(bias.additive.dtype);
  row.begin = bias.rule.kv_begin;
  row.end = bias.rule.kv_len;
  row.factor = row.dtype == Dtype::kBool ? 0.0f : static_cast<float>(kLog2E * head_scale);
  row.slope = static_cast<float>(kLog2E * slope);
  row.position = bias.rule.kv_len - bias.rule.query_len + query;
  return row;
}

BitRow bit_row(const ScoreBias& bias, std::int64_t query) {
  if (bias.bits.words == nullptr) return {};
  const std::int64_t words = ceil_div(bias.bits.num_keys, 64);
  return {bias.bits.words + query * words, bias.rule.kv_len - bias.bits.num_keys, bias.rule.kv_len};
}

bool mask_row(const KernelTable& kernels, const BiasRow& row, const BitRow& bits,
              std::int64_t first_key, std::uint64_t* keep) {
  std::uint64_t nonzero = 0;
  for (int half = 0; half < 2; ++half) {
    const std::int64_t first = first_key + half * kBlockTokens;
    if (bits.words != nullptr) keep[half] &= word_of_bits(bits, first);
    const std::int64_t begin = std::max(first, row.begin);
    const std::int64_t end = std::min(first + kBlockTokens, row.end);
    if (row.elements == nullptr || keep[half] == 0 || begin >= end) continue;
    const RowSource source = {row.elements, row.dtype, 1};
    const MaskWords words =
        kernels.rows->mask_words(row_of(source, begin - row.begin), row.dtype, end - begin);
    keep[half] &= ~(words.hidden << (begin - first));
    nonzero |= words.nonzero << (begin - first) & keep[half];
  }
  return (keep[0] | keep[1]) != 0 && (row.slope != 0 || (nonzero != 0 && row.factor != 0));
}

double bias_of_key(const ScoreBias& bias, std::int64_t batch, std::int64_t head, std::int64_t query,
                   std::int64_t key) {
  constexpr double kHidden = -std::numeric_limits<double>::infinity();
  if (const BitRow bits = bit_row(bias, query); bits.words != nullptr && key >= bits.begin) {
    const std::int64_t bit = key - bits.begin;
    if ((bits.words[bit / 64] >> (bit % 64) & 1) == 0) return kHidden;
  }
  double sum = 0;
  if (const void* elements = elements_of(bias.additive, batch, head, query)) {
    const std::int64_t index = key - bias.rule.kv_begin;
    const double element = element_of(bias.additive, elements, index);
    if (element == kHidden) return kHidden;
    const float* scale = bias.additive.head_scale;
    sum = element * (scale != nullptr ? static_cast<double>(scale[head]) : 1);
  }
  if (bias.alibi_slopes != nullptr) {
    const std::int64_t position = bias.rule.kv_len - bias.rule.query_len + query;
    sum -= static_cast<double>(bias.alibi_slopes[head]) *
           static_cast<double>(std::abs(position - key));
  }
  return sum;
}

}  // namespace intflash::internal
