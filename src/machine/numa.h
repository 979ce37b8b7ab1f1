// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// NUMA nodes: which CPUs are nearest to which memory, and how things are dealt out to them.
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>

namespace intflash::internal {

constexpr std::size_t kMaxCpus = 8192;  // the most that Linux can be built for
using CpuSet = std::bitset<kMaxCpus>;

struct NumaNode {
  std::int32_t id;  // the system's number
  CpuSet cpus;
};

constexpr std::int32_t kMaxNumaNodes = 16;

// Nodes with CPUs; each CPU is of one of them at most.
struct NumaNodes {
  std::int32_t count = 0;
  NumaNode nodes[kMaxNumaNodes];

  // Adds the CPUs that no node has yet; none, no node: memory without CPUs, or a second kind of
  // memory beside the same ones. The last node takes in those for which there is no room.
  void add(std::int32_t id, CpuSet cpus) noexcept;

  // The nodes that have some of these CPUs, with these alone. None where one has no node.
  NumaNodes among(const CpuSet& cpus) const noexcept;

  // By index: the node that has a CPU, and the one of the system's number; -1: none.
  std::int32_t of_cpu(std::int32_t cpu) const noexcept;
  std::int32_t find(std::int32_t id) const noexcept;

  // Which one gets thing `index` of those that are dealt out in turn, so many to each as it has
  // CPUs.
  std::int32_t deal(std::int64_t index) const noexcept;
};

}  // namespace intflash::internal
