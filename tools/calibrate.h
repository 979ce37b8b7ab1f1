// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// `intflash calibrate`: the centres of a cache, as means of sample keys and values from files.
#pragma once

#include <string>

namespace intflash {

struct CalibrateOptions {
  std::string key, value;                // paths of .npy files
  std::string key_center, value_center;  // the same, to be written: [heads, dim] in float32
};

// The exit code; failures are thrown.
int run_calibrate(const CalibrateOptions& options);

}  // namespace intflash
