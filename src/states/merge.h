// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// From a row's final state to its log-sum-exp; and the merge of normalised states.
#pragma once

namespace intflash::internal {

// Natural log of the sum of weights that a state holds, plus term (what centring took from every
// score, in natural units); -infinity for a row that saw no key. The same bits on every machine: no
// library function is called.
float log_sum_exp(float reference, float row_sum, double term);

}  // namespace intflash::internal
