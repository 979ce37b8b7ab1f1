// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Uniform and normal numbers from the engine's bits, and the distributions made of them.
#include "synthetic.h"

#include <cmath>
#include <numbers>
#include <utility>
#include <vector>

namespace intflash {
namespace {

constexpr double kOutlierProbability = 0.001;
constexpr double kOutlierDeviation = 10;
constexpr double kBiasedChannels = 0.04;
constexpr double kKeyBias = 15;
constexpr double kValueBias = 8;
constexpr double kPeakedQueryDeviation = 1.8;

double draw(Distribution distribution, RandomNumbers& random) {
  switch (distribution) {
    case Distribution::kUniform:
      return random.uniform() - 0.5;
    case Distribution::kStudentT: {
      const double normal = random.normal();
      // A quarter of chi squared of 4 degrees of freedom: of two exponential numbers' sum a half.
      return normal / std::sqrt(-std::log((1 - random.uniform()) * (1 - random.uniform())) / 2);
    }
    case Distribution::kOutliers: {
      const double base = random.normal();
      const bool outlier = random.uniform() < kOutlierProbability;
      return outlier ? base + kOutlierDeviation * random.normal() : base;
    }
    case Distribution::kNormal:
    case Distribution::kChannelBias:
      return random.normal();
  }
  return 0;
}

// bias of either sign in a few channels, 0 in the others.
std::vector<double> channel_bias(std::int64_t dim, double bias, RandomNumbers& random) {
  std::vector<double> channels(static_cast<std::size_t>(dim));
  const auto biased =
      static_cast<std::int64_t>(std::lround(kBiasedChannels * static_cast<double>(dim)));
  for (std::int64_t found = 0; found < biased;) {
    double& channel = channels[static_cast<std::size_t>(random.below(dim))];
    if (channel != 0) continue;
    channel = random.below(2) == 0 ? bias : -bias;
    ++found;
  }
  return channels;
}

Matrix make_matrix(Distribution distribution, std::int64_t tokens, std::int64_t dim, double factor,
                   const std::vector<double>& bias, RandomNumbers& random) {
  Matrix matrix(tokens, dim);
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t c = 0; c < dim; ++c) {
      const double element =
          factor * draw(distribution, random) + bias[static_cast<std::size_t>(c)];
      matrix.row(t)[c] = static_cast<float>(element);
    }
  }
  return matrix;
}

}  // namespace

double RandomNumbers::uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }

double RandomNumbers::normal() {
  const double radius =
      std::sqrt(-2 * std::log(1 - uniform()));  // Box and Muller; 1 - uniform() > 0
  return radius * std::cos(2 * std::numbers::pi * uniform());
}

std::int64_t RandomNumbers::below(std::int64_t count) {
  return static_cast<std::int64_t>(uniform() * static_cast<double>(count));
}

Head make_head(Distribution distribution, std::int64_t query_len, std::int64_t kv_len,
               std::int64_t head_dim, std::uint64_t seed) {
  RandomNumbers random(seed);
  const bool biased = distribution == Distribution::kChannelBias;
  const std::vector<double> none(static_cast<std::size_t>(head_dim));
  const std::vector<double> key_bias = biased ? channel_bias(head_dim, kKeyBias, random) : none;
  const std::vector<double> value_bias = biased ? channel_bias(head_dim, kValueBias, random) : none;
  Head head;
  head.query = make_matrix(distribution, query_len, head_dim, biased ? kPeakedQueryDeviation : 1,
                           none, random);
  head.key = make_matrix(distribution, kv_len, head_dim, 1, key_bias, random);
  head.value = make_matrix(distribution, kv_len, head_dim, 1, value_bias, random);
  head.softmax_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(head_dim)));
  head.causal = false;
  return head;
}

}  // namespace intflash
