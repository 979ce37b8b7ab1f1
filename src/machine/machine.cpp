// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "machine/machine.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdarg>
#include <cstdio>

#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#if defined(INTFLASH_WITH_HWLOC)
#include <hwloc.h>
#endif

namespace intflash::internal {
namespace {

// A small text file of the kernel's; empty where it cannot be read.
class TextFile {
 public:
  __attribute__((format(printf, 2, 3))) explicit TextFile(const char* path_format, ...) noexcept {
    char path[1024];
    va_list args;
    va_start(args, path_format);
    const int length = std::vsnprintf(path, sizeof path, path_format, args);
    va_end(args);
    if (length < 0 || length >= static_cast<int>(sizeof path)) return;
    if (std::FILE* file = std::fopen(path, "re")) {
      size_ = std::fread(text_.data(), 1, text_.size(), file);
      std::fclose(file);
    }
    while (size_ > 0 && text_[size_ - 1] == '\n') --size_;
  }
  std::string_view text() const noexcept { return {text_.data(), size_}; }

 private:
  std::array<char, 4096> text_;
  std::size_t size_ = 0;
};

// Reads a number off the front of text; -1, and text as it was, where there is none.
std::int64_t take_number(std::string_view& text) noexcept {
  std::int64_t value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || value < 0) return -1;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

bool take(std::string_view& text, char expected) noexcept {
  if (text.empty() || text.front() != expected) return false;
  text.remove_prefix(1);
  return true;
}

// Cuts text at the first separator and returns what was before it.
std::string_view take_until(std::string_view& text, char separator) noexcept {
  const std::size_t length = std::min(text.find(separator), text.size());
  const std::string_view taken = text.substr(0, length);
  text.remove_prefix(std::min(length + 1, text.size()));
  return taken;
}

std::size_t first_cpu(const CpuSet& cpus) noexcept {
  for (std::size_t cpu = 0; cpu < kMaxCpus; ++cpu) {
    if (cpus[cpu]) return cpu;
  }
  return 0;
}

std::int32_t count(const CpuSet& cpus) noexcept { return static_cast<std::int32_t>(cpus.count()); }

int length_of(std::string_view text) noexcept { return static_cast<int>(text.size()); }

template <class T>
void fill(T& field, std::int64_t value) noexcept {
  if (field == 0 && value > 0) field = static_cast<T>(value);
}

#if defined(INTFLASH_WITH_HWLOC)

void fill_caches(const hwloc_obj* cpu, Machine& machine) noexcept {
  for (const hwloc_obj* object = cpu; object != nullptr; object = object->parent) {
    if (!hwloc_obj_type_is_dcache(object->type)) continue;
    const auto bytes = static_cast<std::int64_t>(object->attr->cache.size);
    if (object->type == HWLOC_OBJ_L1CACHE) fill(machine.l1_bytes, bytes);
    if (object->type == HWLOC_OBJ_L2CACHE) fill(machine.l2_bytes, bytes);
    if (object->type == HWLOC_OBJ_L3CACHE) {
      fill(machine.l3_bytes, bytes);
      fill(machine.l3_sharers, hwloc_bitmap_weight(object->cpuset));
    }
  }
}

CpuSet cpus_of(const hwloc_obj* object) noexcept {
  CpuSet cpus;
  for (int cpu = hwloc_bitmap_first(object->cpuset); cpu >= 0 && cpu < static_cast<int>(kMaxCpus);
       cpu = hwloc_bitmap_next(object->cpuset, cpu))
    cpus.set(static_cast<std::size_t>(cpu));
  return cpus;
}

#endif

}  // namespace

#if defined(INTFLASH_WITH_HWLOC)

void fill_from_hwloc(const CpuSet& affinity, Machine& machine) noexcept {
  hwloc_topology_t topology;
  if (hwloc_topology_init(&topology) != 0) return;
  if (hwloc_topology_load(topology) == 0) {
    const auto first = static_cast<unsigned>(first_cpu(affinity));
    fill_caches(hwloc_get_pu_obj_by_os_index(topology, first), machine);

    std::int32_t num_cores = 0;
    hwloc_obj_t core = nullptr;
    while ((core = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_CORE, core)) != nullptr) {
      if ((cpus_of(core) & affinity).any()) ++num_cores;
    }
    fill(machine.num_cores, num_cores);
    hwloc_obj_t node = nullptr;
    while ((node = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, node)) != nullptr)
      machine.nodes.add(static_cast<std::int32_t>(node->os_index), cpus_of(node));
  }
  hwloc_topology_destroy(topology);
}

#else

void fill_from_hwloc(const CpuSet&, Machine&) noexcept {}

#endif

