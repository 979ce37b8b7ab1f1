// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "machine/page_memory.h"

#if defined(__linux__)
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstdint>

namespace intflash::internal {

#if defined(__linux__)

namespace {

// The most NUMA nodes that Linux can be built for.
constexpr unsigned long kMaxNodes = 1024;
constexpr unsigned long kBitsPerWord = 8 * sizeof(unsigned long);

// MADV_COLLAPSE, of Linux 6.1: an unknown advice is refused.
constexpr int kCollapse = 25;

struct Range {
  char* begin;
  std::size_t bytes;
};

Range whole_pages(void* memory, std::size_t bytes) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t to_page = (page - reinterpret_cast<std::uintptr_t>(memory) % page) % page;
  if (bytes < to_page) return {static_cast<char*>(memory), 0};
  return {static_cast<char*>(memory) + to_page, (bytes - to_page) / page * page};
}

struct NodeSet {
  unsigned long words[kMaxNodes / kBitsPerWord] = {};
};

// nodes == nullptr: none.
void set_policy(const Range& range, int policy, const NodeSet* nodes) {
  // MOVE: memory that the allocator hands out again has its place already.
  ::syscall(SYS_mbind, range.begin, range.bytes, policy, nodes == nullptr ? nullptr : nodes->words,
            nodes == nullptr ? 0 : kMaxNodes + 1, MPOL_MF_MOVE);
}

}  // namespace

void advise_huge_pages(void* memory, std::size_t bytes, intflash_huge_pages huge_pages) {
  const Range range = whole_pages(memory, bytes);
  if (range.bytes == 0) return;
  if (huge_pages == INTFLASH_HUGE_PAGES_AVOID) {
    ::madvise(range.begin, range.bytes, MADV_NOHUGEPAGE);
    return;
  }
  ::madvise(range.begin, range.bytes, MADV_HUGEPAGE);
  // Memory that the allocator hands out again has its small pages already.
  ::madvise(range.begin, range.bytes, kCollapse);
}

void advise_numa(void* memory, std::size_t bytes, intflash_numa numa) {
  const Range range = whole_pages(memory, bytes);
  if (range.bytes == 0) return;
  if (numa == INTFLASH_NUMA_LOCAL) return set_policy(range, MPOL_LOCAL, nullptr);
  if (numa != INTFLASH_NUMA_INTERLEAVE) return;
  NodeSet nodes;
  ::syscall(SYS_get_mempolicy, nullptr, nodes.words, kMaxNodes, nullptr, MPOL_F_MEMS_ALLOWED);
  set_policy(range, MPOL_INTERLEAVE, &nodes);
}

void forget_node(void* memory, std::size_t bytes) {
  const Range range = whole_pages(memory, bytes);
  if (range.bytes > 0) set_policy(range, MPOL_DEFAULT, nullptr);
}

void advise_node(void* memory, std::size_t bytes, std::int32_t node) {
  const Range range = whole_pages(memory, bytes);
  if (range.bytes == 0 || node < 0 || static_cast<unsigned long>(node) >= kMaxNodes) return;
  NodeSet nodes;
  const auto bit = static_cast<unsigned long>(node);
  nodes.words[bit / kBitsPerWord] |= 1ul << bit % kBitsPerWord;
  set_policy(range, MPOL_PREFERRED, &nodes);
}

#else

void advise_huge_pages(void*, std::size_t, intflash_huge_pages) {}
void advise_numa(void*, std::size_t, intflash_numa) {}
void forget_node(void*, std::size_t) {}
void advise_node(void*, std::size_t, std::int32_t) {}

#endif

}  // namespace intflash::internal
