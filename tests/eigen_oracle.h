// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Attention as a textbook writes it, with dense matrices in double precision: an oracle that shares
// nothing with the library.
#pragma once

#include <cstdint>

#include <Eigen/Dense>

#include "attention_case.h"

namespace intflash::internal {

// Rows are tokens, columns are channels.
Eigen::MatrixXd matrix_of(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                          std::int64_t h, std::int64_t tokens, std::int64_t dim);

// One query head of a case.
struct OracleHead {
  Eigen::MatrixXd query, key, value;
  Eigen::MatrixXd score;  // [query_len][kv_len], scaled and capped; -infinity where masked
  Eigen::MatrixXd added;  // [query_len][kv_len]: magnitudes of what biases added to score
  double sink;            // a logit beside each row's scores; -infinity = none
  Eigen::MatrixXd share;  // [query_len][kv_len]: softmax of score; 0 in a row that sees no key
  Eigen::MatrixXd out;    // [query_len][head_dim_v]
  Eigen::VectorXd lse;    // [query_len]
};
double softmax_scale_of(const AttentionCase& c);
OracleHead oracle_head(const AttentionCase& c, const CaseTensors& tensors, std::int64_t b,
                       std::int64_t query_head);
Numbers oracle(const AttentionCase& c, const CaseTensors& tensors);

}  // namespace intflash::internal
