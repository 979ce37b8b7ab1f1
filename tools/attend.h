// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// `intflash attend`: one attention call on arrays from files, timed and, on request, checked.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "score_inputs.h"

namespace intflash {

struct AttendOptions {
  std::string query, key, value;  // paths of .npy files
  std::string out, lse;           // "" = not written
  bool causal = false;
  std::string mask = "none";               // none, causal or causal-top-left
  std::optional<std::int64_t> window;      // keys before the query that stay visible
  std::optional<std::int64_t> prefix_len;  // keys that every query sees, besides the causal ones
  ScoreOptions scores;
  std::string mode = "int8";  // int8, exact, intfa or int8_qk
  float softmax_scale = 0;    // 0 = 1 / sqrt(head_dim)
  float score_cap = 0;        // 0 = none
  std::string center;         // none, k, kv; "" = none
  bool rotate = true;
  std::int32_t score_digits = 0;
  int threads = 0;     // 0 = the library's default
  std::string isa;     // "" = the library's choice
  bool check = false;  // compare with mode exact
  bool json = false;
};

// The exit code; failures are thrown.
int run_attend(const AttendOptions& options);

}  // namespace intflash
