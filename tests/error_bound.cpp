// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The derivation. For one row, s_j are the exact scores (natural units), p_j their softmax, v_j the
// values less their centre, o = sum p_j v_j the exact output less the centre. Mode int8 computes
//   o' = sum_j (w_j b_j v'_j + r_j code_j) / sum_j (w_j d_j + q_j)
// with the same weight w_j = p_j exp(t_j) (1 + c_j) above and below, where
//   |t_j| <= e_j      the error of the score: quantization of query and key, and the fixed point,
//   |c_j| <= kCurve   the polynomial of the exponential,
//   |b_j - 1| <= kFold, since log2(value_scale_j) is folded into the weight above in steps of 2^-6;
//                     next to 0 where we chose the scale, on that grid, and no value is faint,
//   |d_j - 1| <= kUnfold, since the sum below takes it out again by an integer factor,
//   |v'_j - v_j| <= half a step of the value's code,
//   r_j, q_j          rounding of the weights to 255 and to 4080 levels of their score block's
//                     largest folded weight F.
// Then, with g_j = exp(e_j) (1 + kCurve) - 1,
//   |o' - o| <= [ sum p_j g_j |v_j - o| + sum p_j (1 + g_j) (|b_j - 1| |v_j| + kUnfold |o| +
//               step_j / 2) + sum (|r_j| |code_j| + |o| q_j) ] / (lowest sum below),
// and ln(sum below) bounds the log-sum-exp. A sink is one more key, of a value of 0, less the
// centre like any other, which neither folds nor rounds. A factor common to all w_j cancels in o'.
// So e_j may be counted from any key's: e_j + e_top for the others and 0 for the key with the
// largest share is as good; the smaller of the two bounds is taken.
#include "error_bound.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "tile/types.h"

