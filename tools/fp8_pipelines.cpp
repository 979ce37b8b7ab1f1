// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Pipelines in 8-bit floating point.
#include "pipeline_parts.h"

namespace intflash {
namespace {

// The FP8 baseline of INT-FlashAttention's tables: everything cast to e5m2 as it is.
Matrix fp8_e5m2(const Head& head) {
  return attend(with_inputs(head, e5m2_unscaled(head.query), e5m2_unscaled(head.key),
                            e5m2_unscaled(head.value)),
                {round_to_e5m2, Maximum::kRunning, Sum::kUnrounded});
}

// The FP8 baseline of FlashAttention-3's table: one scale per tensor, weights cast as they are.
Matrix fp8_e4m3(const Head& head) {
  return attend(with_inputs(head, e4m3_per_tensor(head.query), e4m3_per_tensor(head.key),
                            e4m3_per_tensor(head.value)),
                {round_weight_to_e4m3, Maximum::kRunning, Sum::kUnrounded});
}

// FlashAttention-3 in FP8 (arXiv 2407.08608): rotated queries and keys, a scale per block; its
// weights use all of e4m3.
Matrix fa3_fp8(const Head& head) {
  return attend(with_inputs(head, e4m3_per_block(rotated(head.query), kBlockQueries),
                            e4m3_per_block(rotated(head.key), kBlockKeys),
                            e4m3_per_block(head.value, kBlockKeys)),
                {round_scaled_weight_to_e4m3, Maximum::kRunning, Sum::kUnrounded});
}

constexpr Pipeline kPipelines[] = {
    {"FP8 e5m2", "everything cast to e5m2, no scales", fp8_e5m2},
    {"FP8 e4m3", "e4m3, one scale per tensor", fp8_e4m3},
    {"FA3-FP8", "e4m3, scales per block, Q and K rotated", fa3_fp8},
};

}  // namespace

std::span<const Pipeline> fp8_pipelines() { return kPipelines; }

}  // namespace intflash
