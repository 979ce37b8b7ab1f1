// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "eigen_oracle.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>

#include "element.h"

namespace intflash::internal {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Row i of a mask is aligned so that the last query stands at the last key, but for one.
bool is_visible(const AttentionCase& c, std::int64_t i, std::int64_t j) {
  const std::int64_t after = j - (c.kv_len - c.query_len + i);  // how far the key is ahead
  if (c.mask == INTFLASH_MASK_NONE) return true;
  if (c.mask == INTFLASH_MASK_CAUSAL) return after <= 0;
  if (c.mask == INTFLASH_MASK_CAUSAL_TOP_LEFT) return j <= i;
  if (c.mask == INTFLASH_MASK_PREFIX) return after <= 0 || j < c.prefix_len;
  return (c.window_left < 0 || -after <= c.window_left) &&
         (c.window_right < 0 || after <= c.window_right);
}

double lowest_of(intflash_dtype dtype) {
  if (dtype == INTFLASH_BOOL) return 0;
  if (dtype == INTFLASH_F32) return -static_cast<double>(FLT_MAX);
  return dtype == INTFLASH_F16 ? -65504.0 : -0x1.fep127;
}

// What the masks of args that are data add to a score: -infinity where one hides the key.
struct Bias {
  double slope, element;
};
Bias bias_of(const AttentionCase& c, const intflash_attend_args& args, std::int64_t b,
             std::int64_t h, std::int64_t i, std::int64_t j) {
  Bias bias{0, 0};
  const intflash_bit_mask& tree = args.bit_mask;
  const std::int64_t bit = j - (c.kv_len - tree.num_keys);
  if (tree.words != nullptr && bit >= 0) {
    const std::uint64_t word = tree.words[i * ((tree.num_keys + 63) / 64) + bit / 64];
    if ((word & std::uint64_t{1} << (bit % 64)) == 0) return {0, -kInfinity};
  }
  if (args.alibi_slopes != nullptr) {
    const std::int64_t position = c.kv_len - c.query_len + i;
    bias.slope =
        -static_cast<double>(args.alibi_slopes[h]) * static_cast<double>(std::abs(position - j));
  }
  const intflash_additive_mask& mask = args.additive_mask;
  if (mask.data == nullptr) return bias;
  intflash_tensor elements{};
  elements.data = const_cast<void*>(mask.data);
  elements.stride_batch = mask.stride_batch;
  elements.stride_head = mask.stride_head;
  elements.stride_token = mask.stride_query;
  const double element = element_of(elements, mask.dtype, b, h, i, j);
  const float* scale = mask.head_scale;
  if (element <= lowest_of(mask.dtype))
    bias.element = -kInfinity;
  else if (mask.dtype != INTFLASH_BOOL)
    bias.element = element * (scale == nullptr ? 1.0 : static_cast<double>(scale[h]));
  return bias;
}

}  // namespace

Eigen::MatrixXd matrix_of(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                          std::int64_t h, std::int64_t tokens, std::int64_t dim) {
  Eigen::MatrixXd matrix(tokens, dim);
  for (std::int64_t token = 0; token < tokens; ++token) {
    for (std::int64_t channel = 0; channel < dim; ++channel)
      matrix(token, channel) = element_of(tensor, dtype, b, h, token, channel);
  }
  return matrix;
}

double softmax_scale_of(const AttentionCase& c) {
  // The default is an f32, like a given one.
  const float dim = static_cast<float>(c.head_dim);
  return static_cast<double>(c.softmax_scale > 0 ? c.softmax_scale : 1 / std::sqrt(dim));
}

OracleHead oracle_head(const AttentionCase& c, const CaseTensors& tensors, std::int64_t b,
                       std::int64_t query_head) {
  const std::int64_t kv_head = query_head / c.group_size;
  const intflash_attend_args& args = tensors.args;
  OracleHead head;
  head.query = matrix_of(args.query, c.query.dtype, b, query_head, c.query_len, c.head_dim);
  head.key = matrix_of(args.key, c.key.dtype, b, kv_head, c.kv_len, c.head_dim);
  head.value = matrix_of(args.value, c.value.dtype, b, kv_head, c.kv_len, c.head_dim_v);
  head.score = softmax_scale_of(c) * (head.query * head.key.transpose());
  if (c.score_cap > 0) {
    const double cap = static_cast<double>(c.score_cap);
    head.score = (head.score / cap).array().tanh().matrix() * cap;
  }
  head.sink = args.sinks == nullptr ? -kInfinity : static_cast<double>(args.sinks[query_head]);
  head.share = Eigen::MatrixXd::Zero(c.query_len, c.kv_len);
  head.added = Eigen::MatrixXd::Zero(c.query_len, c.kv_len);
  head.lse = Eigen::VectorXd::Constant(c.query_len, -kInfinity);
  for (std::int64_t i = 0; i < c.query_len; ++i) {
    for (std::int64_t j = 0; j < c.kv_len; ++j) {
      const Bias bias = bias_of(c, args, b, query_head, i, j);
      head.score(i, j) += bias.element + bias.slope;
      head.added(i, j) = std::fabs(bias.element) + std::fabs(bias.slope);
      if (!is_visible(c, i, j)) head.score(i, j) = -kInfinity;
    }
    double largest = head.sink;
    if (c.kv_len > 0) largest = std::max(largest, head.score.row(i).maxCoeff());
    if (largest == -kInfinity) continue;
    head.share.row(i) = (head.score.row(i).array() - largest).exp();
    const double sum = head.share.row(i).sum() + std::exp(head.sink - largest);
    head.share.row(i) /= sum;
    head.lse(i) = largest + std::log(sum);
  }
  head.out = head.share * head.value;
  return head;
}

Numbers oracle(const AttentionCase& c, const CaseTensors& tensors) {
  Numbers numbers;
  for (std::int64_t b = 0; b < c.batch; ++b) {
    for (std::int64_t h = 0; h < c.num_kv_heads * c.group_size; ++h) {
      const OracleHead head = oracle_head(c, tensors, b, h);
      for (std::int64_t i = 0; i < c.query_len; ++i) {
        for (std::int64_t channel = 0; channel < c.head_dim_v; ++channel)
          numbers.out.push_back(head.out(i, channel));
        if (c.lse) numbers.lse.push_back(head.lse(i));
      }
    }
  }
  return numbers;
}

}  // namespace intflash::internal