namespace intflash::internal {
namespace {

using Eigen::MatrixXd;
using Eigen::VectorXd;

constexpr double kLn2 = 0.69314718055994531;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kScoreUnit = 1.0 / (1 << kFractionBits);
constexpr double kRounding = 1.001;  // what f32 adds to the quantities of quantization
constexpr double kFloat = 2e-6;      // relative error of some f32 operations in a row

constexpr double kCurve = 2.4e-3 + 2 * 0.5 / 16320;  // polynomial, and its two Q15 products
constexpr double kFold = kLn2 * (0.5 * kScoreUnit + 1.4e-5);
constexpr double kGridStep = 1.0109;  // of scales of values: 2^(1/64)
constexpr double kUnfold = 0.5 / kValueWeightOne;
constexpr double kLevel255 = (0.5 + 0.5 / 16) / 255;  // rounded to 4080 levels, then to 255
constexpr double kLevel4080 = 0.5 / kWeightOne;
constexpr double kLeastScale = kTinyMagnitude / 127;  // of rows that do not count as zero

// Largest magnitude and sum of magnitudes of a row as it is quantized. A rotation is orthonormal:
// the norm, which it keeps, bounds both.
struct RowExtent {
  double largest, sum;
};
RowExtent extent_of(const VectorXd& row, bool rotated) {
  if (!rotated) return {row.cwiseAbs().maxCoeff(), row.cwiseAbs().sum()};
  const double norm = row.norm() * (1 + 1e-5);
  return {norm, norm * std::sqrt(static_cast<double>(row.size()))};
}

// The scale of a row of codes whose largest element is given: halved while the largest code may be
// doubled.
double given_scale(const intflash_tensor& tensor, std::int64_t b, std::int64_t h,
                   std::int64_t token, double largest) {
  const std::int64_t block = tensor.scale_block == 0 ? 0 : token / tensor.scale_block;
  double scale = static_cast<double>(
      tensor.scale[b * tensor.scale_stride_batch + h * tensor.scale_stride_head + block]);
  if (largest == 0) return 0;
  while (largest / scale < 63.5) scale /= 2;
  return scale;
}

// Whether rows are rotated: as numerics.md has it.
bool is_rotated(const AttentionCase& c, std::int64_t dim, bool has_codes) {
  return c.rotate && !has_codes && dim / (dim & -dim) <= 9;
}

// The matrix of the rotation.
MatrixXd rotation_of(std::int64_t dim) {
  const std::int64_t block = dim & -dim;
  MatrixXd matrix = MatrixXd::Zero(dim, dim);
  for (std::int64_t row = 0; row < dim; ++row) {
    for (std::int64_t column = row / block * block; column < row / block * block + block;
         ++column) {
      const std::uint32_t hash = (static_cast<std::uint32_t>(column) + 1u) * 0x9e3779b1u;
      const bool flips = ((hash ^ hash << 7) >> 31) != 0;
      const bool is_odd = std::popcount(static_cast<std::uint64_t>(row & column)) % 2 != 0;
      const bool is_negative = flips != is_odd;
      matrix(row, column) = (is_negative ? -1 : 1) / std::sqrt(static_cast<double>(block));
    }
  }
  return matrix;
}

// What is taken from every row before quantization.
VectorXd center_of(bool centers, const float* given, std::int64_t head, const MatrixXd& rows) {
  if (!centers || rows.rows() == 0) return VectorXd::Zero(rows.cols());
  if (given == nullptr) return rows.colwise().mean();
  VectorXd center(rows.cols());
  for (std::int64_t i = 0; i < rows.cols(); ++i)
    center(i) = static_cast<double>(given[head * rows.cols() + i]);
  return center;
}

// One query head of a case, with all that its rows share.
class HeadBound {
 public:
  HeadBound(const AttentionCase& c, const CaseTensors& tensors, std::int64_t b, std::int64_t h)
      : c_(c), tensors_(tensors), b_(b), h_(h), oracle_(oracle_head(c, tensors, b, h)) {
    const std::int64_t kv_head = h / c.group_size;
    const std::int64_t head = b * c.num_kv_heads + kv_head;
    const bool both = c.center == INTFLASH_CENTER_KEY_VALUE;
    key_center_ = center_of(c.center == INTFLASH_CENTER_KEY || both, tensors.args.key_center, head,
                            oracle_.key);
    value_center_ = center_of(both, tensors.args.value_center, head, oracle_.value);
    value_ = oracle_.value.rowwise() - value_center_.transpose();
    rotates_keys_ =
        is_rotated(c, c.head_dim, c.query.dtype == INTFLASH_INT8 || c.key.dtype == INTFLASH_INT8);
    rotates_values_ = is_rotated(c, c.head_dim_v, c.value.dtype == INTFLASH_INT8);
    if (rotates_values_) {
      rotation_ = rotation_of(c.head_dim_v);
      value_ = value_ * rotation_.transpose();
    }
    basis_center_ = rotates_values_ ? VectorXd(rotation_ * value_center_) : value_center_;
    for (std::int64_t j = 0; j < c.kv_len; ++j) add_key(kv_head, j);
  }

  // Row i: bounds of its channels and of its log-sum-exp.
  void row(std::int64_t i, std::vector<double>& out, double& lse) const {
    std::vector<double> error = score_errors(i);
    std::int64_t top = -1;
    for (std::int64_t j = 0; j < c_.kv_len; ++j) {
      if (visible(i, j) && (top < 0 || oracle_.share(i, j) > oracle_.share(i, top))) top = j;
    }
    out.assign(static_cast<std::size_t>(c_.head_dim_v), 0.0);
    lse = oracle_.sink > -kInfinity ? kFloat * (1 + std::fabs(oracle_.sink)) : 0;
    if (top < 0) return;
    double low = 0, high = 0;
    const double error_of_sink = sink_error(i);
    bound_channels(i, error, error_of_sink, out, low, high);
    lse = low > 0 ? std::max(-std::log(low), std::log(high)) + kFloat * std::fabs(oracle_.lse(i)) +
                        kFloat
                  : kInfinity;
    const double error_of_top = error[static_cast<std::size_t>(top)];
    for (double& e : error) e += error_of_top;
    error[static_cast<std::size_t>(top)] = 0;
    std::vector<double> other(out.size());
    bound_channels(i, error, error_of_sink + error_of_top, other, low, high);
    for (std::size_t k = 0; k < out.size(); ++k) out[k] = std::min(out[k], other[k]);
  }

