// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// `intflash bench`: speed beside the machine's limit, measured in the same run.
#pragma once

#include <string>

namespace intflash {

struct BenchOptions {
  std::string suite = "dense";  // or decode, append, batch
  bool quick = false;
  std::string filter;          // regular expression that a case's name must contain; "" = all cases
  std::string isa;             // a port's name; "" = every port that runs here
  int threads = 0;             // of every case; 0 = one thread, and some cases with two as well
  std::string codec = "int8";  // of the caches of decode, append, and chunks of batch
  std::string json;            // path of a report; "" = none
  // Paths of .npy files, all or none: they alone are timed, beside random tensors of their shapes.
  std::string query, key, value;
  bool causal = false;
};

// The exit code: 1 where a case gave a wrong answer. Other failures are thrown.
int run_bench(const BenchOptions& options);

}  // namespace intflash
