// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Cases x ports -> rows -> table and JSON.
#include "bench.h"

#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <regex>
#include <vector>
#include <nlohmann/json.hpp>

#include "atomic_file.h"
#include "bench_cases.h"
#include "bench_measure.h"
#include "bench_report.h"
#include "failure.h"
#include "machine.h"
#include "machine_report.h"

namespace intflash {
namespace {

// What one port is to do.
struct PortCases {
  std::string port;
  std::vector<BenchCase> cases;
};

std::regex compile_filter(const std::string& filter) {
  try {
    return std::regex(filter);
  } catch (const std::regex_error& error) {
    throw UsageError(fmt::format("--filter {}: {}", filter, error.what()));
  }
}

std::vector<std::string> chosen_ports(const BenchOptions& options) {
  if (!options.isa.empty()) return {options.isa};
  std::vector<std::string> ports;
  for (const PortStatus& port : list_ports()) {
    if (port.supported) ports.push_back(port.name);
  }
  return ports;
}

std::vector<PortCases> select_cases(const BenchOptions& options) {
  const std::regex filter = compile_filter(options.filter);
  std::vector<PortCases> selected;
  bool any = false;
  for (const std::string& port : chosen_ports(options)) {
    const BenchSize size = port == "scalar" ? BenchSize::kScalar
                           : options.quick  ? BenchSize::kQuick
                                            : BenchSize::kFull;
    PortCases entry{port, {}};
    for (const BenchCase& c : bench_cases(size, options.threads, this_machine().num_threads)) {
      if (std::regex_search(c.name, filter)) entry.cases.push_back(c);
    }
    any = any || !entry.cases.empty();
    selected.push_back(std::move(entry));
  }
  if (!any) throw UsageError(fmt::format("--filter {}: no case of that name", options.filter));
  return selected;
}

struct Results {
  std::vector<BenchRow> rows;
  int failures = 0;
};

// Port by port: what a port needs stays warm, and the clock settles where that port's instructions
// let it.
Results measure_all(const std::vector<PortCases>& selected, bool quick) {
  std::size_t steps = 0;
  for (const PortCases& entry : selected) steps += entry.cases.size();
  ProgressBar progress(steps);
  Results results;
  for (const PortCases& entry : selected) {
    BenchPort port(entry.port, quick);
    for (const BenchCase& c : entry.cases) {
      progress.begin_step(fmt::format("{} {}", entry.port, c.name));
      try {
        results.rows.push_back(port.measure(c));
        progress.clear();
        print_table_row(results.rows.back());
      } catch (const Failure& failure) {
        ++results.failures;
        progress.clear();
        fmt::print(stderr, "intflash: {}\n", failure.what());
      }
      progress.end_step();
    }
  }
  return results;
}

void write_report(AtomicFile& file, std::span<const BenchRow> rows) {
  nlohmann::ordered_json report = {{"machine", describe_machine()},
                                   {"rows", nlohmann::ordered_json::array()}};
  for (const BenchRow& row : rows) report["rows"].push_back(report_row(row));
  const std::string text = report.dump(1) + "\n";
  file.write(text.data(), text.size());
  file.commit();
}

}  // namespace

int run_bench(const BenchOptions& options) {
  const std::vector<PortCases> selected = select_cases(options);
  // Opened first: minutes of measuring must not end with a path that cannot be written.
  std::unique_ptr<AtomicFile> file;
  if (!options.json.empty()) file = std::make_unique<AtomicFile>(options.json);
  print_table_head();
  const Results results = measure_all(selected, options.quick);
  print_ratios(results.rows);
  if (file) write_report(*file, results.rows);
  return results.failures == 0 ? 0 : 1;
}

}  // namespace intflash