 private:
  struct Key {
    RowExtent extent;  // less the centre
    double half_step;  // 0 where the caller gave codes
    double scale;
    double value_scale;
    double value_half_step;
    double norm;  // of the key less the centre
  };

  void add_key(std::int64_t kv_head, std::int64_t j) {
    Key key;
    const VectorXd difference = oracle_.key.row(j).transpose() - key_center_;
    key.norm = difference.norm();
    key.extent = extent_of(difference, rotates_keys_);
    const bool key_codes = c_.key.dtype == INTFLASH_INT8;
    key.scale = key_codes ? given_scale(tensors_.args.key, b_, kv_head, j, key.extent.largest)
                          : kRounding * key.extent.largest / 127;
    key.half_step = key_codes ? 0 : key.scale / 2;
    const double largest_value = value_.row(j).cwiseAbs().maxCoeff();
    const bool value_codes = c_.value.dtype == INTFLASH_INT8;
    key.value_scale = value_codes ? given_scale(tensors_.args.value, b_, kv_head, j, largest_value)
                                  : kRounding * kGridStep * largest_value / 127;
    key.value_half_step = value_codes ? 0 : key.value_scale / 2;
    if (rotates_values_) key.value_half_step += kFloat * value_.row(j).norm();
    keys_.push_back(std::move(key));
  }

  const Key& key(std::int64_t j) const { return keys_[static_cast<std::size_t>(j)]; }
  bool visible(std::int64_t i, std::int64_t j) const { return oracle_.score(i, j) > -kInfinity; }
  std::int64_t block_end(std::int64_t first) const {
    return std::min<std::int64_t>(first + kScoreBlock, c_.kv_len);
  }

  // The unit, in log2, of row i's products on their way to fixed point in a block: see row_scale in
  // tile/score_block.h. Both terms are rounded up to a power of two twice. Where it would be
  // coarser than that of scores these are in f32.
  double unit_of_products(std::int64_t i, std::int64_t first, RowExtent query,
                          double query_scale) const {
    double key_scale = 0;
    for (std::int64_t j = first; j < block_end(first); ++j) {
      if (visible(i, j)) key_scale = std::max(key_scale, key(j).scale);
    }
    const double factor = 4 * key_scale * softmax_scale_of(c_) / kLn2;
    const double codes = query.sum + query_scale * static_cast<double>(c_.head_dim);
    const double coarse = std::max(factor * query_scale, factor * 128 * codes * 0x1p-14);
    return std::clamp(coarse, std::ldexp(1.0, kFinestExponent), kScoreUnit);
  }

