// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the bound on errors knows of a call's inputs: rows as they are quantized, and what is done
// to them before.
#pragma once

#include <cstdint>
#include <vector>

#include <Eigen/Core>

#include "attention_case.h"
#include "tile/types.h"

namespace intflash::internal {

constexpr double kRounding = 1.001;  // what f32 adds to the quantities of quantization
constexpr double kLeastScale = kTinyMagnitude / 127;  // of rows that do not count as zero

// Largest magnitude and sum of magnitudes of a row as it is quantized. A rotation is orthonormal:
// the norm, which it keeps, bounds both.
struct RowExtent {
  double largest, sum;
};
RowExtent extent_of(const Eigen::VectorXd& row, bool rotated);

// What a row whose largest element is given loses where it counts as zero.
double zeroed_of(double largest, double scale, bool has_codes);

// The scale of a row of codes whose largest element is given: halved while the largest code may be
// doubled, and no less than the least.
double given_scale(const intflash_tensor& tensor, std::int64_t b, std::int64_t h,
                   std::int64_t token, double largest);

// Whether rows are rotated: as numerics.md has it.
bool rotates_keys(const AttentionCase& c);
bool rotates_values(const AttentionCase& c);

// The matrix of the rotation.
Eigen::MatrixXd rotation_of(std::int64_t dim);

// What is taken from every row before quantization, and how far from that it may be, which cancels
// in the result but leaves rows as large.
struct Center {
  Eigen::VectorXd mean, rounding;
};
// One of these, and whichever it is, the bound holds for the result.
using Centers = std::vector<Center>;
Centers centers_of(bool centers, const float* given, std::int64_t head, const Eigen::MatrixXd& rows,
                   const std::vector<bool>& seen, bool rotated);

}  // namespace intflash::internal
