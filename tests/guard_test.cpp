// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// No port reads or writes a byte outside a buffer, before it or after: each buffer lies against a
// page that no access survives. Sanitizers see neither tile loads nor assembly.
#include <sys/mman.h>
#include <unistd.h>

#include <csetjmp>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "attention_case.h"
#include "seed.h"
#include "test_ports.h"

namespace intflash::internal {
namespace {

enum class Side { kBefore, kAfter };

// Buffers that begin, or end, at a page without access.
class GuardedMemory final : public Memory {
 public:
  explicit GuardedMemory(Side side) : side_(side) {}
  ~GuardedMemory() override {
    for (const auto& [pages, bytes] : mapped_) munmap(pages, bytes);
  }

  std::byte* take(std::size_t bytes) override {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t inside = (bytes + page - 1) / page * page;
    const std::size_t whole = inside + 2 * page;
    void* mapped = mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    mapped_.emplace_back(mapped, whole);
    auto* begin = static_cast<std::byte*>(mapped);
    mprotect(begin, page, PROT_NONE);
    mprotect(begin + page + inside, page, PROT_NONE);
    return begin + page + (side_ == Side::kAfter ? inside - bytes : 0);
  }

 private:
  Side side_;
  std::vector<std::pair<void*, std::size_t>> mapped_;
};

// What is running when a guard page is hit.
char current_case[1024];
void report_access(int) {
  const char text[] = "access outside a buffer: ";
  [[maybe_unused]] ssize_t written = write(STDERR_FILENO, text, sizeof text - 1);
  written = write(STDERR_FILENO, current_case, std::strlen(current_case));
  _exit(3);
}

class Guard : public testing::Test {
 protected:
  Guard() {
    struct sigaction action = {};
    action.sa_handler = report_access;
    sigaction(SIGSEGV, &action, &old_segv_);
    sigaction(SIGBUS, &action, &old_bus_);
  }
  ~Guard() override {
    sigaction(SIGSEGV, &old_segv_, nullptr);
    sigaction(SIGBUS, &old_bus_, nullptr);
  }

  // The same bits as in ordinary memory, and no access beside the buffers.
  void check(AttentionCase c, const RunOptions& options = {}) {
    c.seed = seed_from_test_name();
    const CaseResult expected = run_case(c, scalar_port());
    ASSERT_EQ(expected.status, INTFLASH_OK) << expected.error;
    for (const PortEntry& port : all_test_ports()) {
      for (const Side side : {Side::kBefore, Side::kAfter}) {
        std::strncpy(current_case, (port.name + (": " + describe(c)) + "\n").c_str(),
                     sizeof current_case - 1);
        GuardedMemory memory(side);
        CaseTensors tensors = make_tensors(c, memory);
        EXPECT_EQ(difference(c, run_tensors(tensors, port, options, memory), expected), "")
            << port.name;
      }
    }
  }

