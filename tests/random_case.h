// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Cases of any size, magnitudes, masks and options, by chance: what random_bounds tries.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attention_case.h"
#include "random.h"

namespace intflash::internal {

struct RandomCase {
  AttentionCase attention;
  Memory memory;
  CaseTensors tensors;
  std::vector<std::string> changes;  // what was done to the tensors of the case
};

// A case small enough for a thousand of them in a second.
void make_random_case(Random& random, RandomCase& made);

// One that a batch over a cache may take, and another request of the same batch: of other lengths,
// masks and magnitudes.
void make_random_request(Random& random, RandomCase& made);
void make_random_request_beside(const RandomCase& first, Random& random, RandomCase& made);

}  // namespace intflash::internal
