// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What acts on the scores beside query and key: an additive mask, attention sinks, ALiBi's slopes.
#pragma once

#include <string>
#include <vector>

#include "attention_inputs.h"
#include "intflash/intflash.h"
#include "npy.h"

namespace intflash {

struct ScoreOptions {
  std::string additive_mask, sinks, alibi_slopes;  // paths of .npy files; "" = none
  bool alibi = false;  // slopes 2^(-8 (head + 1) / heads): arXiv 2108.12409 section 3
};

struct ScoreInputs {
  NpyArray additive_mask;
  intflash_additive_mask mask_layout = {};  // its dtype and strides
  std::vector<float> sinks;
  std::vector<float> alibi_slopes;

  void add_to(intflash_attend_args& args) const;
};

// Throws Failure naming the file: unreadable, or of a shape that does not fit the inputs'.
ScoreInputs read_score_inputs(const ScoreOptions& options, const AttentionInputs& inputs);

}  // namespace intflash
