// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Measures one case of the bench: checks its answer, then times it and its limit by turns.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bench_cases.h"
#include "call.h"
#include "peaks.h"

namespace intflash {

struct BenchRow {
  std::string name;
  std::string port;
  std::string kernel;  // what ran, as the plan says
  std::string mode;
  int threads = 0;
  double seconds = 0;  // of one call
  std::optional<double>
      gops;  // useful operations per second in 10^9; empty where bytes are what counts
  std::optional<double> gbps;
  double limit =
      0;  // in the unit of gops or gbps: what the machine does at most, measured between the calls
  double share = 0;  // of the limit
  // The same from the shortest call and the highest limit: what other programs disturb least.
  double best_seconds = 0;
  double best_limit = 0;
  double best_share = 0;
  // Of short calls: seconds beyond what the same operations take in a long one. Of whole calls that
  // is quantizing and packing as well.
  std::optional<double> overhead_seconds;
  std::size_t workspace_bytes = 0;
  std::optional<double> times_int8;       // how many times as fast as over a cache of codec int8
  std::optional<double> huge_page_share;  // of the memory of the caches that are read
  double rel_l1 = 0;                      // relative L1 error of the rows that were checked
};

// What each turn measured.
struct Turns {
  std::vector<double> seconds;  // of one call
  std::vector<double> limit;
  std::vector<double> long_call_seconds;  // what the operations take in a long call; 0 if not asked
};

// Takes turns: the limit, the long call, so many calls as make a sample, the limit, ...
Turns time_by_turns(const std::function<void()>& call, const std::function<double()>& limit,
                    const std::function<double()>& long_call_seconds, bool quick);

class PreparedCase;

// Measures cases on one port; keeps what several of them need.
class BenchPort {
 public:
  BenchPort(std::string name, bool quick);
  ~BenchPort();

  // Throws Failure where the library refuses or the answer is wrong.
  BenchRow measure(const BenchCase& c);

 private:
  const Context& context(int threads);
  IntegerPeak& integer_peak(int threads);
  // Seconds that so many operations take in a call so long that nothing else counts.
  double long_call_seconds(double operations);

  std::string name_;
  bool quick_;
  std::map<int, Context> contexts_;  // by number of threads
  std::map<int, std::unique_ptr<IntegerPeak>> peaks_;
  std::unique_ptr<PreparedCase> long_call_;
};

}  // namespace intflash
