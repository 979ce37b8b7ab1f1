// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Measures each port's integer peak and the memory's read rate, and prints them beside what was
// detected.
#include "info.h"

#include <fmt/format.h>

#include <string>
#include <vector>
#include <nlohmann/json.hpp>

#include "call.h"
#include "context/ports.h"
#include "failure.h"
#include "machine/machine.h"
#include "machine_report.h"
#include "peaks.h"
#include "stopwatch.h"

namespace intflash {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kSamples = 7;
constexpr double kPeakSeconds = 0.02;
constexpr double kGiga = 1e9;

template <class Sample>
double median_of_samples(const Sample& sample) {
  std::vector<double> samples;
  for (int i = 0; i < kSamples; ++i) samples.push_back(sample());
  return median(samples);
}

double measure_peak(const char* port, int threads) {
  IntegerPeak peak(*internal::find_kernels(port), threads, kPeakSeconds);
  return median_of_samples([&] { return peak.measure(); }) / kGiga;
}

Json measure_reading(std::size_t bytes, int threads) {
  MemoryRate memory(bytes);
  Json result = {{"bytes", memory.bytes()},
                 {"gbps_1_thread", median_of_samples([&] { return memory.read(1); }) / kGiga}};
  if (threads > 1) {
    result["gbps_all_threads"] = median_of_samples([&] { return memory.read(threads); }) / kGiga;
  }
  return result;
}

// Which port runs by default. A wrong INTFLASH_ISA is something to be told here, not a failure.
void add_choice(Json& report) {
  try {
    const Context context = create_context(0, "");
    report["chosen"] = context.port();
    report["chosen_reason"] = context.port_reason();
  } catch (const std::runtime_error& failure) {
    report["chosen"] = nullptr;
    report["chosen_reason"] = failure.what();
  }
}

Json make_report() {
  Json report = describe_machine();
  add_choice(report);
  const int threads = internal::this_machine().num_threads;
  for (Json& port : report["ports"]) {
    if (!port["supported"]) continue;
    const std::string name = port["name"];
    port["peak_gops_1_thread"] = measure_peak(name.c_str(), 1);
    if (threads > 1) port["peak_gops_all_threads"] = measure_peak(name.c_str(), threads);
  }
  if (internal::this_machine().l3_bytes > 0)
    report["read_l3"] = measure_reading(l3_test_bytes(), threads);
  report["read_dram"] = measure_reading(dram_test_bytes(), threads);
  return report;
}

std::string bytes_text(std::int64_t bytes) {
  if (bytes <= 0) return "unknown";
  if (bytes < (std::int64_t{1} << 20)) return fmt::format("{} KiB", bytes >> 10);
  return fmt::format("{:.4g} MiB", static_cast<double>(bytes) / (1 << 20));
}

void print_ports(const Json& report, int threads) {
  fmt::print("\n{:<14}{:<9}{:>16}{:>16}\n", "port", "runs", "peak, 1 thread",
             threads > 1 ? fmt::format("{} threads", threads) : "");
  for (const Json& port : report["ports"]) {
    const std::string name = port["name"];
    if (!port["supported"]) {
      fmt::print("{:<14}{:<9}{}\n", name, "no", port["reason"].get<std::string>());
      continue;
    }
    fmt::print("{:<14}{:<9}{:>10.0f} GOP/s", name, report["chosen"] == name ? "chosen" : "yes",
               port["peak_gops_1_thread"].get<double>());
    if (threads > 1) fmt::print("{:>10.0f} GOP/s", port["peak_gops_all_threads"].get<double>());
    fmt::print("\n");
  }
  const std::string reason = report["chosen_reason"];
  if (!reason.empty()) fmt::print("{}\n", reason);
}

// The CPU is what the ports above are of.
void print_devices(const Json& report) {
  for (const Json& device : report["devices"]) {
    const std::string name = device["name"];
    if (name == "cpu") continue;
    const bool available = device["available"];
    fmt::print("{:<14}{:<9}{}\n", name, available ? "yes" : "no",
               device[available ? "description" : "reason"].get<std::string>());
  }
}

void print_reading(const Json& report, const char* key, const char* name, int threads) {
  if (!report.contains(key)) return;
  const Json& rate = report[key];
  fmt::print("{:<14}{:>9}{:>11.1f} GB/s", name, bytes_text(rate["bytes"]),
             rate["gbps_1_thread"].get<double>());
  if (threads > 1) fmt::print("{:>11.1f} GB/s", rate["gbps_all_threads"].get<double>());
  fmt::print("\n");
}

void print_text(const Json& report) {
  const internal::Machine& machine = internal::this_machine();
  const auto text = [&](const char* key) { return report[key].get<std::string>(); };
  fmt::print("intflash {}, {}\n", text("version"), text("compiler"));
  fmt::print("{}: {} cores, {} threads\n", text("cpu"), machine.num_cores, machine.num_threads);
  for (const NodeCpus& node : list_numa_nodes())
    fmt::print("NUMA node {}: CPUs {}\n", node.id, node.cpus);
  fmt::print("L1 {} and L2 {} per core, L3 {} for {} threads\n", bytes_text(machine.l1_bytes),
             bytes_text(machine.l2_bytes), bytes_text(machine.l3_bytes), machine.l3_sharers);
  print_ports(report, machine.num_threads);
  fmt::print("\n{:<14}{}\n", "device", "runs");
  print_devices(report);
  fmt::print("\n{:<14}{:>9}\n", "reading", "buffer");
  print_reading(report, "read_l3", "L3", machine.num_threads);
  print_reading(report, "read_dram", "memory", machine.num_threads);
}

}  // namespace

int run_info(bool json) {
  const Json report = make_report();
  if (json) {
    fmt::print("{}\n", report.dump(2));
  } else {
    print_text(report);
  }
  return 0;
}

}  // namespace intflash
