// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The emulated CUDA device behind the C interface: what it is, what it refuses, and that what fails
// leaves outputs alone and everything usable.
#include <chrono>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "attention_case.h"
#include "emulated_cuda.h"
#include "gpu/cuda_device.h"
#include "intflash/intflash.h"

namespace intflash::internal {
namespace {

AttentionCase small_case() {
  AttentionCase c;
  c.num_kv_heads = 2;
  c.query_len = 3;
  c.kv_len = 70;
  return c;
}

// The machine as it was, after a test that changed it.
class CudaDevice : public testing::Test {
 protected:
  ~CudaDevice() override {
    const emulation::EmulatedMachine machine = std::exchange(emulated_machine(), {});
    EXPECT_EQ(machine.allocations, 0u);
    EXPECT_EQ(machine.pools, 0u);
  }
};

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_F(CudaDevice, IsListedWithWhatItIs) {
  emulated_machine().num_devices = 2;
  emulated_machine().compute_minor = 9;
  ASSERT_EQ(intflash_num_devices(), 3);
  intflash_device_info info{};
  info.struct_size = sizeof info;
  ASSERT_EQ(intflash_get_device(2, &info), INTFLASH_OK);
  EXPECT_STREQ(info.name, "cuda:1");
  EXPECT_STREQ(info.description, "emulated, compute capability 8.9");
  EXPECT_EQ(info.available, 1);
  EXPECT_STREQ(info.reason, "");
}

TEST_F(CudaDevice, ThatIsNotThereOrTooOldGivesNoContext) {
  const auto expect_error = [](const std::string& part) {
    intflash_context_options options{};
    options.struct_size = sizeof options;
    options.device = "cuda:0";
    intflash_context* context = nullptr;
    EXPECT_EQ(intflash_context_create(&options, &context), INTFLASH_DEVICE_UNAVAILABLE);
    EXPECT_TRUE(has(intflash_last_error(), part)) << intflash_last_error();
  };
  emulated_machine().num_devices = 0;
  expect_error("the driver has no device");
  emulated_machine().num_devices = 1;
  emulated_machine().compute_major = 7;
  expect_error("must be 8.0 or later");
  emulated_machine().compute_major = 9;
  emulated_machine().has_memory_pools = false;
  expect_error("no memory pools");
  emulated_machine().has_memory_pools = true;
  emulated_machine().has_code = false;
  expect_error("no kernel image");
}

TEST_F(CudaDevice, GetsNoContextByBeingListed) {
  intflash_device_info info{};
  info.struct_size = sizeof info;
  for (std::int32_t i = 1; i < intflash_num_devices(); ++i)
    EXPECT_EQ(intflash_get_device(i, &info), INTFLASH_OK);
  emulated_machine().compute_major = 7;
  EXPECT_EQ(intflash_get_device(1, &info), INTFLASH_OK);
  EXPECT_EQ(info.available, 0);
  EXPECT_EQ(emulated_machine().context, nullptr);
  EXPECT_FALSE(emulated_machine().has_primary_context[0]);
  EXPECT_FALSE(emulated_machine().has_primary_context[1]);
}

TEST_F(CudaDevice, SaysWhatServesACall) {
  const DeviceContext context;
  EXPECT_STREQ(intflash_context_device(context.get()), "cuda:0");
  const intflash_attend_desc desc = desc_of(small_case());
  intflash_plan_info info{};
  info.struct_size = sizeof info;
  ASSERT_EQ(intflash_query_support(context.get(), &desc, &info), INTFLASH_OK)
      << intflash_last_error();
  EXPECT_STREQ(info.port, "cuda:0");
  EXPECT_STREQ(info.kernel, "attend/int8/cuda:0/rows64x128");
}

TEST_F(CudaDevice, RefusesByNameWhatItDoesNotServe) {
  const DeviceContext context;
  const auto expect_refused = [&](const std::function<void(AttentionCase&)>& change,
                                  const std::string& part) {
    AttentionCase c = small_case();
    change(c);
    const intflash_attend_desc desc = desc_of(c);
    EXPECT_EQ(intflash_query_support(context.get(), &desc, nullptr), INTFLASH_UNSUPPORTED) << part;
    EXPECT_TRUE(has(intflash_last_error(), part)) << intflash_last_error();
    EXPECT_TRUE(has(intflash_last_error(), "cuda:0")) << intflash_last_error();
  };
  expect_refused([](AttentionCase& c) { c.mode = INTFLASH_MODE_EXACT; }, "mode");
  expect_refused([](AttentionCase& c) { c.mode = INTFLASH_MODE_INTFA; }, "mode");
  expect_refused([](AttentionCase& c) { c.query.dtype = INTFLASH_INT8; }, "dtype");
  expect_refused([](AttentionCase& c) { c.key.dtype = INTFLASH_Q8_0; }, "dtype");
  expect_refused([](AttentionCase& c) { c.value.dtype = INTFLASH_F8_E4M3; }, "dtype");
  expect_refused([](AttentionCase& c) { c.batch = 1 << 30; }, "query rows");
  expect_refused([](AttentionCase& c) { c.query_len = (1 << 30) + 1; }, "query rows");
}

// A call whose outputs must stay as they are.
struct Attempt {
  Attempt() { tensors = make_tensors(small_case(), memory); }
  // What it comes to; "" where it succeeds.
  std::string run(intflash_status expected) {
    const CaseResult result = run_on_device(tensors);
    EXPECT_EQ(result.status, expected) << result.error;
    EXPECT_EQ(is_untouched(tensors), expected != INTFLASH_OK);
    return result.error;
  }
  float* element(const intflash_tensor& tensor, std::int64_t head, std::int64_t token) const {
    return static_cast<float*>(tensor.data) + head * tensor.stride_head +
           token * tensor.stride_token;
  }

