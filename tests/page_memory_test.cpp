// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the kernel knows of a cache's pages is what the cache's options say, as far as it shows that
// of memory for which the test itself asks the same; and tokens are the same wherever they lie.
#include "machine/page_memory.h"

#if defined(__linux__)
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "host/host_pages.h"
#include "serving.h"

namespace intflash::internal::serving {
namespace {

// A cache of some megabytes: whole pages of the system's, and huge ones.
class PageMemory : public testing::Test {
 protected:
  PageMemory() { EXPECT_EQ(intflash_context_create(nullptr, &context), INTFLASH_OK); }
  ~PageMemory() override {
    intflash_cache_destroy(cache);
    intflash_context_destroy(context);
  }
  intflash_cache_options options() const {
    intflash_cache_options options{};
    options.struct_size = sizeof options;
    options.num_kv_heads = 2;
    options.head_dim = 32;
    options.num_pages = 1000;
    return options;
  }
  intflash_status create(intflash_huge_pages huge_pages, intflash_numa numa) {
    intflash_cache_options given = options();
    given.huge_pages = huge_pages;
    given.numa = numa;
    return intflash_cache_create(context, &given, &cache);
  }
  std::uintptr_t middle_of_pages() const {
    return reinterpret_cast<std::uintptr_t>(host_pages(*cache).page(0, 500, 0));
  }
  void expect_refused(intflash_huge_pages huge_pages, intflash_numa numa, const char* message) {
    EXPECT_EQ(create(huge_pages, numa), INTFLASH_INVALID_ARGUMENT);
    EXPECT_STREQ(intflash_last_error(), message);
    EXPECT_EQ(cache, nullptr);
  }

  intflash_context* context = nullptr;
  intflash_cache* cache = nullptr;
};

#if defined(__linux__)

// What is said of the mapping that an address lies in, as in proc(5); "" where it is not shown.
std::string mapping_line(std::uintptr_t address, const std::string& key) {
  std::ifstream smaps("/proc/self/smaps");
  bool is_wanted = false;
  for (std::string line; std::getline(smaps, line);) {
    std::istringstream words(line);
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
    char dash = 0;
    if (words >> std::hex >> begin >> dash >> end && dash == '-')
      is_wanted = begin <= address && address < end;
    else if (is_wanted && line.rfind(key, 0) == 0)
      return line.substr(key.size()) + " ";
  }
  return "";
}
std::string mapping_flags(std::uintptr_t address) { return mapping_line(address, "VmFlags:"); }
long huge_kilobytes(std::uintptr_t address) {
  return std::atol(mapping_line(address, "AnonHugePages:").c_str());
}

// Memory of the test's own: emulators, containers and small kernels keep to themselves what was
// asked for it, or refuse.
class OwnMemory {
 public:
  OwnMemory()
      : memory_(
            ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {}
  ~OwnMemory() { ::munmap(memory_, kBytes); }
  OwnMemory(const OwnMemory&) = delete;
  OwnMemory& operator=(const OwnMemory&) = delete;

  std::uintptr_t address() const { return reinterpret_cast<std::uintptr_t>(memory_); }
  bool advise(int advice) { return ::madvise(memory_, kBytes, advice) == 0; }
  bool bind(int policy) {
    unsigned long nodes[kMaxNodes / (8 * sizeof(unsigned long))] = {};
    const bool has_nodes = policy == MPOL_INTERLEAVE || policy == MPOL_PREFERRED;
    if (policy == MPOL_INTERLEAVE)
      ::syscall(SYS_get_mempolicy, nullptr, nodes, kMaxNodes, nullptr, MPOL_F_MEMS_ALLOWED);
    if (policy == MPOL_PREFERRED) nodes[0] = 1;
    return ::syscall(SYS_mbind, memory_, kBytes, policy, has_nodes ? nodes : nullptr,
                     has_nodes ? kMaxNodes + 1 : 0, 0) == 0;
  }

 private:
  static constexpr std::size_t kBytes = 1 << 16;
  static constexpr unsigned long kMaxNodes = 1024;
  void* memory_;
};

// An allocator's memory that has been used before, with small pages.
class UsedMemory {
 public:
  UsedMemory() = default;
  ~UsedMemory() {
    for (const auto& [memory, bytes] : mappings_) ::munmap(memory, bytes);
  }
  UsedMemory(const UsedMemory&) = delete;
  UsedMemory& operator=(const UsedMemory&) = delete;

