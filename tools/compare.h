// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// `intflash compare`: the error of every mode, and of published pipelines simulated here, side by
// side.
#pragma once

#include <string>

namespace intflash {

struct CompareOptions {
  std::string query, key, value;  // paths of .npy files
  std::string random;             // in place of files: normal, uniform or student-t
  bool causal = false;
  bool json = false;
  std::string picture;      // of the report, "" = not written
  float softmax_scale = 0;  // 0 = 1 / sqrt(head_dim)
};

// The table for arrays from files, or for random ones, fewer of them if quick. The exit code;
// failures are thrown.
int run_compare(const CompareOptions& options, bool quick);

// The library's error by part and by head, likewise.
int run_compare_report(const CompareOptions& options);

// What numbers of 4 to 16 bits keep of queries, keys and values, and of attention: for random
// inputs of some distributions, fewer of them if quick, and for the arrays from files where there
// are any. Likewise.
int run_compare_formats(const CompareOptions& options, bool quick);

// The table for synthetic inputs of several lengths, with the error that mode int8 is to reach.
// quick: only the rows that have a goal to reach. The exit code: 1 when one is missed; failures are
// thrown.
int run_compare_synthetic(bool json, bool quick);

}  // namespace intflash
