// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What `intflash compare` computes on arrays from files: by the library, or by a function of a
// head.
#pragma once

#include <string>
#include <vector>

#include "attention_inputs.h"
#include "call.h"
#include "compare.h"
#include "pipelines.h"

namespace intflash {

// Four heads of 64 queries and 4096 keys, if quick of 8 and 256, head_dim 128: normal, uniform or
// student-t.
AttentionInputs random_inputs(const std::string& distribution, bool quick);

// The library's default for these inputs.
intflash_attend_desc compare_desc(const CompareOptions& options, const AttentionInputs& inputs);

// The library's out: [batch][heads][query_len][head_dim_v].
std::vector<float> run_library(const Context& context, const intflash_attend_desc& desc,
                               const AttentionInputs& inputs);

// Query head h of batch b, with the keys and values that it reads.
Head head_of(const AttentionInputs& inputs, const intflash_attend_desc& desc, std::int64_t b,
             std::int64_t h);

// What attend makes of every head of every batch, in the order of out; f32 as the library's own
// outputs are.
std::vector<float> attend_heads(Matrix (*attend)(const Head&), const AttentionInputs& inputs,
                                const intflash_attend_desc& desc);

}  // namespace intflash
