// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Memory: every allocation may fail, none leaks, and running a plan makes none.
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <new>

#include <gtest/gtest.h>

#include "api_call.h"
#include "counting_allocator.h"
#include "test_ports.h"

// The linker's --wrap sends every call of these from this program, the library in it included,
// here.
extern "C" {
void* __real_malloc(std::size_t bytes);
void* __real_calloc(std::size_t count, std::size_t bytes);
void* __real_realloc(void* pointer, std::size_t bytes);
void* __real_aligned_alloc(std::size_t alignment, std::size_t bytes);
void* __real__Znwm(std::size_t bytes);
void* __real__Znam(std::size_t bytes);

static std::atomic<long> allocations{0};
static std::atomic<long> calls_before_failure{-1};

void* __wrap_malloc(std::size_t bytes) {
  ++allocations;
  return __real_malloc(bytes);
}
void* __wrap_calloc(std::size_t count, std::size_t bytes) {
  ++allocations;
  return __real_calloc(count, bytes);
}
void* __wrap_realloc(void* pointer, std::size_t bytes) {
  ++allocations;
  return __real_realloc(pointer, bytes);
}
void* __wrap_aligned_alloc(std::size_t alignment, std::size_t bytes) {
  ++allocations;
  return __real_aligned_alloc(alignment, bytes);
}
void* __wrap__Znwm(std::size_t bytes) {
  ++allocations;
  if (calls_before_failure >= 0 && calls_before_failure-- == 0) throw std::bad_alloc();
  return __real__Znwm(bytes);
}
void* __wrap__Znam(std::size_t bytes) {
  ++allocations;
  return __real__Znam(bytes);
}
}  // extern "C"

namespace intflash::internal {

long num_allocations() { return allocations; }
void fail_new_after(long calls) { calls_before_failure = calls; }

namespace {

// Creates a context, a plan and attends; the first status that is not INTFLASH_OK.
intflash_status use(CountingAllocator& allocator, ApiCall& call) {
  const intflash_context_options options = allocator.options();
  intflash_context* context = nullptr;
  intflash_status status = intflash_context_create(&options, &context);
  if (status != INTFLASH_OK) {
    EXPECT_EQ(context, nullptr);
    return status;
  }
  intflash_plan* plan = nullptr;
  status = intflash_plan_attend(context, &call.desc(), &plan);
  EXPECT_EQ(status == INTFLASH_OK, plan != nullptr);
  if (status == INTFLASH_OK) status = intflash_attend(context, &call.desc(), &call.args());
  intflash_plan_destroy(plan);
  intflash_context_destroy(context);
  return status;
}

TEST(Memory, EveryAllocationMayFail) {
  ApiCall call;
  CountingAllocator whole(-1);
  ASSERT_EQ(use(whole, call), INTFLASH_OK) << intflash_last_error();
  EXPECT_EQ(whole.held(), 0u);
  EXPECT_GE(whole.calls(), 3);
  for (int n = 0; n < whole.calls(); ++n) {
    ApiCall fresh;
    CountingAllocator failing(n);
    fresh.expect_refusal(use(failing, fresh), INTFLASH_OUT_OF_MEMORY, {"no memory", "bytes"});
    EXPECT_EQ(failing.held(), 0u) << "call " << n;
    EXPECT_EQ(failing.calls(), n + 1) << "nothing is tried after a failure";
  }
}

TEST(Memory, OfARefusedCallIsGivenBack) {
  ApiCall call;
  static_cast<float*>(call.args().query.data)[3] = std::nanf("");
  CountingAllocator allocator(-1);
  EXPECT_EQ(use(allocator, call), INTFLASH_NONFINITE_INPUT);
  EXPECT_EQ(allocator.held(), 0u);
}

TEST(Memory, MoreThanThereIsIsRefused) {
  ApiCall call;
  call.desc().batch = 1;
  call.desc().num_query_heads = call.desc().num_kv_heads = 1 << 20;
  call.desc().query_len = 1;
  call.desc().kv_len = 1 << 20;  // 2^40 tokens of 24 bytes and more
  // Tensors that repeat one row; out's rows follow each other, and it is never reached.
  intflash_attend_args& args = call.args();
  for (intflash_tensor* t : {&args.query, &args.key, &args.value})
    t->stride_batch = t->stride_head = t->stride_token = 0;
  args.out.stride_head = args.out.stride_token = 8;
  args.out.stride_batch = std::int64_t{8} << 20;
  call.expect_refused(INTFLASH_OUT_OF_MEMORY, {"no memory for a workspace", "bytes"});
}

TEST(Memory, IsNotAllocatedByRun) {
  for (const intflash_mode mode :
       {INTFLASH_MODE_INT8, INTFLASH_MODE_EXACT, INTFLASH_MODE_INTFA, INTFLASH_MODE_INT8_QK}) {
    for (const std::int32_t threads : {1, 3}) {
      ApiCall call(small_call(), threads);
      call.desc().mode = mode;
      intflash_plan* plan = nullptr;
      ASSERT_EQ(intflash_plan_attend(call.context, &call.desc(), &plan), INTFLASH_OK);
      const std::size_t bytes = intflash_plan_workspace_bytes(plan);
      std::byte* workspace = call.memory.take(bytes);
      const long before = num_allocations();
      const intflash_status whole = intflash_run(plan, &call.args(), workspace, bytes);
      const intflash_status packed = intflash_pack(plan, &call.args(), workspace, bytes);
      const intflash_status attended = intflash_run_packed(plan, &call.args(), workspace, bytes);
      const intflash_status refused = intflash_run(plan, &call.args(), workspace, 1);
      const long after = num_allocations();
      EXPECT_EQ(after - before, 0);
      EXPECT_EQ(whole, INTFLASH_OK);
      EXPECT_EQ(packed, INTFLASH_OK);
      EXPECT_EQ(attended, INTFLASH_OK);
      EXPECT_EQ(refused, INTFLASH_WORKSPACE_TOO_SMALL);
      intflash_plan_destroy(plan);
    }
  }
  const long before = num_allocations();
  void* volatile seen = std::malloc(8);
  std::free(seen);
  EXPECT_EQ(num_allocations() - before, 1) << "allocations are not counted";
}

}  // namespace
}  // namespace intflash::internal