  // e_j of row i's visible keys.
  std::vector<double> score_errors(std::int64_t i) const {
    const VectorXd row = oracle_.query.row(i).transpose();
    const VectorXd row_magnitude = row.cwiseAbs();
    const RowExtent query = extent_of(row, rotates_keys_);
    const bool codes = c_.query.dtype == INTFLASH_INT8;
    const double query_scale = codes ? given_scale(tensors_.args.query, b_, h_, i, query.largest)
                                     : kRounding * query.largest / 127;
    const double half_step = codes ? 0 : query_scale / 2;
    const double scale = softmax_scale_of(c_);
    const double dim = static_cast<double>(c_.head_dim);
    const VectorXd reach = oracle_.key.cwiseAbs() * row_magnitude;
    const double center_reach = key_center_.cwiseAbs().dot(row_magnitude);
    std::vector<double> errors(static_cast<std::size_t>(c_.kv_len), 0.0);
    double unit = 0;
    for (std::int64_t j = 0; j < c_.kv_len; ++j) {
      if (j % kScoreBlock == 0) unit = unit_of_products(i, j, query, query_scale);
      if (!visible(i, j)) continue;
      const Key& k = key(j);
      double& error = errors[static_cast<std::size_t>(j)];
      // With second digits steps are 128 times finer at least, and the product of both is left out.
      const double finer = c_.score_digits == 2 ? 0x1p-7 : 1;
      error = scale * (finer * (query.sum * k.half_step + k.extent.sum * half_step) +
                       dim * half_step * k.half_step);
      // Centring, rotating and the products' factors in f32. A computed centre is itself rounded,
      // but whatever it is cancels.
      error += kFloat * scale *
               (reach(j) + center_reach + (rotates_keys_ ? 4 * row.norm() * k.norm : 0.0));
      if (c_.score_cap > 0) {
        // tanh does not stretch an error; scores are in f32, then distances in fixed point.
        error += kFloat * static_cast<double>(c_.score_cap) + kLn2 * 0.5 * kScoreUnit;
      } else {
        // In units of products a shift that drops bits (1), the factors of key and query (1 each:
        // half a unit of rounding, a whole one where 32768 becomes 32767), the first product (1/2);
        // in those of scores the query's factor, made coarser, and the second product (1/2 each).
        error += kLn2 * (3.5 * unit + kScoreUnit);
      }
    }
    return errors;
  }

  // Of row i's sink: f32 arithmetic on it and on the product with the centre of keys.
  double sink_error(std::int64_t i) const {
    if (oracle_.sink == -kInfinity) return 0;
    const VectorXd row = oracle_.query.row(i).transpose().cwiseAbs();
    return kFloat *
           (1 + std::fabs(oracle_.sink) + softmax_scale_of(c_) * key_center_.cwiseAbs().dot(row));
  }

  void bound_channels(std::int64_t i, const std::vector<double>& error, double error_of_sink,
                      std::vector<double>& out, double& low, double& high) const {
    const double sink_share = std::exp(oracle_.sink - oracle_.lse(i));
    const double stretched = std::exp(error_of_sink);
    const VectorXd kept = oracle_.share.row(i) * value_;
    // In the basis of the values, as they are quantized.
    const VectorXd exact = kept - sink_share * basis_center_;
    VectorXd above = sink_share * (stretched - 1) * (basis_center_ + exact).cwiseAbs();
    low = sink_share / stretched * (1 - kFloat);
    high = sink_share * stretched * (1 + kFloat);
    for (std::int64_t first = 0; first < c_.kv_len; first += kScoreBlock)
      add_block(i, first, error, exact, above, low, high);
    double turning = 0;
    if (rotates_values_) {
      above = VectorXd(rotation_.cwiseAbs().transpose() * above);
      turning = 4 * kFloat * exact.norm();
    }
    const double step_of_out = c_.out.dtype == INTFLASH_F32   ? 0x1p-23
                               : c_.out.dtype == INTFLASH_F16 ? 0x1p-11
                                                              : 0x1p-8;
    // Subnormal halves; and rows below 2^-100 count as zero.
    const double least_step = c_.out.dtype == INTFLASH_F16 ? 0x1p-24 : 0x1p-99;
    for (std::int64_t channel = 0; channel < c_.head_dim_v; ++channel) {
      const double total = std::fabs(oracle_.out(i, channel));
      const double bound = low > 0 ? above(channel) / low : kInfinity;
      out[static_cast<std::size_t>(channel)] =
          bound * (1 + step_of_out) + total * step_of_out + turning +
          kFloat * (total + 2 * std::fabs(value_center_(channel))) + least_step;
    }
  }

