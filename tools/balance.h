// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// How evenly a schedule keeps its workers busy, by the model of costs that it was cut by.
#pragma once

#include <cstdint>

#include "engine/schedule.h"

namespace intflash {

struct Balance {
  double busiest_over_mean;  // of the workers' items; 1 where there is nothing to do
  double merge_share;        // what merges cost, of all
};

// Items go, in their order, to whoever is free first; every stage waits for the one before it.
Balance balance_of(const internal::Schedule& schedule);

}  // namespace intflash
