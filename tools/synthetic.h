// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The random inputs on which papers compare attention pipelines, the same numbers on every
// platform.
#pragma once

#include <cstdint>
#include <random>

#include "pipelines.h"

namespace intflash {

// The standard fixes what the engine yields but not what its distributions make of it; these it
// does not have.
class RandomNumbers {
 public:
  explicit RandomNumbers(std::uint64_t seed) : engine_(seed) {}
  double uniform();                        // [0, 1)
  double normal();                         // mean 0, variance 1
  std::int64_t below(std::int64_t count);  // 0 ... count - 1

 private:
  std::mt19937_64 engine_;
};

enum class Distribution {
  kNormal,    // N(0, 1)
  kUniform,   // U(-0.5, 0.5)
  kStudentT,  // Student's t of 4 degrees of freedom: heavy tails
  // N(0, 1), and N(0, 100) on top of 0.1 % of the elements, chosen at random: FlashAttention-3's
  // test (arXiv 2407.08608).
  kOutliers,
  // What real keys and values look like (SageAttention, arXiv 2410.02367, Fig. 4): N(0, 1), but
  // every token has the same
  // +-15 on top in 4 % of K's channels, and the same +-8 in 4 % of V's. Queries are N(0, 1.8^2):
  // attention peaked enough that a key's share of the weight spans some orders of magnitude.
  kChannelBias,
};

// Elements are f32 numbers; softmax_scale is 1 / sqrt(head_dim) in f32; not causal.
Head make_head(Distribution distribution, std::int64_t query_len, std::int64_t kv_len,
               std::int64_t head_dim, std::uint64_t seed);

}  // namespace intflash