  DeviceMemory memory;
  CaseTensors tensors;
};

// Of keys and values alike; what they must be is what the CPU says it is.
TEST_F(CudaDevice, RefusesCentresThatAreNone) {
  AttentionCase c = small_case();
  c.center = INTFLASH_CENTER_KEY_VALUE;
  c.given_centers = true;
  DeviceMemory memory;
  CaseTensors tensors = make_tensors(c, memory);
  intflash_attend_args& args = tensors.args;
  const auto expect_error = [&](intflash_status status, const std::string& part) {
    const CaseResult result = run_on_device(tensors);
    EXPECT_EQ(result.status, status) << result.error;
    EXPECT_TRUE(has(result.error, part)) << result.error;
  };
  static float host[2 * 64];
  const float* const value_center = std::exchange(args.value_center, host);
  expect_error(INTFLASH_INVALID_ARGUMENT, "host's memory");
  args.value_center = value_center;
  const_cast<float*>(value_center)[64 + 5] = -INFINITY;
  expect_error(INTFLASH_NONFINITE_INPUT, "value_center[head 1][5] = -inf: must be finite");
  const_cast<float*>(args.key_center)[7] = 2e30f;
  expect_error(INTFLASH_SCORE_OVERFLOW, "key_center[head 0][7] = 2e+30: must be below 2^100");
}

TEST_F(CudaDevice, RefusesHalvesOfARun) {
  const DeviceContext context;
  Attempt attempt;
  intflash_plan* plan = nullptr;
  ASSERT_EQ(intflash_plan_attend(context.get(), &attempt.tensors.desc, &plan), INTFLASH_OK);
  alignas(64) unsigned char workspace[4096];
  ASSERT_LE(intflash_plan_workspace_bytes(plan), sizeof workspace);
  EXPECT_EQ(intflash_pack(plan, &attempt.tensors.args, workspace, sizeof workspace),
            INTFLASH_UNSUPPORTED);
  EXPECT_EQ(intflash_run_packed(plan, &attempt.tensors.args, workspace, sizeof workspace),
            INTFLASH_UNSUPPORTED);
  intflash_plan_destroy(plan);
}

TEST_F(CudaDevice, RefusesPointersIntoTheHostsMemory) {
  Attempt attempt;
  intflash_attend_args& args = attempt.tensors.args;
  static float host[2 * 70 * 64];
  struct {
    void** pointer;
    const char* name;
  } const places[] = {{&args.query.data, "query"},
                      {&args.key.data, "key"},
                      {&args.value.data, "value"},
                      {&args.out.data, "out"},
                      {reinterpret_cast<void**>(&args.lse), "lse"}};
  for (const auto& place : places) {
    void* const before = *place.pointer;
    *place.pointer = host;
    const std::string error = attempt.run(INTFLASH_INVALID_ARGUMENT);
    EXPECT_TRUE(has(error, place.name) && has(error, "host's memory")) << error;
    *place.pointer = before;
  }
  attempt.run(INTFLASH_OK);
}

TEST_F(CudaDevice, NamesTheRowThatIsNotFinite) {
  Attempt attempt;
  const intflash_attend_args& args = attempt.tensors.args;
  struct {
    const intflash_tensor& tensor;
    std::int64_t token;
    float element;
    const char* name;
  } const rows[] = {{args.key, 69, NAN, "key[batch 0][head 1][token 69]"},
                    {args.value, 0, INFINITY, "value[batch 0][head 1][token 0]"},
                    {args.query, 2, -INFINITY, "query[batch 0][head 1][token 2]"}};
  for (const auto& row : rows) {
    float* const element = attempt.element(row.tensor, 1, row.token) + 5;
    const float before = *element;
    *element = row.element;
    EXPECT_TRUE(has(attempt.run(INTFLASH_NONFINITE_INPUT), row.name)) << intflash_last_error();
    *element = before;
  }
  attempt.run(INTFLASH_OK);
}

TEST_F(CudaDevice, RefusesMagnitudesWhoseScoresLeaveTheRange) {
  Attempt attempt;
  const intflash_attend_args& args = attempt.tensors.args;
  const auto expect_overflow = [&](float* element, float x, const char* name) {
    const float before = *element;
    *element = x;
    EXPECT_TRUE(has(attempt.run(INTFLASH_SCORE_OVERFLOW), name)) << intflash_last_error();
    *element = before;
  };
  expect_overflow(attempt.element(args.key, 1, 3), 1e31f, "key");
  expect_overflow(attempt.element(args.value, 1, 3), 1e28f, "value");
  expect_overflow(attempt.element(args.query, 1, 0), 1e31f, "query");
  attempt.run(INTFLASH_OK);
}

TEST_F(CudaDevice, DoesNotLookAtKeysThatNoQuerySees) {
  AttentionCase c = small_case();
  c.mask = INTFLASH_MASK_WINDOW;
  c.window_left = 10;
  c.window_right = 0;
  DeviceMemory memory;
  CaseTensors tensors = make_tensors(c, memory);
  const CaseResult expected = run_on_device(tensors);
  ASSERT_EQ(expected.status, INTFLASH_OK) << expected.error;
  for (std::int64_t token = 0; token < 57; ++token) {
    for (const intflash_tensor& tensor : {tensors.args.key, tensors.args.value})
      static_cast<float*>(tensor.data)[token * tensor.stride_token] = NAN;
  }
  EXPECT_EQ(difference(c, run_on_device(tensors), expected), "");
  static_cast<float*>(tensors.args.key.data)[57 * tensors.args.key.stride_token] = NAN;
  EXPECT_EQ(run_on_device(tensors).status, INTFLASH_NONFINITE_INPUT);
}

TEST_F(CudaDevice, OutOfMemoryIsAStatusAndAllStaysUsable) {
  Attempt attempt;
  emulated_machine().bytes_left = 1000;
  EXPECT_TRUE(has(attempt.run(INTFLASH_OUT_OF_MEMORY), "out of memory"));
  emulated_machine().bytes_left = std::numeric_limits<std::size_t>::max();
  attempt.run(INTFLASH_OK);
}

// A program of the driver's interface has no other.
TEST_F(CudaDevice, TakesTheContextThatTheCallerHasOnIt) {
  emulation::EmulatedContext own = {0};
  emulated_machine().context = &own;
  {
    Attempt attempt;
    attempt.run(INTFLASH_OK);
  }
  EXPECT_EQ(emulated_machine().context, &own);
  EXPECT_FALSE(emulated_machine().has_primary_context[0]);
}

TEST_F(CudaDevice, LeavesTheCallersContextOnAnotherDeviceCurrent) {
  emulation::EmulatedContext own = {1};
  emulated_machine().context = &own;
  {
    Attempt attempt;
    attempt.run(INTFLASH_OK);
  }
  EXPECT_EQ(emulated_machine().context, &own);
  EXPECT_FALSE(emulated_machine().has_primary_context[1]);
}

TEST_F(CudaDevice, MemoryThatIsNotHadForAnotherReasonIsAFailure) {
  Attempt attempt;
  emulated_machine().refuses_memory = true;
  EXPECT_TRUE(has(attempt.run(INTFLASH_DEVICE_FAILED), "bytes of its memory: invalid argument"));
  emulated_machine().refuses_memory = false;
  attempt.run(INTFLASH_OK);
}

TEST_F(CudaDevice, KeepsARunsMemoryForTheNext) {
  const DeviceContext context;
  Attempt attempt;
  const intflash_attend_args& args = attempt.tensors.args;
  ASSERT_EQ(intflash_attend(context.get(), &attempt.tensors.desc, &args), INTFLASH_OK);
  const std::size_t growths = emulated_machine().pool_growths;
  for (int i = 0; i < 3; ++i)
    ASSERT_EQ(intflash_attend(context.get(), &attempt.tensors.desc, &args), INTFLASH_OK);
  EXPECT_EQ(emulated_machine().pool_growths, growths);
}

TEST_F(CudaDevice, EndsWhereTheCallerCancels) {
  Attempt attempt;
  int asked = 0;
  attempt.tensors.args.should_cancel = [](void* user) { return ++*static_cast<int*>(user); };
  attempt.tensors.args.cancel_user = &asked;
  attempt.run(INTFLASH_CANCELLED);
  EXPECT_EQ(asked, 1);
}

TEST_F(CudaDevice, HasNoTasksBetweenBeginAndEnd) {
  const DeviceContext context;
  Attempt attempt;
  intflash_plan* plan = nullptr;
  ASSERT_EQ(intflash_plan_attend(context.get(), &attempt.tensors.desc, &plan), INTFLASH_OK);
  EXPECT_EQ(intflash_plan_num_phases(plan), 0);
  alignas(64) unsigned char workspace[4096];
  EXPECT_EQ(intflash_begin(plan, &attempt.tensors.args, workspace, sizeof workspace), INTFLASH_OK);
  EXPECT_EQ(intflash_end(plan, workspace), INTFLASH_OK) << intflash_last_error();
  EXPECT_EQ(intflash_end(plan, workspace), INTFLASH_INVALID_ARGUMENT);
  intflash_plan_destroy(plan);
}

#if defined(INTFLASH_REAL_CUDA)
// The library that nvcc made, where there is no driver, or no device.
TEST(RealCuda, OpensAnywhereAndSaysInTimeWhyThereIsNoDevice) {
  const auto start = std::chrono::steady_clock::now();
  const CudaLibrary library = open_cuda_library(INTFLASH_REAL_CUDA);
  ASSERT_NE(library.table, nullptr) << library.reason;
  const intflash_status status = check_cuda_device(library, "cuda:0", 0);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
  if (status == INTFLASH_OK) GTEST_SKIP() << "there is a device";
  EXPECT_EQ(status, INTFLASH_DEVICE_UNAVAILABLE);
  EXPECT_TRUE(has(intflash_last_error(), "device cuda:0: ")) << intflash_last_error();
}
#endif

}  // namespace
}  // namespace intflash::internal
