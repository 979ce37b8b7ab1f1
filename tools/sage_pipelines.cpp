// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// SageAttention 1 (arXiv 2410.02367) and 2 (arXiv 2411.10958).
#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "pipeline_parts.h"

namespace intflash {
namespace {

constexpr std::int64_t kWarpQueries = 32;  // of a block of 128 queries

// The accumulator of FP8 products: 13 bits of fraction (SageAttention 2, two-level accumulation:
// each block of 64 keys is summed in it, and added to out in f32).
double round_to_fp22(double value) { return round_to_float(value, 13, -126, 0x1.fffp127); }

// Weights and values of SageAttention 2: e4m3, weights with the static scale 1/448.
constexpr WeightRule kFp8Weights = {round_scaled_weight_to_e4m3, Maximum::kRunning, Sum::kUnrounded,
                                    round_to_fp22};

// SageAttention 2, its 8-bit form: INT8 scores of smoothed keys, FP8 weights and values.
Matrix sage2_8b(const Head& head) {
  return attend(
      with_inputs(head, int8_per_block(head.query, kWarpQueries),
                  int8_per_block(smoothed(head.key), kBlockKeys), e4m3_per_channel(head.value)),
      kFp8Weights);
}

// Which rows share a scale in per-thread quantization: those whose products one thread of
// mma.m16n8k64 has. Of a warp's 32 queries every eighth one, of 64 keys two of every eight.
std::int64_t query_group(std::int64_t t) { return t / kWarpQueries * 8 + t % 8; }
std::int64_t key_group(std::int64_t t) { return t / kBlockKeys * 4 + t % 8 / 2; }

// SageAttention 2, its 4-bit form (Algorithm 1): S = gamma(Q) gamma(K)^T + delta S, where gamma
// takes the mean of all keys from K, and that of each block of queries from Q; both are INT4, and
// delta S, the mean queries times gamma(K), is not rounded.
Matrix sage2_4b(const Head& head) {
  const Matrix key = smoothed(head.key);
  Matrix query = head.query;
  Matrix delta((query.tokens + kBlockQueries - 1) / kBlockQueries, key.tokens);
  for (std::int64_t block = 0; block < delta.tokens; ++block) {
    const std::int64_t first = block * kBlockQueries;
    const std::int64_t count = std::min(kBlockQueries, query.tokens - first);
    const std::vector<double> mean = mean_of(query, first, count);
    for (std::int64_t t = first; t < first + count; ++t) {
      for (std::int64_t c = 0; c < query.dim; ++c)
        query.row(t)[c] -= mean[static_cast<std::size_t>(c)];
    }
    for (std::int64_t t = 0; t < key.tokens; ++t)
      delta.row(block)[t] = dot(mean.data(), key.row(t), key.dim);
  }
  return attend(with_inputs(head, rounded_by_group(std::move(query), kInt4, query_group),
                            rounded_by_group(key, kInt4, key_group), e4m3_per_channel(head.value)),
                kFp8Weights, &delta);
}

// SageAttention 1, kernel B: INT8 scores with a scale per block, the rest in
// floating point.
Matrix sage1_b(const Head& head) {
  return attend(with_inputs(head, int8_per_block(head.query, kBlockQueries),
                            int8_per_block(smoothed(head.key), kBlockKeys), head.value),
                {unrounded, Maximum::kRunning, Sum::kUnrounded});
}

// SageAttention 1, kernel vB: weights in steps of 1/127 and INT8 values per channel as well.
Matrix sage1_vb(const Head& head) {
  return attend(
      with_inputs(head, int8_per_block(head.query, kBlockQueries),
                  int8_per_block(smoothed(head.key), kBlockKeys), int8_per_channel(head.value)),
      {round_weight_to_127, Maximum::kRunning, Sum::kUnrounded});
}

constexpr Pipeline kPipelines[] = {
    {"Sage2-8b", "INT8 QK per block, K smoothed; e4m3 PV, V per channel", sage2_8b},
    {"Sage2-4b", "INT4 QK per thread, Q and K smoothed; e4m3 PV, V per channel", sage2_4b},
    {"Sage1-B", "INT8 QK per block, K smoothed; PV in floating point", sage1_b},
    {"Sage1-vB", "INT8 QK per block, K smoothed; P in 1/127, V per channel", sage1_vb},
};

}  // namespace

std::span<const Pipeline> sage_pipelines() { return kPipelines; }

}  // namespace intflash
