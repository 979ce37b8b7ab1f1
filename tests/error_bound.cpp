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
// largest share is as good.
//
// Where e_j is large that says nothing. But whatever the scores are, o' is a mean of the values by
// some shares p'_j, as the steps after the scores leave it, and p'_j is no more than
//   u_j = exp(s_j + e_j - max_k (s_k - e_k)) (1 + kCurve)^2, and no more than 1.
// So a sum of p'_j x_j is at most the largest x_j where u_j is not small, plus the sum of u_j x_j
// where it is: MeanBound below, of |v_j - o| and of each of the steps. The smallest of the three
// bounds is taken.
//
// Mode int8_qk rounds weights to 4080 levels alone, values to 11 bits beside a scale that is a
// power of two, and their sums over a score block to f32.
#include "error_bound.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "bound_inputs.h"
#include "tile/types.h"

namespace intflash::internal {
namespace {

using Eigen::MatrixXd;
using Eigen::VectorXd;

constexpr double kLn2 = 0.69314718055994531;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kScoreUnit = 1.0 / (1 << kFractionBits);
constexpr double kFloat = 2e-6;    // relative error of some f32 operations in a row
constexpr double kDouble = 1e-14;  // and of this file's own

constexpr double kCurve = 2.4e-3 + 2 * 0.5 / 16320;  // polynomial, and its two Q15 products
constexpr double kCurves = (1 + kCurve) * (1 + kCurve);
constexpr double kFold = kLn2 * (0.5 * kScoreUnit + 1.4e-5);
constexpr double kGridStep = 1.0109;  // of scales of values: 2^(1/64)
constexpr double kUnfold = 0.5 / kValueWeightOne;
constexpr double kLevel255 = (0.5 + 0.5 / 16) / 255;  // rounded to 4080 levels, then to 255
constexpr double kLevel4080 = 0.5 / kWeightOne;
constexpr double kF16Step = 0x1.01p-11;  // of values, relative to the largest of their row
constexpr double kF16Sums = 0x1p-17;     // of 128 of them in f32
constexpr double kLargeError = 0.1;  // of a score: beyond it the mean of all values may say more
constexpr double kSmallShare = 1e-9;
constexpr double kLargestLogit = kLn2 * 2 * (3e38 - 0x1p125);  // that is held

// |a - b|, and what rounding in float64 may have left out of either: a share so stretched that a
// distance of next to 0 counts takes the larger one.
VectorXd distance(const VectorXd& a, const VectorXd& b) {
  return (a - b).cwiseAbs() + kDouble * (a.cwiseAbs() + b.cwiseAbs());
}

// log(sum exp(x_j)).
double log_sum(const std::vector<double>& x) {
  const double largest = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (const double each : x) sum += std::exp(each - largest);
  return largest + std::log(sum);
}

// A bound of the mean of vectors of numbers >= 0, of whose shares is known what each is at most.
class MeanBound {
 public:
  explicit MeanBound(std::int64_t dim) : largest_(VectorXd::Zero(dim)), rest_(largest_) {}
  void add(double share, const VectorXd& x) {
    if (share > kSmallShare)
      largest_ = largest_.cwiseMax(x);
    else
      add_rest(share * x);
  }
  void add_rest(const VectorXd& x) { rest_ += x; }
  VectorXd bound() const { return largest_ + rest_; }

 private:
  VectorXd largest_, rest_;
};

// One query head of a case, with all that its rows share.
class HeadBound {
 public:
  HeadBound(const AttentionCase& c, const CaseTensors& tensors, std::int64_t b, std::int64_t h,
            const OracleHead& oracle, const Center& key_center, const Center& value_center)
      : c_(c),
        tensors_(tensors),
        b_(b),
        h_(h),
        oracle_(oracle),
        key_center_(key_center.mean),
        key_rounding_(key_center.rounding),
        value_center_(value_center.mean),
        value_rounding_(value_center.rounding),
        rotates_keys_(rotates_keys(c)),
        rotates_values_(rotates_values(c)) {
    value_ = oracle_.value.rowwise() - value_center_.transpose();
    if (rotates_values_) {
      rotation_ = rotation_of(c.head_dim_v);
      value_ = value_ * rotation_.transpose();
      value_rounding_ = rotation_.cwiseAbs() * value_rounding_;
    }
    basis_center_ = rotates_values_ ? VectorXd(rotation_ * value_center_) : value_center_;
    for (std::int64_t j = 0; j < c.kv_len; ++j) add_key(h / c.group_size, j);
  }

