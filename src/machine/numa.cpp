// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "machine/numa.h"

namespace intflash::internal {

void NumaNodes::add(std::int32_t id, CpuSet cpus) noexcept {
  for (std::int32_t i = 0; i < count; ++i) cpus &= ~nodes[i].cpus;
  if (cpus.none()) return;
  if (count == kMaxNumaNodes) {
    nodes[count - 1].cpus |= cpus;
  } else {
    nodes[count++] = {id, cpus};
  }
}

NumaNodes NumaNodes::among(const CpuSet& cpus) const noexcept {
  NumaNodes some;
  CpuSet found;
  for (std::int32_t i = 0; i < count; ++i) {
    some.add(nodes[i].id, nodes[i].cpus & cpus);
    found |= nodes[i].cpus & cpus;
  }
  return found == cpus ? some : NumaNodes{};
}

std::int32_t NumaNodes::of_cpu(std::int32_t cpu) const noexcept {
  if (cpu < 0 || cpu >= static_cast<std::int32_t>(kMaxCpus)) return -1;
  for (std::int32_t i = 0; i < count; ++i) {
    if (nodes[i].cpus[static_cast<std::size_t>(cpu)]) return i;
  }
  return -1;
}

std::int32_t NumaNodes::find(std::int32_t id) const noexcept {
  for (std::int32_t i = 0; i < count; ++i) {
    if (nodes[i].id == id) return i;
  }
  return -1;
}

std::int32_t NumaNodes::deal(std::int64_t index) const noexcept {
  std::int64_t cpus[kMaxNumaNodes];
  std::int64_t dealt[kMaxNumaNodes] = {};
  std::int64_t all = 0;
  for (std::int32_t i = 0; i < count; ++i)
    all += cpus[i] = static_cast<std::int64_t>(nodes[i].cpus.count());
  std::int32_t next = 0;
  for (std::int64_t left = count > 1 ? index % all : -1; left >= 0; --left) {
    // The one that has the fewest for each of its CPUs, the new one counted.
    next = 0;
    for (std::int32_t i = 1; i < count; ++i) {
      if ((dealt[i] + 1) * cpus[next] < (dealt[next] + 1) * cpus[i]) next = i;
    }
    ++dealt[next];
  }
  return next;
}

}  // namespace intflash::internal
