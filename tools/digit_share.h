// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// How many of each query head's scores take second digits of Q and K by default: the library's own
// rule, over the scales that quantizing gives.
#pragma once

#include <vector>

#include "attention_inputs.h"
#include "call.h"

namespace intflash {

// [query heads]: of the scores that a head's rows see, in all batches; 0 where they see none.
std::vector<double> digit_shares(const Context& context, const intflash_attend_desc& desc,
                                 const AttentionInputs& inputs);

}  // namespace intflash