  // Row i: bounds of its channels and of its log-sum-exp.
  void row(std::int64_t i, std::vector<double>& out, double& lse) const {
    std::vector<double> error = score_errors(i);
    std::int64_t top = -1;
    for (std::int64_t j = 0; j < c_.kv_len; ++j) {
      if (visible(i, j) && (top < 0 || oracle_.share(i, j) > oracle_.share(i, top))) top = j;
    }
    out.assign(static_cast<std::size_t>(c_.head_dim_v), 0.0);
    const double error_of_sink = sink_error(i);
    lse = error_of_sink;
    if (top < 0) return;
    double low = 0, high = 0;
    bound_channels(i, error, error_of_sink, out, low, high);
    lse = low > 0 ? std::max(-std::log(low), std::log(high)) : kInfinity;
    if (std::max(error_of_sink, *std::max_element(error.begin(), error.end())) > kLargeError) {
      std::vector<double> other(out.size());
      lse = std::min(lse, bound_by_mean(i, error, error_of_sink, other));
      for (std::size_t k = 0; k < out.size(); ++k) out[k] = std::min(out[k], other[k]);
    }
    lse += kFloat * std::fabs(oracle_.lse(i)) + kFloat;
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
    double zeroed;     // of it where the row counts as zero
    double scale;
    double value_scale;
    double value_half_step;
    double norm;  // of the key less the centre
  };

  void add_key(std::int64_t kv_head, std::int64_t j) {
    Key key;
    VectorXd difference = oracle_.key.row(j).transpose() - key_center_;
    difference = difference.cwiseAbs() + key_rounding_;
    key.norm = difference.norm();
    key.extent = extent_of(difference, rotates_keys_);
    const bool key_codes = c_.key.dtype == INTFLASH_INT8;
    key.scale = key_codes ? given_scale(tensors_.args.key, b_, kv_head, j, key.extent.largest)
                          : kRounding * key.extent.largest / 127;
    key.half_step = key_codes ? 0 : key.scale / 2;
    key.zeroed = zeroed_of(key.extent.largest, key.scale, key_codes);
    const double largest_value = magnitude_of_value(j).maxCoeff();
    const bool value_codes = c_.value.dtype == INTFLASH_INT8;
    const double given =
        value_codes ? given_scale(tensors_.args.value, b_, kv_head, j, largest_value) : 0.0;
    if (has_f16_values()) {
      const bool is_zero = largest_value < 0.999 * static_cast<double>(kTinyMagnitude);
      key.value_scale = value_codes ? 2 * given : is_zero ? 0 : kRounding * largest_value / 64;
      key.value_half_step = kF16Step * largest_value;
    } else {
      key.value_scale = value_codes ? given : kRounding * kGridStep * largest_value / 127;
      key.value_half_step = value_codes ? 0 : key.value_scale / 2;
    }
    key.value_half_step += zeroed_of(largest_value, key.value_scale, value_codes);
    if (rotates_values_) key.value_half_step += kFloat * magnitude_of_value(j).norm();
    keys_.push_back(std::move(key));
  }

