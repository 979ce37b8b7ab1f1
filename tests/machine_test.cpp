// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Detection of caches, cores and limits, on file trees made up here and on the machine at hand.
#include "machine/machine.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace intflash::internal {
namespace {

CpuSet cpus(std::initializer_list<std::size_t> members) {
  CpuSet set;
  for (const std::size_t cpu : members) set.set(cpu);
  return set;
}

// A directory that stands for "/": the kernel's files as the test wants them.
class FakeRoot : public testing::Test {
 protected:
  FakeRoot() {
    std::string pattern = (std::filesystem::temp_directory_path() / "intflash-XXXXXX").string();
    root_ = mkdtemp(pattern.data());
  }
  ~FakeRoot() override { std::filesystem::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_ / path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text << '\n';
  }
  std::string root() const { return root_.string(); }

 private:
  std::filesystem::path root_;
};
using MachineFiles = FakeRoot;
using CpuLimit = FakeRoot;

TEST(Machine, SizesAreReadWithTheirUnit) {
  EXPECT_EQ(parse_size("48K"), 48 << 10);
  EXPECT_EQ(parse_size("2M"), 2 << 20);
  EXPECT_EQ(parse_size("1G"), 1 << 30);
  EXPECT_EQ(parse_size("512"), 512);
}

TEST(Machine, TextThatIsNoSizeIsZero) {
  for (const char* text : {"", "K", "-1K", "48X", "48K ", "99999999999999999999"}) {
    EXPECT_EQ(parse_size(text), 0) << text;
  }
}

TEST(Machine, CpuListsAreReadInTheFormOfSysfs) {
  EXPECT_EQ(parse_cpu_list("0"), cpus({0}));
  EXPECT_EQ(parse_cpu_list("0-3,8"), cpus({0, 1, 2, 3, 8}));
  EXPECT_EQ(parse_cpu_list("8191"), cpus({8191}));
}

TEST(Machine, ACpuListStopsAtWhatItCannotRead) {
  EXPECT_EQ(parse_cpu_list(""), cpus({}));
  EXPECT_EQ(parse_cpu_list("1,x"), cpus({1}));
  EXPECT_EQ(parse_cpu_list("1,3-2"), cpus({1}));
  EXPECT_EQ(parse_cpu_list("1,8192"), cpus({1}));
  EXPECT_EQ(parse_cpu_list("1-"), cpus({}));
}

TEST(Machine, TheCgroupIsFoundByController) {
  const char* hybrid = "5:cpuset:/set\n4:cpu,cpuacct:/service/a\n1:name=systemd:/\n0::/unified";
  EXPECT_EQ(find_cgroup(hybrid, "cpu"), "/service/a");
  EXPECT_EQ(find_cgroup(hybrid, "cpuacct"), "/service/a");
  EXPECT_EQ(find_cgroup(hybrid, ""), "/unified");
  EXPECT_EQ(find_cgroup(hybrid, "memory"), "");
  EXPECT_EQ(find_cgroup("", ""), "");
}

TEST(Machine, QuotasAreRoundedUpToWholeCpus) {
  EXPECT_EQ(parse_cpu_quota("50000 100000"), 1);
  EXPECT_EQ(parse_cpu_quota("200000 100000"), 2);
  EXPECT_EQ(parse_cpu_quota("200001 100000"), 3);
}

TEST(Machine, AQuotaThatIsNoNumberIsNoLimit) {
  for (const char* text : {"", "max 100000", "-1 100000", "0 100000", "100000", "100000 0"}) {
    EXPECT_EQ(parse_cpu_quota(text), 0) << text;
  }
}

TEST_F(CpuLimit, IsTheTightestOnTheWayToTheRootOfVersion2) {
  write("proc/self/cgroup", "0::/pod/container");
  write("sys/fs/cgroup/pod/container/cpu.max", "max 100000");
  EXPECT_EQ(find_cpu_limit(root().c_str()), 0);
  write("sys/fs/cgroup/pod/cpu.max", "250000 100000");
  EXPECT_EQ(find_cpu_limit(root().c_str()), 3);
  write("sys/fs/cgroup/pod/container/cpu.max", "400000 100000");
  EXPECT_EQ(find_cpu_limit(root().c_str()), 3);
  write("sys/fs/cgroup/cpu.max", "100000 100000");
  EXPECT_EQ(find_cpu_limit(root().c_str()), 1);
}

TEST_F(CpuLimit, IsFoundInVersion1) {
  write("proc/self/cgroup", "3:memory:/\n2:cpu,cpuacct:/job\n0::/");
  write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1");
  write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000");
  EXPECT_EQ(find_cpu_limit(root().c_str()), 0);
  write("sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "150000");
  write("sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000");
  EXPECT_EQ(find_cpu_limit(root().c_str()), 2);
}

TEST_F(CpuLimit, IsFoundAtTheMountWhereThePathIsTheHosts) {
  write("proc/self/cgroup", "2:cpu:/docker/0123abcd");
  write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "300000");
  write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000");
  EXPECT_EQ(find_cpu_limit(root().c_str()), 3);
}

TEST_F(CpuLimit, IsAbsentWhereThereAreNoCgroups) { EXPECT_EQ(find_cpu_limit(root().c_str()), 0); }

TEST_F(MachineFiles, AreReadForTheFirstCpuOfTheAffinity) {
  const std::string cpu = "sys/devices/system/cpu/cpu";
  const auto write_cache = [&](int index, const char* level, const char* type, const char* size) {
    const std::string cache = cpu + "2/cache/index" + std::to_string(index) + "/";
    write(cache + "level", level);
    write(cache + "type", type);
    write(cache + "size", size);
    write(cache + "shared_cpu_list", level[0] == '3' ? "0-15" : "2,10");
  };
  write_cache(0, "1", "Instruction", "64K");
  write_cache(1, "1", "Data", "48K");
  write_cache(2, "2", "Unified", "2048K");
  write_cache(3, "3", "Unified", "32M");
  for (const char* ours : {"2", "3", "10"}) {
    write(cpu + ours + "/topology/thread_siblings_list", ours[0] == '3' ? "3,11" : "2,10");
  }

  Machine machine;
  fill_from_sysfs(root().c_str(), cpus({2, 3, 10}), machine);
  EXPECT_EQ(machine.l1_bytes, 48 << 10);
  EXPECT_EQ(machine.l2_bytes, 2 << 20);
  EXPECT_EQ(machine.l3_bytes, 32 << 20);
  EXPECT_EQ(machine.l3_sharers, 16);
  EXPECT_EQ(machine.num_cores, 2);
  EXPECT_EQ(count_cores(root().c_str(), cpus({2, 3, 10})), 2);
  EXPECT_EQ(count_cores(root().c_str(), cpus({3})), 1);
}

void expect_nodes(const NumaNodes& nodes,
                  const std::vector<std::pair<std::int32_t, CpuSet>>& expected) {
  ASSERT_EQ(nodes.count, static_cast<std::int32_t>(expected.size()));
  for (std::int32_t i = 0; i < nodes.count; ++i) {
    EXPECT_EQ(nodes.nodes[i].id, expected[static_cast<std::size_t>(i)].first);
    EXPECT_EQ(nodes.nodes[i].cpus, expected[static_cast<std::size_t>(i)].second);
  }
}

TEST_F(MachineFiles, NameTheCpusOfEachNodeThatHasSome) {
  write("sys/devices/system/node/online", "0-1,4-5");
  write("sys/devices/system/node/node0/cpulist", "0-1,8");
  write("sys/devices/system/node/node1/cpulist", "");
  write("sys/devices/system/node/node4/cpulist", "2-3");
  Machine machine;
  fill_from_sysfs(root().c_str(), cpus({0}), machine);
  expect_nodes(machine.nodes, {{0, cpus({0, 1, 8})}, {4, cpus({2, 3})}});
}

TEST_F(MachineFiles, DoNotOverwriteWhatIsKnown) {
  write("sys/devices/system/node/online", "0");
  write("sys/devices/system/node/node0/cpulist", "0-7");
  Machine machine;
  machine.nodes.add(3, cpus({0}));
  fill_from_sysfs(root().c_str(), cpus({0}), machine);
  expect_nodes(machine.nodes, {{3, cpus({0})}});
}

TEST_F(MachineFiles, ThatAreMissingLeaveEveryFieldZero) {
  Machine machine;
  fill_from_sysfs(root().c_str(), cpus({0}), machine);
  EXPECT_EQ(machine.l1_bytes, 0);
  EXPECT_EQ(machine.num_cores, 0);
  EXPECT_EQ(machine.nodes.count, 0);
}

// A machine that hwloc makes up.
class SyntheticMachine : public testing::Test {
 protected:
  SyntheticMachine() {
    Machine machine;
    fill_from_hwloc(cpus({0}), machine);
    has_hwloc_ = machine.nodes.count > 0;
  }
  ~SyntheticMachine() override { unsetenv("HWLOC_SYNTHETIC"); }

