// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "bound_inputs.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace intflash::internal {
namespace {

using Eigen::MatrixXd;
using Eigen::VectorXd;

constexpr double kMeanRounding = 65 * 0x1p-24;  // of a mean: sums of 64 rows are in f32

bool is_rotated(const AttentionCase& c, std::int64_t dim, bool has_codes) {
  return c.rotate && !has_codes && dim / (dim & -dim) <= 9;
}

// A computed centre: the mean of the rows that are seen, where it makes their steps clearly finer,
// else 0. Next to the limit it may be either.
Centers computed_centers(const MatrixXd& rows, const std::vector<bool>& seen, bool rotated) {
  const VectorXd zero = VectorXd::Zero(rows.cols());
  VectorXd mean = zero, rounding = zero;
  for (std::int64_t j = 0; j < rows.rows(); ++j) {
    if (!seen[static_cast<std::size_t>(j)]) continue;
    mean += rows.row(j).transpose();
    rounding += kMeanRounding * rows.row(j).cwiseAbs().transpose();
  }
  const auto num_seen = static_cast<double>(std::count(seen.begin(), seen.end(), true));
  mean /= std::max(1.0, num_seen);
  rounding /= std::max(1.0, num_seen);
  const MatrixXd rotation = rotated ? rotation_of(rows.cols()) : MatrixXd();
  const auto largest = [&](const VectorXd& row) {
    const double most =
        rotated ? (rotation * row).cwiseAbs().maxCoeff() : row.cwiseAbs().maxCoeff();
    return most < static_cast<double>(kTinyMagnitude) ? 0 : most;
  };
  double sum = 0, count = 0;
  for (std::int64_t j = 0; j < rows.rows(); ++j) {
    const VectorXd row = rows.row(j).transpose();
    const double without = largest(row);
    if (!seen[static_cast<std::size_t>(j)] || without == 0) continue;
    sum += std::pow(largest(row - mean) / without, 2);
    ++count;
  }
  Centers centers;
  if (sum < 0.901 * count) centers.push_back({mean, rounding});
  if (sum > 0.899 * count || count == 0) centers.push_back({zero, zero});
  return centers;
}

}  // namespace

RowExtent extent_of(const VectorXd& row, bool rotated) {
  if (!rotated) return {row.cwiseAbs().maxCoeff(), row.cwiseAbs().sum()};
  const double norm = row.norm() * (1 + 1e-5);
  return {norm, norm * std::sqrt(static_cast<double>(row.size()))};
}

double zeroed_of(double largest, double scale, bool has_codes) {
  if (has_codes) return scale == 0 ? largest : 0;
  return std::min(largest, static_cast<double>(kTinyMagnitude));
}

double given_scale(const intflash_tensor& tensor, std::int64_t b, std::int64_t h,
                   std::int64_t token, double largest) {
  const std::int64_t block = tensor.scale_block == 0 ? 0 : token / tensor.scale_block;
  double scale = static_cast<double>(
      tensor.scale[b * tensor.scale_stride_batch + h * tensor.scale_stride_head + block]);
  if (largest == 0 || scale < kLeastScale) return 0;
  while (largest / scale < 63.5 && scale / 2 >= kLeastScale) scale /= 2;
  return scale;
}

bool rotates_keys(const AttentionCase& c) {
  const bool has_codes = c.query.dtype == INTFLASH_INT8 || c.key.dtype == INTFLASH_INT8;
  return is_rotated(c, c.head_dim, has_codes);
}
bool rotates_values(const AttentionCase& c) {
  return is_rotated(c, c.head_dim_v, c.value.dtype == INTFLASH_INT8);
}

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

Centers centers_of(bool centers, const float* given, std::int64_t head, const MatrixXd& rows,
                   const std::vector<bool>& seen, bool rotated) {
  const VectorXd zero = VectorXd::Zero(rows.cols());
  if (!centers || rows.rows() == 0) return {{zero, zero}};
  if (given == nullptr) return computed_centers(rows, seen, rotated);
  VectorXd center(rows.cols());
  for (std::int64_t i = 0; i < rows.cols(); ++i)
    center(i) = static_cast<double>(given[head * rows.cols() + i]);
  return {{center, zero}};
}

}  // namespace intflash::internal
