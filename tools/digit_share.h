// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// How many of a query head's scores take second digits of Q and K by default: the library's own
// rule, over the scales that quantizing gives.
#pragma once

#include <cstdint>

#include "attention_inputs.h"
#include "call.h"

namespace intflash {

// Of the scores that the head's rows see, in all batches; 0 where they see none.
double digit_share(const Context& context, const intflash_attend_desc& desc,
                   const AttentionInputs& inputs, std::int64_t query_head);

}  // namespace intflash