namespace {

#if defined(__APPLE__)

// 0 where there is no such number.
std::int64_t read_sysctl(const char* name) noexcept {
  std::int64_t value = 0;
  std::size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 ? value : 0;
}

void fill_from_system(Machine& machine) noexcept {
  fill(machine.l1_bytes, read_sysctl("hw.l1dcachesize"));
  fill(machine.l2_bytes, read_sysctl("hw.l2cachesize"));
  fill(machine.num_cores, read_sysctl("hw.physicalcpu"));
}

#else

void fill_from_system(Machine& machine) noexcept {
  fill(machine.l1_bytes, sysconf(_SC_LEVEL1_DCACHE_SIZE));
  fill(machine.l2_bytes, sysconf(_SC_LEVEL2_CACHE_SIZE));
  fill(machine.l3_bytes, sysconf(_SC_LEVEL3_CACHE_SIZE));
}

#endif

// The smallest caches of current cores, so that a tile that fits them fits everywhere.
void fill_from_defaults(std::int32_t num_cpus, Machine& machine) noexcept {
  fill(machine.l1_bytes, 32 << 10);
  fill(machine.l2_bytes, 1 << 20);
  fill(machine.num_cores, num_cpus);
  if (machine.nodes.count == 0) machine.nodes.add(0, CpuSet().set());
  if (machine.l3_bytes > 0) fill(machine.l3_sharers, num_cpus);
}

Machine detect_machine() noexcept {
  const CpuSet affinity = this_threads_cpus();
  Machine machine;
  fill_from_hwloc(affinity, machine);
  fill_from_sysfs("", affinity, machine);
  fill_from_system(machine);
  fill_from_defaults(count(affinity), machine);
  machine.num_threads = default_num_threads(affinity);
  return machine;
}

// Rounded up; 0 = no limit.
std::int32_t cpus_of_quota(std::int64_t quota, std::int64_t period) noexcept {
  if (quota <= 0 || period <= 0) return 0;
  return static_cast<std::int32_t>(std::min((quota - 1) / period + 1, std::int64_t{kMaxCpus}));
}

std::int32_t tighter(std::int32_t a, std::int32_t b) noexcept {
  return a == 0 || b == 0 ? std::max(a, b) : std::min(a, b);
}

// The tightest limit_of(path) on the way from a cgroup's path up to the root of its hierarchy. In a
// container the path may be the host's, of which only the root is there to see.
template <class LimitOf>
std::int32_t tightest_limit(std::string_view path, LimitOf limit_of) noexcept {
  std::int32_t limit = limit_of(path);
  while (!path.empty()) {
    path = path.substr(0, std::min(path.rfind('/'), path.size() - 1));
    limit = tighter(limit, limit_of(path));
  }
  return limit;
}

}  // namespace

const Machine& this_machine() noexcept {
  static const Machine machine = detect_machine();
  return machine;
}

#if defined(__APPLE__)

// Threads are not bound to CPUs.
CpuSet this_threads_cpus() noexcept {
  CpuSet cpus;
  const long online = sysconf(_SC_NPROCESSORS_ONLN);
  for (long cpu = 0; cpu < std::max(online, 1L); ++cpu) cpus.set(static_cast<std::size_t>(cpu));
  return cpus;
}

std::int32_t current_cpu() noexcept { return -1; }

void bind_this_thread(const CpuSet&) noexcept {}

#else

CpuSet this_threads_cpus() noexcept {
  cpu_set_t mask[kMaxCpus / CPU_SETSIZE];
  CPU_ZERO_S(sizeof mask, mask);
  CpuSet cpus;
  if (sched_getaffinity(0, sizeof mask, mask) == 0) {
    for (std::size_t cpu = 0; cpu < kMaxCpus; ++cpu)
      cpus[cpu] = CPU_ISSET_S(cpu, sizeof mask, mask);
  }
  if (cpus.none()) cpus.set(0);
  return cpus;
}

std::int32_t current_cpu() noexcept { return sched_getcpu(); }

void bind_this_thread(const CpuSet& cpus) noexcept {
  cpu_set_t mask[kMaxCpus / CPU_SETSIZE];
  CPU_ZERO_S(sizeof mask, mask);
  for (std::size_t cpu = 0; cpu < kMaxCpus; ++cpu) {
    if (cpus[cpu]) CPU_SET_S(cpu, sizeof mask, mask);
  }
  sched_setaffinity(0, sizeof mask, mask);
}

#endif

std::int32_t default_num_threads(const CpuSet& cpus) noexcept {
  std::int32_t cores = count_cores("", cpus);
  if (cores == 0) cores = count(cpus);
  const std::int32_t limit = find_cpu_limit("");
  return limit > 0 ? std::min(limit, cores) : cores;
}

