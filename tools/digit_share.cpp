// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "digit_share.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "context/context.h"
#include "core/rotation.h"
#include "engine/row_group.h"
#include "inputs/token_rows.h"
#include "tile/score_block.h"

namespace intflash {
namespace {

using internal::kMaxTileRows;
using internal::kScoreBlock;

// Quantizes rows of query or key.
struct Quantizer {
  const internal::KernelTable& kernels;
  std::int64_t dim;
  bool rotate;
  std::vector<std::int8_t> codes;  // [kMaxTileRows][stride]

  Quantizer(const Context& context, const intflash_attend_desc& desc)
      : kernels(*context.get()->port->kernels), dim(desc.head_dim) {
    internal::Rotation rotation{};
    check(internal::choose_rotation(desc.rotation, desc.head_dim, desc.head_dim_v, rotation));
    rotate = rotation.keys;
    codes.resize(static_cast<std::size_t>(kMaxTileRows * stride()));
  }
  std::int64_t stride() const { return internal::round_up(dim, 64); }
  void quantize(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b, std::int64_t h,
                std::int64_t first, std::int64_t rows, float* scale) {
    internal::quantize_tokens(kernels, tensor, dtype, b, h, first, static_cast<std::int32_t>(rows),
                              dim, {nullptr, rotate, false}, stride(), codes.data(), nullptr,
                              scale);
  }
};

// For each key the largest scale from the beginning of its score block on: what a row sees whose
// last key it is.
std::vector<float> largest_scales(Quantizer& quantizer, const intflash_attend_desc& desc,
                                  const intflash_tensor& key, std::int64_t b, std::int64_t head) {
  std::vector<float> largest(static_cast<std::size_t>(desc.kv_len));
  for (std::int64_t first = 0; first < desc.kv_len; first += kMaxTileRows) {
    quantizer.quantize(key, desc.key_dtype, b, head, first,
                       std::min<std::int64_t>(desc.kv_len - first, kMaxTileRows),
                       largest.data() + first);
  }
  for (std::size_t j = 1; j < largest.size(); ++j)
    if (j % kScoreBlock != 0) largest[j] = std::max(largest[j], largest[j - 1]);
  return largest;
}

struct Count {
  double all = 0, with_digits = 0;
};

// The scores of one row, which sees the first keys.
void count_row(const internal::QueryTile& query, std::int32_t row,
               const std::vector<float>& largest, std::int64_t num_keys, Count& count) {
  for (std::int64_t first = 0; first < num_keys; first += kScoreBlock) {
    const std::int64_t seen = std::min<std::int64_t>(num_keys - first, kScoreBlock);
    const float scale = largest[static_cast<std::size_t>(first + seen - 1)];
    const internal::LargestScales scales =
        internal::largest_scales(std::bit_cast<std::int32_t>(scale), 0);
    const std::int32_t unit =
        internal::row_scale(query, row, scales.key_exponent, scales.key_mantissa).exponent;
    count.all += static_cast<double>(seen);
    if (unit > internal::kDigitExponent) count.with_digits += static_cast<double>(seen);
  }
}

void count_head(Quantizer& quantizer, const intflash_attend_desc& desc,
                const intflash_tensor& queries, std::int64_t b, std::int64_t head,
                const std::vector<float>& largest, Count& count) {
  for (std::int64_t first = 0; first < desc.query_len; first += kMaxTileRows) {
    internal::QueryTile query{};
    query.rows =
        static_cast<std::int32_t>(std::min<std::int64_t>(desc.query_len - first, kMaxTileRows));
    query.head_dim = static_cast<std::int32_t>(desc.head_dim);
    query.code_stride = static_cast<std::int32_t>(quantizer.stride());
    query.codes = quantizer.codes.data();
    float scale[kMaxTileRows];
    quantizer.quantize(queries, desc.query_dtype, b, head, first, query.rows, scale);
    internal::set_row_scales(quantizer.kernels, desc.softmax_scale, scale, 0, query);
    for (std::int32_t r = 0; r < query.rows; ++r) {
      const std::int64_t causal = desc.kv_len - desc.query_len + first + r + 1;
      const std::int64_t num_keys = desc.mask == INTFLASH_MASK_CAUSAL ? causal : desc.kv_len;
      count_row(query, r, largest, num_keys, count);
    }
  }
}

}  // namespace

std::vector<double> digit_shares(const Context& context, const intflash_attend_desc& desc,
                                 const AttentionInputs& inputs) {
  Quantizer quantizer(context, desc);
  const intflash_attend_args args = inputs.args();
  const std::int64_t group_size = desc.num_query_heads / desc.num_kv_heads;
  std::vector<Count> counts(static_cast<std::size_t>(desc.num_query_heads));
  for (std::int64_t i = 0; i < desc.batch * desc.num_kv_heads; ++i) {
    const std::int64_t b = i / desc.num_kv_heads, kv_head = i % desc.num_kv_heads;
    const std::vector<float> largest = largest_scales(quantizer, desc, args.key, b, kv_head);
    for (std::int64_t h = kv_head * group_size; h < (kv_head + 1) * group_size; ++h)
      count_head(quantizer, desc, args.query, b, h, largest, counts[static_cast<std::size_t>(h)]);
  }
  std::vector<double> shares;
  for (const Count& count : counts)
    shares.push_back(count.all > 0 ? count.with_digits / count.all : 0);
  return shares;
}

}  // namespace intflash
