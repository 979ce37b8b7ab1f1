// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What a figure was measured on: CPU, caches, cores, ports, compiler; the head of info's and
// bench's reports.
#pragma once

#include <string>
#include <vector>
#include <nlohmann/json.hpp>

namespace intflash {

struct PortStatus {
  std::string name;
  bool built;
  bool supported;
  std::string reason;  // why it cannot run; "" where it can
};

// Every port that this version knows, best first.
std::vector<PortStatus> list_ports();

struct NodeCpus {
  std::int32_t id;   // the system's number of a NUMA node
  std::string cpus;  // of it that this thread may run on, such as "0-3,8"
};
std::vector<NodeCpus> list_numa_nodes();

// Throws UsageError, which lists the names, unless name is that of a port.
void require_port_name(const std::string& name);

// The keys cpu, cores, threads, numa_nodes, l1_bytes, l2_bytes, l3_bytes, ports, version, compiler
// and, where the build knows it, git.
nlohmann::ordered_json describe_machine();

}  // namespace intflash