std::int64_t parse_size(std::string_view text) noexcept {
  const std::int64_t value = take_number(text);
  if (value < 0) return 0;
  if (text.empty()) return value;
  if (text == "K") return value << 10;
  if (text == "M") return value << 20;
  if (text == "G") return value << 30;
  return 0;
}

CpuSet parse_cpu_list(std::string_view text) noexcept {
  CpuSet cpus;
  do {
    const std::int64_t first = take_number(text);
    const std::int64_t last = take(text, '-') ? take_number(text) : first;
    if (first < 0 || last < first || last >= static_cast<std::int64_t>(kMaxCpus)) break;
    for (std::int64_t cpu = first; cpu <= last; ++cpu) cpus.set(static_cast<std::size_t>(cpu));
  } while (take(text, ','));
  return cpus;
}

std::string_view find_cgroup(std::string_view proc_self_cgroup,
                             std::string_view controller) noexcept {
  while (!proc_self_cgroup.empty()) {
    std::string_view path = take_until(proc_self_cgroup, '\n');  // "4:cpu,cpuacct:/path"
    take_until(path, ':');
    std::string_view controllers = take_until(path, ':');
    do {
      if (take_until(controllers, ',') == controller) return path;
    } while (!controllers.empty());
  }
  return {};
}

std::int32_t parse_cpu_quota(std::string_view quota_and_period) noexcept {
  const std::int64_t quota = take_number(quota_and_period);  // "max" and "-1" are no numbers
  if (!take(quota_and_period, ' ')) return 0;
  return cpus_of_quota(quota, take_number(quota_and_period));
}

std::int32_t find_cpu_limit(const char* root) noexcept {
  const TextFile groups("%s/proc/self/cgroup", root);
  const auto limit_v2 = [root](std::string_view path) noexcept {
    const TextFile max("%s/sys/fs/cgroup%.*s/cpu.max", root, length_of(path), path.data());
    return parse_cpu_quota(max.text());
  };
  const auto limit_v1 = [root](std::string_view path) noexcept {
    const auto read = [&](const char* name) noexcept {
      const TextFile file("%s/sys/fs/cgroup/cpu%.*s/%s", root, length_of(path), path.data(), name);
      std::string_view text = file.text();
      return take_number(text);
    };
    return cpus_of_quota(read("cpu.cfs_quota_us"), read("cpu.cfs_period_us"));
  };
  return tighter(tightest_limit(find_cgroup(groups.text(), ""), limit_v2),
                 tightest_limit(find_cgroup(groups.text(), "cpu"), limit_v1));
}

std::int32_t count_cores(const char* root, const CpuSet& affinity) noexcept {
  std::int32_t cores = 0;
  for (std::size_t cpu = 0; cpu < kMaxCpus; ++cpu) {
    if (!affinity[cpu]) continue;
    // Each core counts at the first of its CPUs that is ours.
    const TextFile siblings("%s/sys/devices/system/cpu/cpu%zu/topology/thread_siblings_list", root,
                            cpu);
    const CpuSet core = parse_cpu_list(siblings.text());
    if (core[cpu] && first_cpu(core & affinity) == cpu) ++cores;
  }
  return cores;
}

void fill_from_sysfs(const char* root, const CpuSet& affinity, Machine& machine) noexcept {
  const std::size_t first = first_cpu(affinity);
  for (int index = 0; index < 10; ++index) {
    const auto read_cache = [&](const char* name) noexcept {
      return TextFile("%s/sys/devices/system/cpu/cpu%zu/cache/index%d/%s", root, first, index,
                      name);
    };
    if (read_cache("type").text() == "Instruction") continue;
    const std::int64_t bytes = parse_size(read_cache("size").text());
    const TextFile level = read_cache("level");
    if (level.text() == "1") fill(machine.l1_bytes, bytes);
    if (level.text() == "2") fill(machine.l2_bytes, bytes);
    if (level.text() == "3") {
      fill(machine.l3_bytes, bytes);
      fill(machine.l3_sharers, count(parse_cpu_list(read_cache("shared_cpu_list").text())));
    }
  }

  if (machine.num_cores == 0) machine.num_cores = count_cores(root, affinity);

  if (machine.nodes.count > 0) return;
  const TextFile online("%s/sys/devices/system/node/online", root);
  const CpuSet nodes = parse_cpu_list(online.text());
  for (std::size_t node = 0; node < kMaxCpus; ++node) {
    if (!nodes[node]) continue;
    const TextFile cpus("%s/sys/devices/system/node/node%zu/cpulist", root, node);
    machine.nodes.add(static_cast<std::int32_t>(node), parse_cpu_list(cpus.text()));
  }
}

}  // namespace intflash::internal