 private:
  struct sigaction old_segv_, old_bus_;
};

TEST_F(Guard, HoldsForEveryLengthAroundATile) {
  for (const std::int64_t kv_len : {1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1023, 1025}) {
    for (const std::int64_t query_len : {1, 7, 33}) {
      AttentionCase c;
      c.query_len = query_len;
      c.kv_len = kv_len;
      c.head_dim = c.head_dim_v = 40;
      c.mask = INTFLASH_MASK_CAUSAL;
      check(c);
    }
  }
}

TEST_F(Guard, HoldsForEveryHeadDim) {
  for (const std::int64_t dim : {8, 16, 24, 40, 64, 72, 80, 96, 112, 128, 136, 256, 576, 1024}) {
    AttentionCase c;
    c.query_len = 5;
    c.kv_len = 67;
    c.head_dim = dim;
    c.head_dim_v = 24;
    check(c);
    std::swap(c.head_dim, c.head_dim_v);
    check(c);
  }
}

TEST_F(Guard, HoldsForEveryDtype) {
  for (const intflash_dtype dtype : {INTFLASH_F32, INTFLASH_F16, INTFLASH_BF16, INTFLASH_INT8}) {
    for (const std::int64_t scale_block : {0, 1, 13}) {
      if (dtype != INTFLASH_INT8 && scale_block != 1) continue;
      AttentionCase c;
      c.batch = c.num_kv_heads = c.group_size = 2;
      c.query_len = 9;
      c.kv_len = 70;
      c.head_dim = 40;
      c.head_dim_v = 72;
      c.query.dtype = c.key.dtype = c.value.dtype = dtype;
      c.query.scale_block = c.key.scale_block = c.value.scale_block = scale_block;
      c.out.dtype = dtype == INTFLASH_INT8 ? INTFLASH_F32 : dtype;
      check(c);
    }
  }
}

TEST_F(Guard, HoldsForEveryLayout) {
  for (const Layout layout : {Layout::kTokensFirst, Layout::kPaddedRows}) {
    AttentionCase c;
    c.batch = 2;
    c.num_kv_heads = 3;
    c.query_len = 9;
    c.kv_len = 70;
    c.head_dim = 40;
    c.head_dim_v = 24;
    c.query.layout = c.key.layout = c.value.layout = c.out.layout = layout;
    check(c);
  }
}

TEST_F(Guard, HoldsForCentersRotationCapAndMasks) {
  for (const bool given : {false, true}) {
    for (const float cap : {0.0f, 20.0f}) {
      AttentionCase c;
      c.num_kv_heads = 2;
      c.query_len = 40;
      c.kv_len = 200;
      c.head_dim = 72;
      c.head_dim_v = 40;
      c.center = INTFLASH_CENTER_KEY_VALUE;
      c.given_centers = given;
      c.rotate = true;
      c.score_cap = cap;
      check(c);
      c.mask = INTFLASH_MASK_WINDOW;
      c.window_left = 20;
      c.window_right = 3;
      check(c);
    }
  }
}

TEST_F(Guard, HoldsForLightKeysAndRowsWithoutKeys) {
  AttentionCase c;
  c.query_len = 90;
  c.kv_len = 70;
  c.head_dim = c.head_dim_v = 24;
  c.mask = INTFLASH_MASK_CAUSAL;
  c.data = CaseData::kSinks;
  check(c);
  c.kv_len = 0;
  check(c);
}

TEST_F(Guard, HoldsForSeveralThreadsAndItems) {
  AttentionCase c;
  c.num_kv_heads = 2;
  c.group_size = 3;
  c.query_len = 130;
  c.kv_len = 300;
  c.head_dim = 40;
  c.head_dim_v = 24;
  for (const bool packed : {false, true}) {
    RunOptions options;
    options.num_threads = 3;
    options.packed = packed;
    check(c, options);
  }
}

TEST_F(Guard, HoldsForTheReferenceModes) {
  for (const intflash_mode mode : {INTFLASH_MODE_EXACT, INTFLASH_MODE_INTFA}) {
    for (const std::int64_t kv_len : {1, 63, 65}) {
      AttentionCase c;
      c.mode = mode;
      c.query_len = 3;
      c.kv_len = kv_len;
      c.head_dim = 40;
      c.head_dim_v = 24;
      check(c);
    }
  }
}

sigjmp_buf after_fault;

TEST_F(Guard, StopsAnAccessBesideABuffer) {
  struct sigaction action = {}, reporting;
  action.sa_handler = [](int) { siglongjmp(after_fault, 1); };
  sigaction(SIGSEGV, &action, &reporting);
  for (const Side side : {Side::kBefore, Side::kAfter}) {
    GuardedMemory memory(side);
    volatile char* bytes = reinterpret_cast<char*>(memory.take(100));
    bytes[0] = 1;
    bytes[99] = 1;
    volatile bool stopped = true;
    if (sigsetjmp(after_fault, 1) == 0) {
      bytes[side == Side::kBefore ? -1 : 100] = 1;
      stopped = false;
    }
    EXPECT_TRUE(stopped);
  }
  sigaction(SIGSEGV, &reporting, nullptr);
}

}  // namespace
}  // namespace intflash::internal
