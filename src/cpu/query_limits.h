// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// How coarse the units of a dense call's queries may be (unit_limit), found before keys are packed:
// their second digits are left out where no query takes any.
#pragma once

#include <cstdint>
#include <limits>

#include "cpu/dense_run.h"
#include "inputs/problem.h"

namespace intflash::internal {

// Of queries that are not known, or not looked at.
constexpr float kNoQueryLimit = std::numeric_limits<float>::infinity();

// How many of a kv head's are found, each of up to kMaxTileRows queries; 0: none are, for it is not
// worth it.
std::int64_t limits_per_head(const Problem& problem);
// Finds one of all heads'.
void limit_queries(const DenseRun& run, const Worker& worker, std::int64_t index);
// The largest of those of a head (b * num_kv_heads + h).
float query_limit(const DenseRun& run, std::int64_t head);

}  // namespace intflash::internal
