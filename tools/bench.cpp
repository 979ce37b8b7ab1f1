// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Cases x ports -> rows -> table and JSON.
#include "bench.h"

#include <fmt/format.h>

#include <cstdio>
#include <functional>
#include <memory>
#include <regex>
#include <vector>
#include <nlohmann/json.hpp>

#include "atomic_file.h"
#include "attention_inputs.h"
#include "bench_cases.h"
#include "bench_measure.h"
#include "bench_report.h"
#include "failure.h"
#include "machine/machine.h"
#include "machine_report.h"
#include "serving_bench.h"

namespace intflash {
namespace {

struct Step {
  std::string name;
  std::function<BenchRow(BenchPort&)> measure;
};

// What one port is to do.
struct PortCases {
  std::string port;
  std::vector<Step> steps;
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

// inputs: captured ones, or nullptr.
std::vector<Step> steps_of(const std::string& port, const BenchOptions& options,
                           const std::shared_ptr<const AttentionInputs>& inputs) {
  const int max_threads = internal::this_machine().num_threads;
  std::vector<Step> steps;
  if (options.suite == "dense") {
    const BenchSize size = port == "scalar" ? BenchSize::kScalar
                           : options.quick  ? BenchSize::kQuick
                                            : BenchSize::kFull;
    for (const BenchCase& c : inputs != nullptr
                                  ? captured_cases(inputs, options.causal, options.threads)
                                  : bench_cases(size, options.threads, max_threads))
      steps.push_back({c.name, [c](BenchPort& bench) { return bench.measure(c); }});
    return steps;
  }
  if (port == "scalar" && options.isa.empty()) return steps;  // nobody serves with it
  for (const std::string& name :
       serving_cases(options.suite, options.codec, options.quick, options.threads, max_threads)) {
    steps.push_back({name, [name, port, quick = options.quick](BenchPort&) {
                       return measure_serving(name, port, quick);
                     }});
  }
  return steps;
}

std::vector<PortCases> select_cases(const BenchOptions& options) {
  const std::regex filter = compile_filter(options.filter);
  std::shared_ptr<const AttentionInputs> inputs;
  if (!options.query.empty()) {
    if (options.suite != "dense")
      throw UsageError(fmt::format("--query: of the suite dense alone, not of {}", options.suite));
    inputs = std::make_shared<AttentionInputs>(
        read_attention_inputs(options.query, options.key, options.value));
  }
  if (options.suite == "dense" && options.codec != "int8")
    throw UsageError("--codec: of caches, not of the suite dense");
  std::vector<PortCases> selected;
  bool any = false;
  for (const std::string& port : chosen_ports(options)) {
    PortCases entry{port, {}};
    for (Step& step : steps_of(port, options, inputs)) {
      if (std::regex_search(step.name, filter)) entry.steps.push_back(std::move(step));
    }
    any = any || !entry.steps.empty();
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
  for (const PortCases& entry : selected) steps += entry.steps.size();
  ProgressBar progress(steps);
  Results results;
  for (const PortCases& entry : selected) {
    BenchPort port(entry.port, quick);
    for (const Step& step : entry.steps) {
      progress.begin_step(fmt::format("{} {}", entry.port, step.name));
      try {
        results.rows.push_back(step.measure(port));
        progress.clear();
        print_table_row(results.rows.back());
      } catch (const std::runtime_error& failure) {
        ++results.failures;
        progress.clear();
        std::fprintf(stderr, "intflash: %s\n", failure.what());
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
