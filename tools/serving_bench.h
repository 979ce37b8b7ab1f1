// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// `intflash bench decode|append|batch`: what a server does over a KV cache, beside the rate at
// which memory can be read or copied, or beside the batch's own parts.
#pragma once

#include <string>
#include <vector>

#include "bench_measure.h"

namespace intflash {

// The names of a suite's cases; empty for a suite that is not one of these.
// Of another codec than int8 fewer of batch. Throws UsageError where there is no such codec.
std::vector<std::string> serving_cases(const std::string& suite, const std::string& codec,
                                       bool quick, int threads, int max_threads);

// Times a case by turns with its limit. Throws Failure where the library refuses.
BenchRow measure_serving(const std::string& name, const std::string& port, bool quick);

}  // namespace intflash
