// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Half-INT8, and pipelines like the library's that were weighed.
#include "pipeline_parts.h"

namespace intflash {
namespace {

// INT-FlashAttention's half-INT8: INT8 scores with a scale per token, the rest in floating point.
Matrix half_int8(const Head& head) {
  return attend(with_inputs(head, int8_per_token(head.query), int8_per_token(head.key), head.value),
                {unrounded, Maximum::kRunning, Sum::kUnrounded});
}

// All integer, with the weights rounded against their own block's maximum: A, with 255 levels; A7,
// with 127, which AVX2's saturating multiply-add asks for; B, A on rotated queries and keys.
Matrix block_max_a(const Head& head) {
  return attend(with_inputs(head, int8_per_token(head.query), int8_per_token(smoothed(head.key)),
                            int8_per_block_and_channel(head.value)),
                {round_weight_to_255, Maximum::kOfBlock, Sum::kRounded});
}

Matrix block_max_a7(const Head& head) {
  return attend(with_inputs(head, int8_per_token(head.query), int8_per_token(smoothed(head.key)),
                            int8_per_block_and_channel(head.value)),
                {round_weight_to_127, Maximum::kOfBlock, Sum::kRounded});
}

Matrix block_max_b(const Head& head) {
  return block_max_a(with_inputs(head, rotated(head.query), rotated(head.key), head.value));
}

constexpr Pipeline kPipelines[] = {
    {"half-INT8", "INT8 QK per token; PV in floating point", half_int8},
    {"A", "INT8 per token, K smoothed; P in 1/255 of its block's maximum, V per block and channel",
     block_max_a},
    {"A7", "A with P in 1/127", block_max_a7},
    {"B", "A with Q and K rotated", block_max_b},
};

}  // namespace

std::span<const Pipeline> integer_pipelines() { return kPipelines; }

}  // namespace intflash
