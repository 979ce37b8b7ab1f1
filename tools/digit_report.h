// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Which query heads of a layer need second digits of Q and K: how many of their scores take them,
// and what one digit alone costs.
#pragma once

#include <cstdint>
#include <vector>
#include <nlohmann/json.hpp>

#include "attention_inputs.h"
#include "call.h"

namespace intflash {

struct HeadDigits {
  double share;                 // of the scores that rows see: those with second digits by default
  double one, as_needed, both;  // relative L1 of out by score_digits = 1, 0 and 2

  // One digit alone errs by more than 2 %, and second ones at least halve that: half as much
  // memory again is a high price for less.
  bool needs_digits() const { return one > 0.02 && one > 2 * as_needed; }
};

struct DigitReport {
  std::int64_t sampled_rows;  // of each head of each batch, for the errors
  std::vector<HeadDigits> heads;

  bool needs_digits() const;  // of some head
  bool takes_digits() const;
};

DigitReport make_digit_report(const Context& context, const intflash_attend_desc& desc,
                              const AttentionInputs& inputs);

void print_digits(const DigitReport& report);
nlohmann::ordered_json digits_json(const DigitReport& report);

}  // namespace intflash
