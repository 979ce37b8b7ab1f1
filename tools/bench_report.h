// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// How the bench shows what it measures: a table, a progress bar, ratios between rows, JSON.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <nlohmann/json.hpp>

#include "bench_measure.h"

namespace intflash {

void print_table_head();
void print_table_row(const BenchRow& row);

// What the shares depend on, port by port: causal beside full, long beside short, whole calls
// beside the kernel, two threads beside one. Ratios whose rows were not measured are left out.
void print_ratios(std::span<const BenchRow> rows);

nlohmann::ordered_json report_row(const BenchRow& row);

// A bar on stderr; nothing where that is not a terminal.
class ProgressBar {
 public:
  explicit ProgressBar(std::size_t steps);
  ~ProgressBar() { clear(); }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void begin_step(const std::string& name);  // shows the bar
  void clear();                              // makes room for other output
  void end_step() { ++done_; }

 private:
  bool is_terminal_;
  std::size_t steps_;
  std::size_t done_ = 0;
};

}  // namespace intflash
