// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// How evenly a schedule keeps its workers busy, by the model of costs that it was cut by.
#pragma once

#include <cstdint>

#include "engine/schedule.h"
#include "machine/numa.h"

namespace intflash {

struct Balance {
  double busiest_over_mean;  // of the workers' items; 1 where there is nothing to do
  double merge_share;        // what merges cost, of all
};

// Items go, in their order, to whoever is free first; every stage waits for the one before it.
Balance balance_of(const internal::Schedule& schedule);

// The share of the keys that items read which lie on the node of the worker that reads them, where
// workers are dealt out to the nodes as a pool's threads are, and pages lie as those of new
// sequences in a cache by node do. Workers take tasks as a run hands them out, and 0.9 to 1.1 times
// as long for each as it costs, wherever its keys lie.
double local_share(const internal::Schedule& schedule, const internal::NumaNodes& nodes);

}  // namespace intflash
