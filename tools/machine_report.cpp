// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Gathers what machine.h, cpu_features.h and the build know.
#include "machine_report.h"

#include <fmt/format.h>

#include <string_view>

#include "call.h"
#include "failure.h"
#include "machine/cpu_features.h"
#include "machine/machine.h"

#ifndef INTFLASH_GIT_HASH
#define INTFLASH_GIT_HASH ""
#endif

namespace intflash {
namespace {

constexpr std::string_view kGitHash{INTFLASH_GIT_HASH};  // empty where the build does not know it

std::string compiler_name() {
#if defined(__clang__)
  return __VERSION__;  // begins with "Clang" or the vendor's name
#else
  return "GCC " __VERSION__;
#endif
}

std::string cpu_name() {
  const std::string name = internal::this_cpu().model_name;
  return name.empty() ? "unknown" : name;
}

// "0-3,8", the form of sysfs.
std::string cpu_list(const internal::CpuSet& cpus) {
  std::vector<std::string> runs;
  for (std::size_t cpu = 0; cpu < internal::kMaxCpus; ++cpu) {
    if (!cpus[cpu]) continue;
    const std::size_t first = cpu;
    while (cpu + 1 < internal::kMaxCpus && cpus[cpu + 1]) ++cpu;
    runs.push_back(cpu == first ? fmt::format("{}", cpu) : fmt::format("{}-{}", first, cpu));
  }
  return fmt::format("{}", fmt::join(runs, ","));
}

}  // namespace

std::vector<NodeCpus> list_numa_nodes() {
  const internal::NumaNodes ours =
      internal::this_machine().nodes.among(internal::this_threads_cpus());
  std::vector<NodeCpus> nodes;
  for (std::int32_t i = 0; i < ours.count; ++i)
    nodes.push_back({ours.nodes[i].id, cpu_list(ours.nodes[i].cpus)});
  return nodes;
}

std::vector<PortStatus> list_ports() {
  std::vector<PortStatus> ports;
  for (std::int32_t i = 0; i < intflash_num_ports(); ++i) {
    intflash_port_info info = {};
    info.struct_size = sizeof info;
    check(intflash_get_port(i, &info));
    ports.push_back({info.name, info.built != 0, info.supported != 0, info.reason});
  }
  return ports;
}

void require_port_name(const std::string& name) {
  std::vector<std::string> names;
  for (const PortStatus& port : list_ports()) {
    if (port.name == name) return;
    names.push_back(port.name);
  }
  throw UsageError(
      fmt::format("--isa {}: no such port; there are {}", name, fmt::join(names, ", ")));
}

nlohmann::ordered_json describe_machine() {
  const internal::Machine& machine = internal::this_machine();
  nlohmann::ordered_json report = {
      {"cpu", cpu_name()},
      {"cores", machine.num_cores},
      {"threads", machine.num_threads},
      {"l1_bytes", machine.l1_bytes},
      {"l2_bytes", machine.l2_bytes},
      {"l3_bytes", machine.l3_bytes},
      {"l3_sharers", machine.l3_sharers},
  };
  report["numa_nodes"] = nlohmann::ordered_json::array();
  for (const NodeCpus& node : list_numa_nodes())
    report["numa_nodes"].push_back({{"node", node.id}, {"cpus", node.cpus}});
  report["ports"] = nlohmann::ordered_json::array();
  for (const PortStatus& port : list_ports()) {
    report["ports"].push_back({{"name", port.name},
                               {"built", port.built},
                               {"supported", port.supported},
                               {"reason", port.reason}});
  }
  report["devices"] = nlohmann::ordered_json::array();
  for (std::int32_t i = 0; i < intflash_num_devices(); ++i) {
    intflash_device_info device = {};
    device.struct_size = sizeof device;
    check(intflash_get_device(i, &device));
    report["devices"].push_back({{"name", device.name},
                                 {"description", device.description},
                                 {"available", device.available != 0},
                                 {"reason", device.reason}});
  }
  report["version"] = intflash_version();
  report["compiler"] = compiler_name();
  if (!kGitHash.empty()) report["git"] = kGitHash;
  return report;
}

}  // namespace intflash