  // One score block's part of the sums above.
  void add_block(std::int64_t i, std::int64_t first, const std::vector<double>& error,
                 const VectorXd& exact, VectorXd& above, double& low, double& high) const {
    double largest_value = 0;
    for (std::int64_t j = first; j < block_end(first); ++j) {
      if (visible(i, j)) largest_value = std::max(largest_value, key(j).value_scale);
    }
    // A value_scale of 0 counts as 2^-24 of the block's (up to two times that, for its mantissa);
    // where all are 0, they count as 1.
    const double of_zero = largest_value > 0 ? 0x1p-23 * largest_value : 1;
    const auto folded_scale = [&](std::int64_t j) {
      return key(j).value_scale > kLeastScale ? key(j).value_scale : of_zero;
    };
    // Whether any value is so much smaller than the largest that rows may see a faint one.
    bool may_be_faint = false;
    for (std::int64_t j = first; j < block_end(first); ++j) {
      const double value_scale = key(j).value_scale;
      may_be_faint |=
          visible(i, j) && value_scale > kLeastScale && value_scale < 0x1p-22 * largest_value;
    }
    const bool on_grid = c_.value.dtype != INTFLASH_INT8;
    const double fold = on_grid && !may_be_faint ? 0 : kFold;
    double folded = 0;
    std::vector<double> stretch(static_cast<std::size_t>(block_end(first) - first));
    for (std::int64_t j = first; j < block_end(first); ++j) {
      double& factor = stretch[static_cast<std::size_t>(j - first)];
      factor = std::exp(error[static_cast<std::size_t>(j)]) * (1 + kCurve);
      folded = std::max(folded, oracle_.share(i, j) * folded_scale(j) * factor * (1 + kCurve));
    }
    const VectorXd magnitude = exact.cwiseAbs();
    for (std::int64_t j = first; j < block_end(first); ++j) {
      if (!visible(i, j)) continue;
      const double share = oracle_.share(i, j);
      const double stretched = stretch[static_cast<std::size_t>(j - first)];
      // Light keys join the sum below in f32, without the polynomial: it is no longer common.
      const bool may_be_light = key(j).value_scale < largest_value / 7;
      const bool is_light = key(j).value_scale < largest_value / 33;
      const double unfold = (may_be_light ? std::max(kUnfold, kCurve) : kUnfold) + kFloat;
      const double level = is_light ? 0.0 : kLevel4080 * folded / folded_scale(j);
      const VectorXd value = value_.row(j).transpose().cwiseAbs();
      above += share * (stretched - 1) * (value_.row(j).transpose() - exact).cwiseAbs() +
               share * stretched * ((fold + kFloat) * value + unfold * magnitude) +
               level * magnitude;
      const double code =
          key(j).value_scale > 0 ? (on_grid ? kGridStep : 1) / key(j).value_scale : 0.0;
      above.array() += share * stretched * kRounding * key(j).value_half_step +
                       kLevel255 * folded * (value.array() * code + 0.5);
      low += share / stretched * (1 - unfold) - level;
      high += share * stretched * (1 + unfold) + level;
    }
  }

  const AttentionCase& c_;
  const CaseTensors& tensors_;
  const std::int64_t b_, h_;
  const OracleHead oracle_;
  VectorXd key_center_, value_center_;
  MatrixXd value_;  // less the centre, rotated
  bool rotates_keys_, rotates_values_;
  MatrixXd rotation_;      // of values
  VectorXd basis_center_;  // of values, rotated
  std::vector<Key> keys_;
};

}  // namespace

Numbers error_bound(const AttentionCase& c, const CaseTensors& tensors) {
  Numbers bound;
  for (std::int64_t b = 0; b < c.batch; ++b) {
    for (std::int64_t h = 0; h < c.num_kv_heads * c.group_size; ++h) {
      const HeadBound head(c, tensors, b, h);
      std::vector<double> out;
      double lse = 0;
      for (std::int64_t i = 0; i < c.query_len; ++i) {
        head.row(i, out, lse);
        bound.out.insert(bound.out.end(), out.begin(), out.end());
        if (c.lse) bound.lse.push_back(lse);
      }
    }
  }
  return bound;
}

}  // namespace intflash::internal