  NumaNodes nodes_of(const char* topology) {
    setenv("HWLOC_SYNTHETIC", topology, 1);
    Machine machine;
    fill_from_hwloc(cpus({0}), machine);
    return machine.nodes;
  }
  bool has_hwloc_ = false;
};

TEST_F(SyntheticMachine, HasTheNodesAndTheirCpus) {
  if (!has_hwloc_) GTEST_SKIP() << "built without hwloc";
  expect_nodes(nodes_of("node:2 core:2 pu:2"), {{0, cpus({0, 1, 2, 3})}, {1, cpus({4, 5, 6, 7})}});
  expect_nodes(nodes_of("node:1 core:2 pu:1"), {{0, cpus({0, 1})}});
  expect_nodes(nodes_of("node:4 core:1 pu:2(indexes=0,4,1,5,2,6,3,7)"),
               {{0, cpus({0, 4})}, {1, cpus({1, 5})}, {2, cpus({2, 6})}, {3, cpus({3, 7})}});
}

TEST_F(SyntheticMachine, HasOneNodeForTwoKindsOfMemoryBesideTheSameCpus) {
  if (!has_hwloc_) GTEST_SKIP() << "built without hwloc";
  expect_nodes(nodes_of("package:2 [numa][numa] core:1 pu:1"), {{0, cpus({0})}, {2, cpus({1})}});
}

NumaNodes nodes_of_sizes(std::initializer_list<std::size_t> sizes) {
  NumaNodes nodes;
  std::size_t cpu = 0;
  for (const std::size_t size : sizes) {
    CpuSet own;
    for (std::size_t i = 0; i < size; ++i) own.set(cpu++);
    nodes.add(nodes.count, own);
  }
  return nodes;
}

TEST(NumaNodes, ThatAnAffinityLeavesNoCpuDoNotCount) {
  const NumaNodes nodes = nodes_of_sizes({2, 2, 2});
  expect_nodes(nodes.among(cpus({1, 4, 5})), {{0, cpus({1})}, {2, cpus({4, 5})}});
  expect_nodes(nodes.among(cpus({1, 4, 5, 99})), {});  // nobody's CPU would be left out
  EXPECT_EQ(nodes.of_cpu(3), 1);
  EXPECT_EQ(nodes.of_cpu(6), -1);
  EXPECT_EQ(nodes.of_cpu(-1), -1);
  EXPECT_EQ(nodes.among(cpus({4})).find(2), 0);
  EXPECT_EQ(nodes.find(3), -1);
}

TEST(NumaNodes, GetThingsInTurnAsTheyHaveCpus) {
  const auto deal = [](const NumaNodes& nodes, int count) {
    std::string dealt;
    for (int i = 0; i < count; ++i) dealt += std::to_string(nodes.deal(i));
    return dealt;
  };
  EXPECT_EQ(deal(nodes_of_sizes({4, 4}), 10), "0101010101");
  EXPECT_EQ(deal(nodes_of_sizes({1, 1, 1}), 7), "0120120");
  EXPECT_EQ(deal(nodes_of_sizes({6, 2}), 16), "0001000100010001");
  EXPECT_EQ(deal(nodes_of_sizes({3}), 3), "000");
}

TEST(NumaNodes, BeyondTheMostThatAreToldApartAreOfTheLast) {
  NumaNodes nodes;
  for (std::int32_t i = 0; i < kMaxNumaNodes + 3; ++i)
    nodes.add(i, CpuSet().set(static_cast<std::size_t>(i)));
  EXPECT_EQ(nodes.count, kMaxNumaNodes);
  EXPECT_EQ(nodes.of_cpu(kMaxNumaNodes + 2), kMaxNumaNodes - 1);
}

TEST(Machine, ThisMachineHasSensibleFigures) {
  const Machine& machine = this_machine();
  EXPECT_GE(machine.l1_bytes, 8 << 10);
  EXPECT_GE(machine.l2_bytes, machine.l1_bytes);
  EXPECT_EQ(machine.l3_bytes > 0, machine.l3_sharers > 0);
  EXPECT_GE(machine.num_cores, 1);
  EXPECT_GE(machine.num_threads, 1);
  EXPECT_GE(machine.nodes.among(this_threads_cpus()).count, 1);
  EXPECT_EQ(&machine, &this_machine());
}

}  // namespace
}  // namespace intflash::internal
