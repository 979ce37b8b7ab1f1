// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A dense call refuses what it cannot serve: each rule by its status, with a message that names the
// argument, its value and the rule, and without touching an output.
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "api_call.h"

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
     [](ApiCall& c) { c.desc().mode = static_cast<intflash_mode>(4); },
     INTFLASH_INVALID_ARGUMENT,
     {"mode", "4", "INT8, EXACT, INTFA or INT8_QK"}},
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
     {"query_dtype", "5", "F32, F16, BF16, INT8, F8_E4M3 or F8_E5M2"}},
    {"key_dtype",
     [](ApiCall& c) { c.desc().key_dtype = static_cast<intflash_dtype>(0); },
     INTFLASH_INVALID_ARGUMENT,
     {"key_dtype", "0", "F32, F16, BF16, INT8, Q8_0, Q4_0, F8_E4M3 or F8_E5M2"}},
    {"value_dtype",
     [](ApiCall& c) { c.desc().value_dtype = static_cast<intflash_dtype>(7); },
     INTFLASH_INVALID_ARGUMENT,
     {"value_dtype", "7", "F32, F16, BF16, INT8, Q8_0, Q4_0, F8_E4M3 or F8_E5M2"}},
    {"out_dtype",
     [](ApiCall& c) { c.desc().out_dtype = INTFLASH_F8_E4M3; },
     INTFLASH_INVALID_ARGUMENT,
     {"out_dtype", "8", "F32, F16 or BF16"}},
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
     {"center", "1", "INT8 key"}},
    {"center_of_value_codes",
     [](ApiCall& c) {
       c.desc().value_dtype = INTFLASH_INT8;
       c.desc().center = INTFLASH_CENTER_KEY_VALUE;
     },
     INTFLASH_UNSUPPORTED,
     {"center", "2", "INT8 value"}},
    {"rotation_2",
     [](ApiCall& c) { c.desc().rotation = static_cast<intflash_rotation>(2); },
     INTFLASH_INVALID_ARGUMENT,
     {"rotation", "2", "AUTO or NONE"}},
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
       c.desc().center = INTFLASH_CENTER_KEY;
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

}  // namespace
}  // namespace intflash::internal
