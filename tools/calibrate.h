// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// `intflash calibrate`: what a cache for a model should be like, by samples of a layer from files:
// its centres, as means of keys and values, and whether its keys should have second digits; or, of
// some layers, which codec each of them should have.
#pragma once

#include <string>

namespace intflash {

struct CalibrateOptions {
  std::string key, value;                // paths of .npy files
  std::string query;                     // for second digits; "" = not asked for
  std::string key_center, value_center;  // to be written, both or "": [heads, dim] in float32;
                                         // not with budget
  bool causal = false;
  float softmax_scale = 0;  // 0 = 1 / sqrt(head_dim)
  bool json = false;
  double budget = 0;     // bytes per token and kv head, in the mean of layers; 0 = choose no codecs
  bool by_head = false;  // with budget: a codec for each kv head
  bool centers = false;  // with budget: caches have centres, which go into out
  std::string layers;    // with budget: numbers that stand for {} in the inputs' paths; "" = one
  std::string out;       // with budget: the file that programs load, "" = not written
  std::string picture;   // the same as SVG
};

// The exit code; failures are thrown.
int run_calibrate(const CalibrateOptions& options);

}  // namespace intflash