  VectorXd magnitude_of_value(std::int64_t j) const {
    return value_.row(j).cwiseAbs().transpose() + value_rounding_;
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
    double key_scale = 0x1p-110;  // which it counts as where all are 0
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
    const double zeroed = zeroed_of(query.largest, query_scale, codes);
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
      error =
          scale * (finer * (query.sum * k.half_step + k.extent.sum * half_step) +
                   dim * half_step * k.half_step + query.sum * k.zeroed + k.extent.sum * zeroed);
      // Centring, rotating and the products' factors in f32. A computed centre is itself rounded,
      // but whatever it is cancels.
      error += kFloat * scale *
               (reach(j) + center_reach + (rotates_keys_ ? 4 * row.norm() * k.norm : 0.0));
      if (c_.score_cap > 0) {
        // tanh does not stretch an error; scores are in f32, then distances in fixed point.
        const double cap = static_cast<double>(c_.score_cap);
        error = std::min(error, 2 * cap) + kFloat * cap + kLn2 * 0.5 * kScoreUnit;
      } else {
        // In units of products a shift that drops bits (1), the factors of key and query (1 each:
        // half a unit of rounding, a whole one where 32768 becomes 32767), the first product (1/2);
        // in those of scores the query's factor, made coarser, and the second product (1/2 each).
        error += kLn2 * (3.5 * unit + kScoreUnit);
      }
      // Larger logits count as the largest.
      const double beyond = std::max(0.0, std::fabs(oracle_.score(i, j)) - kLargestLogit);
      error += kFloat * std::min(oracle_.added(i, j), kLargestLogit) + beyond;
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

  // The share of a score, times exp(error), which may be any number: what is above is large enough.
  double share_of(std::int64_t i, double score, double error) const {
    return std::exp(std::min(score - oracle_.lse(i) + error, 600.0));
  }

  void bound_channels(std::int64_t i, const std::vector<double>& error, double error_of_sink,
                      std::vector<double>& out, double& low, double& high) const {
    const double sink_share = std::exp(oracle_.sink - oracle_.lse(i));
    const double sink_above = share_of(i, oracle_.sink, error_of_sink);
    const VectorXd kept = oracle_.share.row(i) * value_;
    // In the basis of the values, as they are quantized.
    const VectorXd exact = kept - sink_share * basis_center_;
    VectorXd above = (sink_above - sink_share) * distance(-basis_center_, exact);
    low = share_of(i, oracle_.sink, -error_of_sink) * (1 - kFloat);
    high = sink_above * (1 + kFloat);
    for (std::int64_t first = 0; first < c_.kv_len; first += kScoreBlock)
      add_block(i, first, error, exact, above, low, high);
    if (!(low > 0)) {
      std::fill(out.begin(), out.end(), kInfinity);
      return;
    }
    above /= low;
    if (rotates_values_) above = VectorXd(rotation_.cwiseAbs().transpose() * above);
    finish(i, above, rotates_values_ ? 4 * kFloat * exact.norm() : 0, out);
  }

  // What is done to a row of out, and to one that is `bound` from it, after it is divided.
  void finish(std::int64_t i, const VectorXd& bound, double turning,
              std::vector<double>& out) const {
    const double step_of_out = c_.out.dtype == INTFLASH_F32   ? 0x1p-23
                               : c_.out.dtype == INTFLASH_F16 ? 0x1p-11
                                                              : 0x1p-8;
    // Subnormal halves; and rows below 2^-100 count as zero.
    const double least_step = c_.out.dtype == INTFLASH_F16 ? 0x1p-24 : 0x1p-99;
    for (std::int64_t channel = 0; channel < c_.head_dim_v; ++channel) {
      const double total = std::fabs(oracle_.out(i, channel));
      out[static_cast<std::size_t>(channel)] =
          bound(channel) * (1 + step_of_out) + total * step_of_out + turning +
          kFloat * (total + 2 * std::fabs(value_center_(channel))) + least_step;
    }
  }

  // One score block's part of the sums above.
  void add_block(std::int64_t i, std::int64_t first, const std::vector<double>& error,
                 const VectorXd& exact, VectorXd& above, double& low, double& high) const {
    const Scales scales = scales_of(i, first);
    const auto stretched_share = [&](std::int64_t j) {
      return share_of(i, oracle_.score(i, j), error[static_cast<std::size_t>(j)]) * (1 + kCurve);
    };
    double folded = 0;
    for (std::int64_t j = first; j < block_end(first); ++j)
      folded = std::max(folded, stretched_share(j) * folded_scale(scales, j) * (1 + kCurve));
    const VectorXd magnitude = exact.cwiseAbs() + value_rounding_;
    const double lost = lost_of(i);
    for (std::int64_t j = first; j < block_end(first); ++j) {
      if (!visible(i, j)) continue;
      const double share = oracle_.share(i, j);
      const double stretched = stretched_share(j);
      const double shrunk = share_of(i, oracle_.score(i, j), -error[static_cast<std::size_t>(j)]);
      // Light keys join the sum below in f32, without the polynomial: it is no longer common.
      const bool may_be_light = key(j).value_scale < scales.largest / 7;
      const double unfold = (may_be_light ? std::max(kUnfold, kCurve) : kUnfold) + kFloat;
      const double level = folded * level_of_sum(scales, j);
      const VectorXd value = magnitude_of_value(j);
      above += (stretched - share) * distance(value_.row(j).transpose(), exact) +
               stretched * ((scales.fold + kFloat) * value + unfold * magnitude) +
               level * magnitude;
      above.array() += stretched * kRounding * key(j).value_half_step;
      above += folded * level_of_values(j);
      above.array() += (stretched * value.array()).min(lost);
      low += shrunk / (1 + kCurve) * (1 - unfold) - level;
      high += stretched * (1 + unfold) + level;
    }
  }

  // Powers of two below 2^-126 are 0: what of a key's weighted value may be lost beside the state's
  // reference, which is at most an octave above the sum of all weights.
  double lost_of(std::int64_t i) const {
    double largest = 0;
    for (std::int64_t j = 0; j < c_.kv_len; ++j)
      if (visible(i, j)) largest = std::max(largest, magnitude_of_value(j).maxCoeff());
    return 0x1p-124 * largest;
  }

  // The scales of values that a row sees in a score block: the largest, and what one of 0 counts
  // as, 2^-24 of that (up to two times that, for its mantissa); where all are 0, they count as 1.
  // And how far from 1 a folded one may be.
  struct Scales {
    double largest, of_zero, fold;
  };
  Scales scales_of(std::int64_t i, std::int64_t first) const {
    double largest = 0;
    for (std::int64_t j = first; j < block_end(first); ++j) {
      if (visible(i, j)) largest = std::max(largest, key(j).value_scale);
    }
    // Whether any value is so much smaller than the largest that rows may see a faint one.
    bool may_be_faint = false;
    for (std::int64_t j = first; j < block_end(first); ++j) {
      const double value_scale = key(j).value_scale;
      may_be_faint |= visible(i, j) && value_scale > kLeastScale && value_scale < 0x1p-22 * largest;
    }
    const double fold =
        (is_on_grid() && !may_be_faint ? 0 : kFold) + (has_f16_values() ? kF16Sums : 0);
    return {largest, largest > 0 ? 0x1p-23 * largest : 1, fold};
  }
  bool has_f16_values() const { return c_.mode == INTFLASH_MODE_INT8_QK; }
  bool is_on_grid() const { return has_f16_values() || c_.value.dtype != INTFLASH_INT8; }
  // How much smaller a scale may be than key() has it.
  double scale_range() const { return has_f16_values() ? 2 : is_on_grid() ? kGridStep : 1; }
  double folded_scale(const Scales& scales, std::int64_t j) const {
    return key(j).value_scale > kLeastScale ? key(j).value_scale : scales.of_zero;
  }
  // |r_j| |code_j| and q_j beside the block's largest folded weight.
  VectorXd level_of_values(std::int64_t j) const {
    const double code = key(j).value_scale > 0 ? scale_range() / key(j).value_scale : 0.0;
    return (has_f16_values() ? kLevel4080 : kLevel255) *
           (magnitude_of_value(j).array() * code + 0.5);
  }
  double level_of_sum(const Scales& scales, std::int64_t j) const {
    const bool is_light = key(j).value_scale < scales.largest / 33;
    return is_light ? 0.0 : kLevel4080 / folded_scale(scales, j);
  }

  // What sums of p'_j come to, each for a channel.
  struct Means {
    explicit Means(std::int64_t dim) : distance(dim), steps(dim), magnitude(dim), level(dim) {}
    MeanBound distance;   // |v_j - o|, in the basis of out; the others are in that of the values
    MeanBound steps;      // of values and their folded scales
    MeanBound magnitude;  // |v_j|
    MeanBound level;      // of weights, to 255 levels
    MeanBound level_of_sum{1};
  };

  // The bound that large errors of scores leave; returns that of the log-sum-exp.
  double bound_by_mean(std::int64_t i, const std::vector<double>& error, double error_of_sink,
                       std::vector<double>& out) const {
    std::vector<double> up, down;
    for (std::int64_t j = 0; j < c_.kv_len; ++j) {
      up.push_back(oracle_.score(i, j) + error[static_cast<std::size_t>(j)]);
      down.push_back(oracle_.score(i, j) - error[static_cast<std::size_t>(j)]);
    }
    up.push_back(oracle_.sink + error_of_sink);
    down.push_back(oracle_.sink - error_of_sink);
    const double least = *std::max_element(down.begin(), down.end());
    std::vector<double> most;
    for (const double x : up) most.push_back(std::min(1.0, kCurves * std::exp(x - least)));

    Means means(c_.head_dim_v);
    means.distance.add(most.back(), oracle_.out.row(i).transpose().cwiseAbs());
    means.steps.add(most.back(), kFloat * basis_center_.cwiseAbs());
    means.magnitude.add(most.back(), basis_center_.cwiseAbs());
    for (std::int64_t first = 0; first < c_.kv_len; first += kScoreBlock)
      add_block_to_means(i, first, most, means);
    const VectorXd magnitude = means.magnitude.bound();
    const double of_sum = std::max(kUnfold, kCurve) + kFloat + means.level_of_sum.bound()(0);
    if (of_sum >= 1) {
      std::fill(out.begin(), out.end(), kInfinity);
      return kInfinity;
    }
    VectorXd bound =
        (means.steps.bound() + means.level.bound() + of_sum * magnitude) / (1 - of_sum);
    if (rotates_values_) bound = VectorXd(rotation_.cwiseAbs().transpose() * bound);
    bound += means.distance.bound();
    finish(i, bound, rotates_values_ ? 4 * kFloat * magnitude.norm() : 0, out);
    return std::max(log_sum(up) - oracle_.lse(i), oracle_.lse(i) - log_sum(down)) -
           std::log1p(-kCurve) - std::log1p(-of_sum);
  }

  // One score block's part of them. The block's largest folded weight is at most the share of all
  // its keys times their largest scale.
  void add_block_to_means(std::int64_t i, std::int64_t first, const std::vector<double>& most,
                          Means& means) const {
    const Scales scales = scales_of(i, first);
    VectorXd level = VectorXd::Zero(c_.head_dim_v);
    double level_below = 0, large = 0, small = 0;
    for (std::int64_t j = first; j < block_end(first); ++j) {
      if (!visible(i, j)) continue;
      const double share = most[static_cast<std::size_t>(j)];
      const VectorXd magnitude = magnitude_of_value(j);
      const double step = (1 + scales.fold) * kRounding * key(j).value_half_step;
      means.distance.add(share, (oracle_.value.row(j) - oracle_.out.row(i)).cwiseAbs().transpose());
      means.steps.add(share, ((scales.fold + kFloat) * magnitude.array() + step).matrix());
      means.magnitude.add(share, magnitude);
      level += level_of_values(j);
      level_below += level_of_sum(scales, j);
      if (share > kSmallShare)
        large = std::max(large, kCurves * folded_scale(scales, j));
      else
        small = std::max(small, kCurves * share * folded_scale(scales, j));
    }
    means.level.add(1, large * level);
    means.level.add_rest(small * level);
    means.level_of_sum.add(1, VectorXd::Constant(1, large * level_below));
    means.level_of_sum.add_rest(VectorXd::Constant(1, small * level_below));
  }

  const AttentionCase& c_;
  const CaseTensors& tensors_;
  const std::int64_t b_, h_;
  const OracleHead& oracle_;
  const VectorXd key_center_, key_rounding_, value_center_;
  VectorXd value_rounding_;  // as values are
  const bool rotates_keys_, rotates_values_;
  MatrixXd value_;         // less the centre, rotated
  MatrixXd rotation_;      // of values
  VectorXd basis_center_;  // of values, rotated
  std::vector<Key> keys_;
};

// The heads that share a kv head, and what they know of its rows together.
struct GroupBound {
  GroupBound(const AttentionCase& c, const CaseTensors& tensors, std::int64_t b,
             std::int64_t kv_head)
      : c(c), tensors(tensors), b(b), first_head(kv_head * c.group_size) {
    std::vector<bool> seen(static_cast<std::size_t>(c.kv_len), false);
    for (std::int64_t h = 0; h < c.group_size; ++h) {
      oracles.push_back(oracle_head(c, tensors, b, first_head + h));
      for (std::int64_t i = 0; i < c.query_len; ++i)
        for (std::int64_t j = 0; j < c.kv_len; ++j)
          if (oracles.back().score(i, j) > -kInfinity) seen[static_cast<std::size_t>(j)] = true;
    }
    const std::int64_t head = b * c.num_kv_heads + kv_head;
    const bool both = c.center == INTFLASH_CENTER_KEY_VALUE;
    key_centers = centers_of(c.center == INTFLASH_CENTER_KEY || both, tensors.args.key_center, head,
                             oracles[0].key, seen, rotates_keys(c));
    value_centers = centers_of(both, tensors.args.value_center, head, oracles[0].value, seen,
                               rotates_values(c));
  }

