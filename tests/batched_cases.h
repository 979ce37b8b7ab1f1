// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Cases as the requests of one batch over a cache of sequences.
#pragma once

#include <string>
#include <vector>

#include "attention_case.h"
#include "random.h"

namespace intflash::internal {

// A case of batch 1, and what the batch made of it.
struct BatchedCase {
  const AttentionCase* attention;
  const CaseTensors* tensors;
  Numbers found;
};

struct BatchOutcome {
  intflash_status status;
  std::string error;  // of a call that failed
};

// Appends the keys of each case in random pieces, and attends all. The cases differ in lengths,
// masks, softmax scales and data alone.
BatchOutcome run_as_batch(std::vector<BatchedCase>& cases, const PortEntry& port, Random& random);

}  // namespace intflash::internal
