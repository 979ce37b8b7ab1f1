// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What this process runs on: cache sizes, cores, NUMA nodes, and how many threads it may use.
#pragma once

#include <cstdint>
#include <string_view>

#include "machine/numa.h"

namespace intflash::internal {

struct Machine {
  std::int64_t l1_bytes = 0;  // data cache of one core
  std::int64_t l2_bytes = 0;
  std::int64_t l3_bytes = 0;     // 0: none known
  std::int32_t l3_sharers = 0;   // logical CPUs that share one L3, this process's or not
  std::int32_t num_cores = 0;    // physical cores that this process may run on
  std::int32_t num_threads = 0;  // default_num_threads of its affinity
  NumaNodes nodes;               // with all their CPUs, this process's or not
};

// Detected once, at the first call.
const Machine& this_machine() noexcept;

// The CPUs that the calling thread may run on now.
CpuSet this_threads_cpus() noexcept;

// The CPU that it is on; -1 where the system does not say.
std::int32_t current_cpu() noexcept;

// Lets the calling thread run on these, as far as the system allows it.
void bind_this_thread(const CpuSet& cpus) noexcept;

// How many threads suit these CPUs: one for each physical core, but no more than the cgroup's CPU
// quota pays for.
std::int32_t default_num_threads(const CpuSet& cpus) noexcept;

// ---- The pieces, for tests. A root of "" is this system; a test gives a directory of its own.
// ----

// "48K" -> 49152; K, M and G are known. 0 where the text is no size.
std::int64_t parse_size(std::string_view text) noexcept;

// "0-3,8" -> {0, 1, 2, 3, 8}, the form of sysfs. Stops at what it cannot read.
CpuSet parse_cpu_list(std::string_view text) noexcept;

// The path of a process's group in the text of /proc/self/cgroup: of the version 1 hierarchy that
// has this controller, or, for "", of version 2. Empty where there is none.
std::string_view find_cgroup(std::string_view proc_self_cgroup,
                             std::string_view controller) noexcept;

// CPUs that "quota period" (microseconds, as in cpu.max) amounts to, rounded up; 0 = no limit.
std::int32_t parse_cpu_quota(std::string_view quota_and_period) noexcept;

// The tightest CPU quota of this process's group and of those above it; 0 = no limit.
std::int32_t find_cpu_limit(const char* root) noexcept;

// Physical cores of which a CPU is in affinity, from <root>/sys/devices/system; 0 where it does not
// say.
std::int32_t count_cores(const char* root, const CpuSet& affinity) noexcept;

// Caches of the first CPU of affinity, its cores, and the NUMA nodes. Fill fields that are still 0:
// from hwloc, where it is built in, and from <root>/sys/devices/system.
void fill_from_hwloc(const CpuSet& affinity, Machine& machine) noexcept;
void fill_from_sysfs(const char* root, const CpuSet& affinity, Machine& machine) noexcept;

}  // namespace intflash::internal