  // Of one of the heads, the larger one of any centres.
  void add_to(std::int64_t h, Numbers& bound) const {
    const std::size_t first_out = bound.out.size(), first_lse = bound.lse.size();
    bound.out.resize(first_out + static_cast<std::size_t>(c.query_len * c.head_dim_v), 0.0);
    if (c.lse) bound.lse.resize(first_lse + static_cast<std::size_t>(c.query_len), 0.0);
    for (const Center& key_center : key_centers) {
      for (const Center& value_center : value_centers) {
        const HeadBound head(c, tensors, b, first_head + h, oracles[static_cast<std::size_t>(h)],
                             key_center, value_center);
        std::vector<double> out;
        double lse = 0;
        for (std::int64_t i = 0; i < c.query_len; ++i) {
          head.row(i, out, lse);
          double* to = bound.out.data() + first_out + i * c.head_dim_v;
          for (const double x : out) {
            *to = std::max(*to, x);
            ++to;
          }
          if (!c.lse) continue;
          double& to_lse = bound.lse[first_lse + static_cast<std::size_t>(i)];
          to_lse = std::max(to_lse, lse);
        }
      }
    }
  }

  const AttentionCase& c;
  const CaseTensors& tensors;
  const std::int64_t b, first_head;
  std::vector<OracleHead> oracles;
  Centers key_centers, value_centers;
};

}  // namespace

Numbers error_bound(const AttentionCase& c, const CaseTensors& tensors) {
  Numbers bound;
  for (std::int64_t b = 0; b < c.batch; ++b) {
    for (std::int64_t kv_head = 0; kv_head < c.num_kv_heads; ++kv_head) {
      const GroupBound group(c, tensors, b, kv_head);
      for (std::int64_t h = 0; h < c.group_size; ++h) group.add_to(h, bound);
    }
  }
  return bound;
}

}  // namespace intflash::internal
