// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The C interface refuses what it cannot serve: each rule by its status, with a message that names
// the argument, its value and the rule, and without touching an output.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <ostream>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "core/checks.h"

#include "api_call.h"
#include "machine/machine.h"
#include "machine/parallel.h"

namespace intflash::internal {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
const float kNan = std::nanf("");
constexpr std::int64_t kHuge = std::int64_t{1} << 31;

// A call spoiled in one place.
struct BadCall {
  const char* name;
  std::function<void(ApiCall&)> spoil;
  intflash_status status;
  std::vector<std::string> words;  // of the message: the argument, its value, the rule
};
void PrintTo(const BadCall& call, std::ostream* out) { *out << call.name; }

class BadArguments : public testing::TestWithParam<BadCall> {};

TEST_P(BadArguments, AreRefusedByNameValueAndRule) {
  ApiCall call;
  GetParam().spoil(call);
  call.expect_refused(GetParam().status, GetParam().words);
}

std::string name_of(const testing::TestParamInfo<BadCall>& info) { return info.param.name; }

const BadCall kBadDescriptions[] = {
    {"struct_size",
     [](ApiCall& c) { c.desc().struct_size = 12; },
     INTFLASH_INVALID_ARGUMENT,
     {"desc.struct_size", "12", std::to_string(sizeof(intflash_attend_desc))}},
    {"mode",
     [](ApiCall& c) { c.desc().mode = static_cast<intflash_mode>(3); },
     INTFLASH_INVALID_ARGUMENT,
     {"mode", "3", "INT8, EXACT or INTFA"}},
    {"batch",
     [](ApiCall& c) { c.desc().batch = -2; },
     INTFLASH_BAD_SHAPE,
     {"batch", "-2", "0 ..."}},
    {"batch_too_large",
     [](ApiCall& c) { c.desc().batch = kHuge; },
     INTFLASH_BAD_SHAPE,
     {"batch", "2147483648", "2147483647"}},
    {"no_query_heads",
     [](ApiCall& c) { c.desc().num_query_heads = 0; },
     INTFLASH_BAD_SHAPE,
     {"num_query_heads", "0", "1 ..."}},
    {"no_kv_heads",
     [](ApiCall& c) { c.desc().num_kv_heads = 0; },
     INTFLASH_BAD_SHAPE,
     {"num_kv_heads", "0", "1 ..."}},
    {"heads_not_divisible",
     [](ApiCall& c) { c.desc().num_query_heads = 5; },
     INTFLASH_BAD_SHAPE,
     {"num_query_heads", "5", "multiple", "num_kv_heads = 2"}},
    {"negative_query_len",
     [](ApiCall& c) { c.desc().query_len = -3; },
     INTFLASH_BAD_SHAPE,
     {"query_len", "-3", "0 ..."}},
    {"query_len_too_large",
     [](ApiCall& c) { c.desc().query_len = kHuge; },
     INTFLASH_BAD_SHAPE,
     {"query_len", "2147483648", "2147483647"}},
    {"negative_kv_len",
     [](ApiCall& c) { c.desc().kv_len = -1; },
     INTFLASH_BAD_SHAPE,
     {"kv_len", "-1", "0 ..."}},
    {"kv_len_too_large",
     [](ApiCall& c) { c.desc().kv_len = kHuge; },
     INTFLASH_BAD_SHAPE,
     {"kv_len", "2147483648", "2147483647"}},
    {"head_dim_0",
     [](ApiCall& c) { c.desc().head_dim = 0; },
     INTFLASH_BAD_SHAPE,
     {"head_dim", "0", "multiple of 8 from 8 to 1024"}},
    {"head_dim_12",
     [](ApiCall& c) { c.desc().head_dim = 12; },
     INTFLASH_BAD_SHAPE,
     {"head_dim", "12", "multiple of 8 from 8 to 1024"}},
    {"head_dim_1032",
     [](ApiCall& c) { c.desc().head_dim = 1032; },
     INTFLASH_BAD_SHAPE,
     {"head_dim", "1032", "multiple of 8 from 8 to 1024"}},
    {"head_dim_v",
     [](ApiCall& c) { c.desc().head_dim_v = 9; },
     INTFLASH_BAD_SHAPE,
     {"head_dim_v", "9", "multiple of 8 from 8 to 1024"}},
    {"query_dtype",
     [](ApiCall& c) { c.desc().query_dtype = static_cast<intflash_dtype>(5); },
     INTFLASH_INVALID_ARGUMENT,
     {"query_dtype", "5", "F32, F16, BF16 or INT8"}},
    {"key_dtype",
     [](ApiCall& c) { c.desc().key_dtype = static_cast<intflash_dtype>(0); },
     INTFLASH_INVALID_ARGUMENT,
     {"key_dtype", "0", "F32, F16, BF16, INT8, Q8_0 or Q4_0"}},
    {"value_dtype",
     [](ApiCall& c) { c.desc().value_dtype = static_cast<intflash_dtype>(7); },
     INTFLASH_INVALID_ARGUMENT,
     {"value_dtype", "7", "F32, F16, BF16, INT8, Q8_0 or Q4_0"}},
    {"out_dtype",
     [](ApiCall& c) { c.desc().out_dtype = INTFLASH_INT8; },
     INTFLASH_INVALID_ARGUMENT,
     {"out_dtype", "4", "F32, F16 or BF16"}},
    {"softmax_scale_negative",
     [](ApiCall& c) { c.desc().softmax_scale = -0.5f; },
     INTFLASH_BAD_SCALE,
     {"softmax_scale", "-0.5", "finite and > 0"}},
    {"softmax_scale_nan",
     [](ApiCall& c) { c.desc().softmax_scale = kNan; },
     INTFLASH_BAD_SCALE,
     {"softmax_scale", "nan", "finite and > 0"}},
    {"score_cap_negative",
     [](ApiCall& c) { c.desc().score_cap = -2; },
     INTFLASH_BAD_SCALE,
     {"score_cap", "-2", "finite and > 0"}},
    {"score_cap_infinite",
     [](ApiCall& c) { c.desc().score_cap = kInfinity; },
     INTFLASH_BAD_SCALE,
     {"score_cap", "inf", "finite and > 0"}},
    {"mask",
     [](ApiCall& c) { c.desc().mask = static_cast<intflash_mask>(5); },
     INTFLASH_INVALID_ARGUMENT,
     {"mask", "5", "NONE, CAUSAL, WINDOW, PREFIX or CAUSAL_TOP_LEFT"}},
    {"window_left",
     [](ApiCall& c) {
       c.desc().mask = INTFLASH_MASK_WINDOW;
       c.desc().window_left = -2;
     },
     INTFLASH_INVALID_ARGUMENT,
     {"window_left", "-2", ">= 0, or -1"}},
    {"prefix_len",
     [](ApiCall& c) {
       c.desc().mask = INTFLASH_MASK_PREFIX;
       c.desc().prefix_len = 8;
     },
     INTFLASH_INVALID_ARGUMENT,
     {"prefix_len", "= 8", "0 ... kv_len = 7"}},
    {"window_right",
     [](ApiCall& c) {
       c.desc().mask = INTFLASH_MASK_WINDOW;
       c.desc().window_right = -3;
     },
     INTFLASH_INVALID_ARGUMENT,
     {"window_right", "-3", ">= 0, or -1"}},
    {"center_of_codes",
     [](ApiCall& c) {
       c.desc().key_dtype = INTFLASH_INT8;
       c.desc().center = INTFLASH_CENTER_KEY;
     },
     INTFLASH_UNSUPPORTED,
     {"center", "2", "INT8 key"}},
    {"center_of_value_codes",
     [](ApiCall& c) {
       c.desc().value_dtype = INTFLASH_INT8;
       c.desc().center = INTFLASH_CENTER_KEY_VALUE;
     },
     INTFLASH_UNSUPPORTED,
     {"center", "3", "INT8 value"}},
    {"rotate_2",
     [](ApiCall& c) { c.desc().rotate = 2; },
     INTFLASH_INVALID_ARGUMENT,
     {"rotate", "2", "0 or 1"}},
    {"rotate_88",
     [](ApiCall& c) {
       c.desc().rotate = 1;
       c.desc().head_dim = 88;
     },
     INTFLASH_UNSUPPORTED,
     {"rotate", "88", "m * 2^k"}},
    {"rotate_codes",
     [](ApiCall& c) {
       c.desc().rotate = 1;
       c.desc().query_dtype = INTFLASH_INT8;
     },
     INTFLASH_UNSUPPORTED,
     {"rotate", "INT8 query or key"}},
    {"size_overflow",
     [](ApiCall& c) {
       c.desc().batch = c.desc().num_query_heads = c.desc().num_kv_heads = kHuge - 1;
       c.desc().query_len = c.desc().kv_len = kHuge - 1;
     },
     INTFLASH_SIZE_OVERFLOW,
     {"kv_len = 2147483647", "address space"}},
    // 2^48 heads of one key each: few tokens, but each takes a page.
    {"workspace_overflow",
     [](ApiCall& c) {
       c.desc().batch = c.desc().num_query_heads = c.desc().num_kv_heads = 1 << 24;
       c.desc().query_len = c.desc().kv_len = 1;
       c.desc().head_dim = c.desc().head_dim_v = 1024;
       for (intflash_tensor* t : {&c.args().query, &c.args().key, &c.args().value, &c.args().out}) {
         t->stride_token = t->stride_head = 1024;
         t->stride_batch = std::int64_t{1024} << 24;
       }
     },
     INTFLASH_SIZE_OVERFLOW,
     {"address space"}},
};
INSTANTIATE_TEST_SUITE_P(Description, BadArguments, testing::ValuesIn(kBadDescriptions), name_of);

const BadCall kBadTensors[] = {
    {"struct_size",
     [](ApiCall& c) { c.args().struct_size = 1; },
     INTFLASH_INVALID_ARGUMENT,
     {"args.struct_size", "1", std::to_string(sizeof(intflash_attend_args))}},
    {"query_data",
     [](ApiCall& c) { c.args().query.data = nullptr; },
     INTFLASH_INVALID_ARGUMENT,
     {"query.data", "NULL"}},
    {"key_data",
     [](ApiCall& c) { c.args().key.data = nullptr; },
     INTFLASH_INVALID_ARGUMENT,
     {"key.data", "NULL"}},
    {"value_data",
     [](ApiCall& c) { c.args().value.data = nullptr; },
     INTFLASH_INVALID_ARGUMENT,
     {"value.data", "NULL"}},
    {"out_data",
     [](ApiCall& c) { c.args().out.data = nullptr; },
     INTFLASH_INVALID_ARGUMENT,
     {"out.data", "NULL"}},
    {"query_stride_batch",
     [](ApiCall& c) { c.args().query.stride_batch = -1; },
     INTFLASH_BAD_STRIDE,
     {"query.stride_batch", "-1", ">= 0"}},
    {"key_stride_head",
     [](ApiCall& c) { c.args().key.stride_head = -16; },
     INTFLASH_BAD_STRIDE,
     {"key.stride_head", "-16", ">= 0"}},
    {"value_stride_token",
     [](ApiCall& c) { c.args().value.stride_token = -8; },
     INTFLASH_BAD_STRIDE,
     {"value.stride_token", "-8", ">= 0"}},
    {"out_stride_token",
     [](ApiCall& c) { c.args().out.stride_token = -8; },
     INTFLASH_BAD_STRIDE,
     {"out.stride_token", "-8", ">= 0"}},
    {"stride_overflow",
     [](ApiCall& c) { c.args().key.stride_batch = INT64_MAX / 2; },
     INTFLASH_SIZE_OVERFLOW,
     {"key.stride_batch", std::to_string(INT64_MAX / 2), "address space"}},
    {"stride_sum_overflow",
     [](ApiCall& c) {
       c.args().out.stride_batch = INT64_MAX / 5;
       c.args().out.stride_head = INT64_MAX / 15;
     },
     INTFLASH_SIZE_OVERFLOW,
     {"out.stride_head", "address space"}},
    {"out_rows_overlap",
     [](ApiCall& c) { c.args().out.stride_token = 7; },
     INTFLASH_BAD_STRIDE,
     {"out.stride_token", "7", "overlap", ">= 8"}},
    {"out_heads_overlap",
     [](ApiCall& c) { c.args().out.stride_head = 39; },
     INTFLASH_BAD_STRIDE,
     {"out.stride_head", "39", "overlap", ">= 40"}},
    {"out_batch_repeats",
     [](ApiCall& c) { c.args().out.stride_batch = 0; },
     INTFLASH_BAD_STRIDE,
     {"out.stride_batch", "0", "overlap"}},
    {"key_center",
     [](ApiCall& c) {
       static float center[4 * 16];
       center[2 * 16 + 3] = kInfinity;
       c.args().key_center = center;
     },
     INTFLASH_NONFINITE_INPUT,
     {"key_center[head 2][3]", "inf", "finite"}},
    {"value_center",
     [](ApiCall& c) {
       static float center[4 * 8];
       center[8] = kNan;
       c.desc().center = INTFLASH_CENTER_KEY_VALUE;
       c.args().value_center = center;
     },
     INTFLASH_NONFINITE_INPUT,
     {"value_center[head 1][0]", "nan", "finite"}},
};
INSTANTIATE_TEST_SUITE_P(Tensors, BadArguments, testing::ValuesIn(kBadTensors), name_of);

// ---- Scales of INT8 tensors ----

struct BadScale {
  const char* name;
  std::function<void(intflash_tensor&, float* scale)> spoil;
  intflash_status status;
  std::vector<std::string> words;
};
const BadScale kBadScales[] = {
    {"null",
     [](intflash_tensor& t, float*) { t.scale = nullptr; },
     INTFLASH_INVALID_ARGUMENT,
     {"scale", "NULL"}},
    {"zero",
     [](intflash_tensor&, float* s) { s[0] = 0; },
     INTFLASH_BAD_SCALE,
     {"scale[batch 0][head 0][0]", "= 0", "finite and > 0"}},
    {"negative",
     [](intflash_tensor&, float* s) { s[9] = -2; },
     INTFLASH_BAD_SCALE,
     {"scale[batch 0][head 1]", "-2", "finite and > 0"}},
    {"nan",
     [](intflash_tensor&, float* s) { s[3] = kNan; },
     INTFLASH_BAD_SCALE,
     {"scale[batch 0][head 0][3]", "nan", "finite and > 0"}},
    {"infinite",
     [](intflash_tensor&, float* s) { s[4] = kInfinity; },
     INTFLASH_BAD_SCALE,
     {"scale[batch 0][head 0][4]", "inf", "finite and > 0"}},
    {"scale_block",
     [](intflash_tensor& t, float*) { t.scale_block = -1; },
     INTFLASH_BAD_STRIDE,
     {"scale_block", "-1", ">= 0"}},
    {"stride_batch",
     [](intflash_tensor& t, float*) { t.scale_stride_batch = -7; },
     INTFLASH_BAD_STRIDE,
     {"scale", "-7", ">= 0"}},
    {"stride_head",
     [](intflash_tensor& t, float*) { t.scale_stride_head = -3; },
     INTFLASH_BAD_STRIDE,
     {"scale", "-3", ">= 0"}},
    {"huge_block_bad_scale",
     [](intflash_tensor& t, float* s) {
       t.scale_block = INT64_MAX;
       s[0] = -1;
     },
     INTFLASH_BAD_SCALE,
     {"scale[batch 0][head 0][0]", "-1", "finite and > 0"}},
    {"stride_overflow",
     [](intflash_tensor& t, float*) { t.scale_stride_batch = INT64_MAX; },
     INTFLASH_SIZE_OVERFLOW,
     {"scale_stride_batch", std::to_string(INT64_MAX), "address space"}},
};

TEST(BadScales, AreRefusedForEachTensor) {
  for (const BadScale& bad : kBadScales) {
    for (const char* name : {"query", "key", "value"}) {
      SCOPED_TRACE(std::string(name) + " " + bad.name);
      AttentionCase c = small_call();
      c.query.dtype = c.key.dtype = c.value.dtype = INTFLASH_INT8;
      ApiCall call(c);
      intflash_tensor& tensor = name[0] == 'q'   ? call.args().query
                                : name[0] == 'k' ? call.args().key
                                                 : call.args().value;
      bad.spoil(tensor, const_cast<float*>(tensor.scale));
      std::vector<std::string> words = bad.words;
      words[0] = name + std::string(".") + words[0];
      call.expect_refused(bad.status, words);
    }
  }
}

TEST(BadScales, BeyondTheTokensAreNotRead) {
  AttentionCase c = small_call();
  c.query.dtype = c.key.dtype = c.value.dtype = INTFLASH_INT8;
  c.query.scale_block = c.key.scale_block = c.value.scale_block = INT64_MAX;
  ApiCall call(c);
  EXPECT_EQ(call.attend(), INTFLASH_OK) << intflash_last_error();
}

// ---- Handles ----

TEST(BadHandles, AreRefused) {
  ApiCall call;
  intflash_plan* plan = nullptr;
  intflash_plan_info info = {};
  const auto refuse = [&](intflash_status status, const std::vector<std::string>& words) {
    call.expect_refusal(status, INTFLASH_INVALID_ARGUMENT, words);
  };
  refuse(intflash_context_create(nullptr, nullptr), {"context", "NULL"});
  refuse(intflash_attend(nullptr, &call.desc(), &call.args()), {"context", "NULL"});
  refuse(intflash_attend(call.context, nullptr, &call.args()), {"desc", "NULL"});
  refuse(intflash_attend(call.context, &call.desc(), nullptr), {"args", "NULL"});
  refuse(intflash_plan_attend(nullptr, &call.desc(), &plan), {"context", "NULL"});
  refuse(intflash_plan_attend(call.context, nullptr, &plan), {"desc", "NULL"});
  refuse(intflash_plan_attend(call.context, &call.desc(), nullptr), {"plan", "NULL"});
  EXPECT_EQ(plan, nullptr);
  refuse(intflash_query_support(nullptr, &call.desc(), nullptr), {"context", "NULL"});
  refuse(intflash_query_support(call.context, &call.desc(), &info), {"info.struct_size", "0"});
  refuse(intflash_run(nullptr, &call.args(), nullptr, 0), {"plan", "NULL"});
  refuse(intflash_pack(nullptr, &call.args(), nullptr, 0), {"plan", "NULL"});
  refuse(intflash_run_packed(nullptr, &call.args(), nullptr, 0), {"plan", "NULL"});
  refuse(intflash_plan_get_info(nullptr, &info), {"plan", "NULL"});
  ASSERT_EQ(intflash_plan_attend(call.context, &call.desc(), &plan), INTFLASH_OK);
  refuse(intflash_plan_get_info(plan, nullptr), {"info", "NULL"});
  refuse(intflash_plan_get_info(plan, &info), {"info.struct_size", "0"});
  refuse(intflash_run(plan, nullptr, nullptr, 0), {"args", "NULL"});
  intflash_plan_destroy(plan);
  intflash_port_info port = {};
  refuse(intflash_get_port(0, nullptr), {"info", "point to a struct"});
  refuse(intflash_get_port(0, &port), {"info", "struct_size"});
  port.struct_size = sizeof port;
  refuse(intflash_get_port(-1, &port), {"index", "-1", "0 ..."});
  refuse(intflash_get_port(intflash_num_ports(), &port), {"index", "0 ..."});
  intflash_plan_destroy(nullptr);
  intflash_context_destroy(nullptr);
  EXPECT_EQ(intflash_plan_workspace_bytes(nullptr), 0u);
  EXPECT_STREQ(intflash_context_port(nullptr), "");
  EXPECT_STREQ(intflash_context_port_reason(nullptr), "");
  EXPECT_EQ(intflash_context_num_threads(nullptr), 0);
}

TEST(BadOptions, AreRefused) {
  const auto refuse = [](const std::function<void(intflash_context_options&)>& spoil,
                         const std::vector<std::string>& words) {
    intflash_context_options options = {};
    options.struct_size = sizeof options;
    spoil(options);
    auto* const poison = reinterpret_cast<intflash_context*>(0x40);
    intflash_context* context = poison;
    EXPECT_EQ(intflash_context_create(&options, &context), INTFLASH_INVALID_ARGUMENT);
    EXPECT_EQ(context, poison);
    for (const std::string& word : words)
      EXPECT_NE(std::string(intflash_last_error()).find(word), std::string::npos)
          << intflash_last_error() << " lacks " << word;
  };
  using Options = intflash_context_options;
  refuse([](Options& o) { o.struct_size = 3; }, {"options.struct_size", "3"});
  refuse([](Options& o) { o.num_threads = -1; }, {"num_threads", "-1", "0 ..."});
  refuse([](Options& o) { o.num_threads = 1 << 20; }, {"num_threads", "1048576", "4096"});
  refuse([](Options& o) { o.l2_bytes = -6; }, {"l2_bytes", "-6", ">= 0"});
  refuse([](Options& o) { o.deallocate = [](void*, void*) {}; },
         {"allocate", "deallocate", "both or neither"});
  refuse([](Options& o) { o.threads = static_cast<intflash_threads>(7); },
         {"options.threads", "7", "intflash_threads"});
  refuse(
      [](Options& o) {
        o.threads = INTFLASH_THREADS_OPENMP;
        o.parallel_for = [](void*, std::int32_t, auto, void*) {};
      },
      {"options.threads", "parallel_for", "give one"});
}

TEST(Threads, OfOpenmpAreAsManyAsItSaysOrUnsupported) {
  intflash_context_options options = {};
  options.struct_size = sizeof options;
  options.threads = INTFLASH_THREADS_OPENMP;
  intflash_context* context = nullptr;
  const intflash_status status = intflash_context_create(&options, &context);
  EXPECT_EQ(status, has_openmp() ? INTFLASH_OK : INTFLASH_UNSUPPORTED);
  EXPECT_EQ(intflash_context_num_threads(context), has_openmp() ? openmp_num_threads() : 0);
  intflash_context_destroy(context);
}

TEST(Threads, ByDefaultAreThePhysicalCoresOfTheCallersAffinityAtTheTime) {
  std::thread([] {
    const auto num_threads = [] {
      intflash_context* context = nullptr;
      EXPECT_EQ(intflash_context_create(nullptr, &context), INTFLASH_OK);
      const std::int32_t threads = intflash_context_num_threads(context);
      intflash_context_destroy(context);
      return threads;
    };
    const CpuSet cpus = this_threads_cpus();
    EXPECT_EQ(num_threads(), default_num_threads(cpus));
    std::size_t first = 0;
    while (!cpus[first]) ++first;
    bind_this_thread(CpuSet().set(first));
    EXPECT_EQ(num_threads(), 1);
  }).join();
}

TEST(BadWorkspace, IsRefused) {
  ApiCall call;
  for (const intflash_mode mode : {INTFLASH_MODE_INT8, INTFLASH_MODE_EXACT}) {
    call.desc().mode = mode;
    intflash_plan* plan = nullptr;
    ASSERT_EQ(intflash_plan_attend(call.context, &call.desc(), &plan), INTFLASH_OK);
    const std::size_t bytes = intflash_plan_workspace_bytes(plan);
    ASSERT_GT(bytes, 0u);
    std::byte* workspace = call.memory.take(bytes + 64);
    const std::string needed = std::to_string(bytes);
    const auto refuse = [&](intflash_status status) {
      call.expect_refusal(status, INTFLASH_WORKSPACE_TOO_SMALL,
                          {"workspace", needed + " bytes", "multiple of 64"});
    };
    refuse(intflash_run(plan, &call.args(), nullptr, bytes));
    refuse(intflash_run(plan, &call.args(), workspace, bytes - 1));
    refuse(intflash_run(plan, &call.args(), workspace + 8, bytes));
    refuse(intflash_pack(plan, &call.args(), workspace, 0));
    refuse(intflash_run_packed(plan, &call.args(), workspace + 32, bytes));
    EXPECT_EQ(intflash_run(plan, &call.args(), workspace, bytes), INTFLASH_OK);
    intflash_plan_destroy(plan);
    std::memset(call.tensors.out, CaseTensors::kPoison, call.tensors.out_bytes);
    std::memset(call.args().lse, CaseTensors::kPoison, call.tensors.lse_count * 4);
  }
}

// ---- What can be asked ----

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
                         "INTFLASH_BUSY"};
  for (int i = 0; i <= INTFLASH_BUSY; ++i)
    EXPECT_STREQ(intflash_status_name(static_cast<intflash_status>(i)), names[i]);
  EXPECT_STREQ(intflash_status_name(static_cast<intflash_status>(17)), "unknown status");
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