  // Until this is destroyed; begins where a huge page may.
  char* allocate(std::size_t size) {
    const std::size_t bytes = (size / kHugePage + 2) * kHugePage;
    void* const memory =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    mappings_.emplace_back(memory, bytes);
    ::madvise(memory, bytes, MADV_NOHUGEPAGE);
    std::memset(memory, 1, bytes);
    const std::size_t beyond = reinterpret_cast<std::uintptr_t>(memory) % kHugePage;
    return static_cast<char*>(memory) + (kHugePage - beyond) % kHugePage;
  }
  intflash_context_options options() {
    intflash_context_options options{};
    options.struct_size = sizeof options;
    options.allocator_user = this;
    options.allocate = [](void* user, std::size_t bytes, std::size_t) -> void* {
      return static_cast<UsedMemory*>(user)->allocate(bytes);
    };
    options.deallocate = [](void*, void*) {};
    return options;
  }

 private:
  static constexpr std::size_t kHugePage = std::size_t{2} << 20;
  std::vector<std::pair<void*, std::size_t>> mappings_;
};

// Whether small pages become huge ones when the kernel is asked, and smaps shows it.
bool pages_can_be_joined() {
  constexpr std::size_t kBytes = std::size_t{8} << 20;
  constexpr int kCollapse = 25;  // MADV_COLLAPSE
  UsedMemory used;
  char* const memory = used.allocate(kBytes);
  return memory != nullptr && ::madvise(memory, kBytes, MADV_HUGEPAGE) == 0 &&
         ::madvise(memory, kBytes, kCollapse) == 0 &&
         huge_kilobytes(reinterpret_cast<std::uintptr_t>(memory)) > 0;
}

bool flags_show_advice() {
  OwnMemory memory;
  return memory.advise(MADV_NOHUGEPAGE) &&
         mapping_flags(memory.address()).find(" nh ") != std::string::npos;
}

// The NUMA policy of an address; -1 where the kernel does not tell.
int policy_of(std::uintptr_t address) {
  int policy = -1;
  return ::syscall(SYS_get_mempolicy, &policy, nullptr, 0, address, MPOL_F_ADDR) == 0 ? policy : -1;
}

// What policy_of gives where a policy was asked for, by whatever name; -1 where it cannot be.
int shown_policy(int policy) {
  OwnMemory memory;
  return memory.bind(policy) ? policy_of(memory.address()) : -1;
}

TEST_F(PageMemory, HugePagesArePreferredOrAvoided) {
  if (!flags_show_advice()) GTEST_SKIP() << "/proc/self/smaps shows no advice";
  for (const auto& [huge_pages, flag] :
       {std::pair(INTFLASH_HUGE_PAGES_PREFER, " hg "), {INTFLASH_HUGE_PAGES_AVOID, " nh "}}) {
    ASSERT_EQ(create(huge_pages, INTFLASH_NUMA_DEFAULT), INTFLASH_OK) << intflash_last_error();
    const std::string flags = mapping_flags(middle_of_pages());
    EXPECT_NE(flags.find(flag), std::string::npos) << flags;
    intflash_cache_destroy(cache);
    cache = nullptr;
  }
}

TEST_F(PageMemory, IsHugeWhereTheAllocatorHasUsedItBefore) {
  if (!pages_can_be_joined()) GTEST_SKIP() << "the kernel makes no huge pages of small ones";
  UsedMemory used;
  const intflash_context_options own = used.options();
  intflash_context* const before = context;
  ASSERT_EQ(intflash_context_create(&own, &context), INTFLASH_OK) << intflash_last_error();
  intflash_context_destroy(before);
  ASSERT_EQ(create(INTFLASH_HUGE_PAGES_PREFER, INTFLASH_NUMA_DEFAULT), INTFLASH_OK);
  EXPECT_GT(huge_kilobytes(middle_of_pages()), 0);
  intflash_cache_destroy(cache);
  cache = nullptr;
  intflash_context_destroy(context);
  context = nullptr;
}

TEST_F(PageMemory, LiesOnNodesByThePolicyAskedFor) {
  for (const auto& [numa, policy] : {std::pair(INTFLASH_NUMA_DEFAULT, MPOL_DEFAULT),
                                     {INTFLASH_NUMA_INTERLEAVE, MPOL_INTERLEAVE},
                                     {INTFLASH_NUMA_LOCAL, MPOL_LOCAL}}) {
    const int shown = shown_policy(policy);
    if (shown < 0) GTEST_SKIP() << "the kernel sets or tells no policy";
    ASSERT_EQ(create(INTFLASH_HUGE_PAGES_PREFER, numa), INTFLASH_OK) << intflash_last_error();
    EXPECT_EQ(policy_of(middle_of_pages()), shown);
    intflash_cache_destroy(cache);
    cache = nullptr;
  }
}

TEST_F(PageMemory, LiesByNodeWhereThereIsSuchANode) {
  const int shown = shown_policy(MPOL_PREFERRED);
  if (shown < 0) GTEST_SKIP() << "the kernel sets or tells no policy";
  context->nodes = {};
  context->nodes.add(0, CpuSet().set(0));
  context->nodes.add(1023, CpuSet().set(1));
  intflash_cache_options given = options();
  given.numa = INTFLASH_NUMA_BY_NODE;
  given.num_layers = 3;
  ASSERT_EQ(intflash_cache_create(context, &given, &cache), INTFLASH_OK) << intflash_last_error();
  const auto policy_of_page = [&](std::int64_t layer, std::int64_t page) {
    return policy_of(reinterpret_cast<std::uintptr_t>(host_pages(*cache).page(layer, page, 0)));
  };
  for (std::int64_t layer = 0; layer < 3; ++layer) {
    EXPECT_EQ(policy_of_page(layer, 250), shown);
    EXPECT_EQ(policy_of_page(layer, 750), shown_policy(MPOL_DEFAULT)) << "there is no node 1023";
  }
}

#endif

TEST_F(PageMemory, HoldsTokensWhereverItLies) {
  const Tokens tokens = random_tokens(Shape{}, 100, 1);
  const std::int64_t token_indptr[] = {0, 100};
  intflash_append_args append = append_args(Shape{}, tokens, 0);
  append.token_indptr = token_indptr;
  std::vector<float> first;
  for (const intflash_numa numa : {INTFLASH_NUMA_DEFAULT, INTFLASH_NUMA_INTERLEAVE,
                                   INTFLASH_NUMA_LOCAL, INTFLASH_NUMA_BY_NODE}) {
    ASSERT_EQ(create(INTFLASH_HUGE_PAGES_AVOID, numa), INTFLASH_OK) << intflash_last_error();
    std::int32_t sequence = -1;
    ASSERT_EQ(intflash_sequence_create(cache, &sequence), INTFLASH_OK);
    ASSERT_EQ(intflash_sequences_append(cache, &sequence, &append), INTFLASH_OK);
    std::vector<float> keys(100 * 2 * 32);
    const intflash_tensor key = tensor_of(keys.data(), 2, 32);
    ASSERT_EQ(intflash_sequence_export(cache, sequence, 0, 100, &key, nullptr), INTFLASH_OK);
    if (first.empty()) first = keys;
    EXPECT_EQ(keys, first);
    intflash_cache_destroy(cache);
    cache = nullptr;
  }
}

TEST_F(PageMemory, UnknownAdviceIsRefused) {
  expect_refused(static_cast<intflash_huge_pages>(2), INTFLASH_NUMA_DEFAULT,
                 "huge_pages = 2: must be 0 ... 1");
  expect_refused(INTFLASH_HUGE_PAGES_PREFER, static_cast<intflash_numa>(-1),
                 "numa = -1: must be 0 ... 3");
}

}  // namespace
}  // namespace intflash::internal::serving
