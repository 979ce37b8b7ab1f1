// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What can be asked of the interface, and what calls leave as it was.
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <thread>

#include <gtest/gtest.h>

#include "api_call.h"
#include "core/checks.h"

namespace intflash::internal {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(Interface, ACallAfterARefusalSucceeds) {
  ApiCall call;
  call.desc().head_dim = 12;
  EXPECT_NE(call.attend(), INTFLASH_OK);
  call.desc().head_dim = 16;
  EXPECT_EQ(call.attend(), INTFLASH_OK) << intflash_last_error();
  EXPECT_FALSE(call.untouched());
}

TEST(Interface, TheLastErrorIsTheThreadsOwn) {
  ApiCall call;
  call.desc().head_dim = 12;
  EXPECT_NE(call.attend(), INTFLASH_OK);
  std::string elsewhere = "unset";
  std::thread([&] { elsewhere = intflash_last_error(); }).join();
  EXPECT_EQ(elsewhere, "");
  EXPECT_STRNE(intflash_last_error(), "");
}

TEST(Interface, StatusNamesAreTheEnumerators) {
  const char* names[] = {"INTFLASH_OK",
                         "INTFLASH_INVALID_ARGUMENT",
                         "INTFLASH_BAD_SHAPE",
                         "INTFLASH_BAD_STRIDE",
                         "INTFLASH_SIZE_OVERFLOW",
                         "INTFLASH_BAD_SCALE",
                         "INTFLASH_NONFINITE_INPUT",
                         "INTFLASH_SCORE_OVERFLOW",
                         "INTFLASH_UNSUPPORTED",
                         "INTFLASH_UNKNOWN_ISA",
                         "INTFLASH_ISA_UNAVAILABLE",
                         "INTFLASH_WORKSPACE_TOO_SMALL",
                         "INTFLASH_OUT_OF_MEMORY",
                         "INTFLASH_POOL_EXHAUSTED",
                         "INTFLASH_CANCELLED",
                         "INTFLASH_BAD_FILE",
                         "INTFLASH_BUSY",
                         "INTFLASH_DEVICE_UNAVAILABLE",
                         "INTFLASH_DEVICE_FAILED"};
  for (int i = 0; i <= INTFLASH_DEVICE_FAILED; ++i)
    EXPECT_STREQ(intflash_status_name(static_cast<intflash_status>(i)), names[i]);
  EXPECT_STREQ(intflash_status_name(static_cast<intflash_status>(19)), "unknown status");
}

TEST(Interface, TheVersionIsTheHeaders) {
  const std::string version = std::to_string(INTFLASH_VERSION_MAJOR) + "." +
                              std::to_string(INTFLASH_VERSION_MINOR) + "." +
                              std::to_string(INTFLASH_VERSION_PATCH);
  EXPECT_EQ(intflash_version(), version);
  EXPECT_EQ(intflash_abi_version(), INTFLASH_ABI_VERSION);
  EXPECT_EQ(intflash_page_layout_version(), INTFLASH_PAGE_LAYOUT_VERSION);
}

TEST(Interface, SupportAndPlanTellTheSame) {
  for (const intflash_mode mode : {INTFLASH_MODE_INT8, INTFLASH_MODE_EXACT, INTFLASH_MODE_INTFA}) {
    ApiCall call;
    call.desc().mode = mode;
    intflash_plan_info before = {};
    intflash_plan_info after = {};
    before.struct_size = after.struct_size = sizeof before;
    ASSERT_EQ(intflash_query_support(call.context, &call.desc(), nullptr), INTFLASH_OK);
    ASSERT_EQ(intflash_query_support(call.context, &call.desc(), &before), INTFLASH_OK);
    intflash_plan* plan = nullptr;
    ASSERT_EQ(intflash_plan_attend(call.context, &call.desc(), &plan), INTFLASH_OK);
    ASSERT_EQ(intflash_plan_get_info(plan, &after), INTFLASH_OK);
    EXPECT_STREQ(before.mode, after.mode);
    EXPECT_STREQ(before.port, after.port);
    EXPECT_STREQ(before.kernel, after.kernel);
    EXPECT_EQ(before.workspace_bytes, after.workspace_bytes);
    EXPECT_EQ(after.workspace_bytes, intflash_plan_workspace_bytes(plan));
    EXPECT_EQ(after.num_threads, intflash_context_num_threads(call.context));
    const char* modes[] = {"int8", "exact", "intfa"};
    EXPECT_STREQ(after.mode, modes[mode]);
    EXPECT_EQ(std::string(after.kernel).rfind(std::string("attend/") + modes[mode], 0), 0u);
    const std::string port =
        mode == INTFLASH_MODE_INT8 ? intflash_context_port(call.context) : "reference";
    EXPECT_EQ(after.port, port);
    intflash_plan_destroy(plan);
  }
}

TEST(Interface, ARefusedSupportQueryLeavesTheInfo) {
  ApiCall call;
  call.desc().head_dim = 12;
  intflash_plan_info info = {};
  info.struct_size = sizeof info;
  info.num_threads = -77;
  EXPECT_EQ(intflash_query_support(call.context, &call.desc(), &info), INTFLASH_BAD_SHAPE);
  EXPECT_EQ(info.num_threads, -77);
}

TEST(Interface, NoKeysGiveZeroAndMinusInfinity) {
  for (const intflash_mode mode : {INTFLASH_MODE_INT8, INTFLASH_MODE_EXACT, INTFLASH_MODE_INTFA}) {
    ApiCall call;
    call.desc().mode = mode;
    call.desc().kv_len = 0;
    call.args().key.data = call.args().value.data = nullptr;
    ASSERT_EQ(call.attend(), INTFLASH_OK) << intflash_last_error();
    for (std::size_t i = 0; i < call.tensors.out_bytes / 4; ++i)
      EXPECT_EQ(reinterpret_cast<const float*>(call.tensors.out)[i], 0.0f);
    for (std::size_t i = 0; i < call.tensors.lse_count; ++i)
      EXPECT_EQ(call.args().lse[i], -kInfinity);
  }
}

TEST(Interface, WithoutQueriesOrBatchNothingIsReadOrWritten) {
  for (const intflash_mode mode : {INTFLASH_MODE_INT8, INTFLASH_MODE_EXACT, INTFLASH_MODE_INTFA}) {
    for (std::int64_t intflash_attend_desc::*const extent :
         {&intflash_attend_desc::batch, &intflash_attend_desc::query_len}) {
      ApiCall call;
      call.desc().mode = mode;
      call.desc().*extent = 0;
      call.args().query.data = call.args().out.data = nullptr;
      if (call.desc().batch == 0) call.args().key.data = call.args().value.data = nullptr;
      EXPECT_EQ(call.attend(), INTFLASH_OK) << intflash_last_error();
      intflash_plan* plan = nullptr;
      ASSERT_EQ(intflash_plan_attend(call.context, &call.desc(), &plan), INTFLASH_OK);
      EXPECT_EQ(intflash_plan_workspace_bytes(plan), 0u);
      EXPECT_EQ(intflash_run(plan, &call.args(), nullptr, 0), INTFLASH_OK);
      EXPECT_EQ(intflash_pack(plan, &call.args(), nullptr, 0), INTFLASH_OK);
      EXPECT_EQ(intflash_run_packed(plan, &call.args(), nullptr, 0), INTFLASH_OK);
      call.args().query.stride_head = -1;
      EXPECT_EQ(intflash_run(plan, &call.args(), nullptr, 0), INTFLASH_BAD_STRIDE);
      intflash_plan_destroy(plan);
      EXPECT_TRUE(call.untouched());
    }
  }
}

TEST(Interface, CodesWithoutKeysNeedNoScales) {
  for (const intflash_mode mode : {INTFLASH_MODE_INT8, INTFLASH_MODE_EXACT, INTFLASH_MODE_INTFA}) {
    AttentionCase c = small_call();
    c.key.dtype = c.value.dtype = INTFLASH_INT8;
    ApiCall call(c);
    call.desc().mode = mode;
    call.desc().kv_len = 0;
    call.args().key = call.args().value = {};
    ASSERT_EQ(call.attend(), INTFLASH_OK) << intflash_last_error();
    EXPECT_EQ(call.args().lse[0], -kInfinity);
  }
}

TEST(Interface, InputsAreNotWritten) {
  for (const intflash_dtype dtype : {INTFLASH_F32, INTFLASH_F16, INTFLASH_INT8}) {
    AttentionCase c = small_call();
    c.query.dtype = c.key.dtype = c.value.dtype = dtype;
    ApiCall call(c);
    ApiCall copy(c);
    ASSERT_EQ(call.attend(), INTFLASH_OK) << intflash_last_error();
    const auto same = [&](const intflash_tensor& a, const intflash_tensor& b, std::int64_t size) {
      return std::memcmp(a.data, b.data, static_cast<std::size_t>(size * dtype_bytes(dtype))) == 0;
    };
    EXPECT_TRUE(same(call.args().query, copy.args().query, 2 * 4 * 5 * 16));
    EXPECT_TRUE(same(call.args().key, copy.args().key, 2 * 2 * 7 * 16));
    EXPECT_TRUE(same(call.args().value, copy.args().value, 2 * 2 * 7 * 8));
  }
}

}  // namespace
}  // namespace intflash::internal
