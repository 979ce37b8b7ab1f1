// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the elements of tensors may be: NaN and infinity are found wherever they are, and every
// finite input is either answered with finite numbers or refused.
#include <cmath>
#include <cstdint>
#include <limits>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "api_call.h"
#include "inputs/tensor.h"
#include "seed.h"
#include "test_ports.h"

namespace intflash::internal {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
const float kNan = std::nanf("");

struct Position {
  std::int64_t b, h, token, c;
};
std::string text_of(const char* tensor, Position at) {
  std::ostringstream text;
  text << tensor << "[batch " << at.b << "][head " << at.h << "][token " << at.token << "][" << at.c
       << ']';
  return text.str();
}

// One input tensor of a call.
struct Input {
  const char* name;
  intflash_tensor* tensor;
  intflash_dtype dtype;
  std::int64_t batch, heads, tokens, dim;

  void set(Position at, float value) const {
    store_element(*tensor, dtype, at.b, at.h, at.token, at.c, value);
  }
  float get(Position at) const {
    return static_cast<float>(tensor_element(*tensor, dtype, at.b, at.h, at.token, at.c));
  }
  Position first() const { return {0, 0, 0, 0}; }
  Position middle() const { return {batch / 2, heads / 2, tokens / 2, dim / 2 + 1}; }
  Position last() const { return {batch - 1, heads - 1, tokens - 1, dim - 1}; }
};
std::vector<Input> inputs_of(ApiCall& call) {
  const AttentionCase& c = call.attention;
  intflash_attend_args& args = call.args();
  return {{"query", &args.query, c.query.dtype, c.batch, c.num_kv_heads * c.group_size, c.query_len,
           c.head_dim},
          {"key", &args.key, c.key.dtype, c.batch, c.num_kv_heads, c.kv_len, c.head_dim},
          {"value", &args.value, c.value.dtype, c.batch, c.num_kv_heads, c.kv_len, c.head_dim_v}};
}

TEST(NonfiniteInput, IsNamedWhereverItIs) {
  for (const intflash_mode mode : {INTFLASH_MODE_INT8, INTFLASH_MODE_EXACT, INTFLASH_MODE_INTFA}) {
    for (const intflash_dtype dtype : {INTFLASH_F32, INTFLASH_F16, INTFLASH_BF16}) {
      AttentionCase c = small_call();
      c.mode = mode;
      c.query.dtype = c.key.dtype = c.value.dtype = dtype;
      ApiCall call(c);
      for (const Input& input : inputs_of(call)) {
        for (const Position at : {input.first(), input.middle(), input.last()}) {
          for (const float value : {kNan, kInfinity, -kInfinity}) {
            const float kept = input.get(at);
            input.set(at, value);
            call.expect_refused(
                INTFLASH_NONFINITE_INPUT,
                {text_of(input.name, at), std::isnan(value) ? "nan" : "inf", "must be finite"});
            input.set(at, kept);
          }
        }
      }
      EXPECT_EQ(call.attend(), INTFLASH_OK) << intflash_last_error();
    }
  }
}

TEST(NonfiniteInput, IsFoundByEveryPortAtEveryChannel) {
  AttentionCase c = small_call();
  c.head_dim = c.head_dim_v = 72;
  for (const intflash_center center : {INTFLASH_CENTER_KEY_VALUE, INTFLASH_CENTER_NONE}) {
    c.center = center;
    for (const PortEntry& port : all_test_ports()) {
      Memory memory;
      CaseTensors tensors = make_tensors(c, memory);
      for (std::int64_t channel = 0; channel < c.head_dim; ++channel) {
        for (intflash_tensor* tensor :
             {&tensors.args.query, &tensors.args.key, &tensors.args.value}) {
          float& element = static_cast<float*>(tensor->data)[channel];
          const float kept = element;
          element = kNan;
          EXPECT_EQ(run_tensors(tensors, port, {}, memory).status, INTFLASH_NONFINITE_INPUT)
              << port.name << " channel " << channel;
          element = kept;
        }
      }
    }
  }
}

// Rows are quantized several at a time.
TEST(NonfiniteInput, IsFoundByEveryPortInEveryToken) {
  AttentionCase c = small_call();
  c.kv_len = 35;
  c.center = INTFLASH_CENTER_NONE;
  for (const PortEntry& port : all_test_ports()) {
    Memory memory;
    CaseTensors tensors = make_tensors(c, memory);
    for (std::int64_t token = 0; token < c.kv_len; ++token) {
      for (const intflash_tensor* tensor : {&tensors.args.key, &tensors.args.value}) {
        float& element = static_cast<float*>(tensor->data)[token * tensor->stride_token + 3];
        const float kept = element;
        element = -kInfinity;
        EXPECT_EQ(run_tensors(tensors, port, {}, memory).status, INTFLASH_NONFINITE_INPUT)
            << port.name << " token " << token;
        element = kept;
      }
    }
  }
}

// A stride is not used where there is one element, and may then be anything.
TEST(Strides, OfOneTokenMayBeAnything) {
  AttentionCase c = small_call();
  c.query_len = c.kv_len = 1;
  for (const PortEntry& port : all_test_ports()) {
    Memory memory;
    CaseTensors tensors = make_tensors(c, memory);
    const CaseResult expected = run_tensors(tensors, port, {}, memory);
    for (intflash_tensor* tensor : {&tensors.args.query, &tensors.args.key, &tensors.args.value})
      tensor->stride_token = INT64_MAX;
    EXPECT_EQ(difference(c, run_tensors(tensors, port, {}, memory), expected), "") << port.name;
  }
}

TEST(NonfiniteInput, OfTheLowestPositionIsReported) {
  AttentionCase c = small_call();
  c.kv_len = 2500;  // three chunks of a scan
  c.query_len = 3;  // one tile of a head's rows on every port
  const std::pair<intflash_center, std::int32_t> ways[] = {{INTFLASH_CENTER_KEY_VALUE, 1},
                                                           {INTFLASH_CENTER_KEY_VALUE, 3},
                                                           {INTFLASH_CENTER_NONE, 1},
                                                           {INTFLASH_CENTER_NONE, 3},
                                                           {INTFLASH_CENTER_NONE, 5}};
  for (const auto& [center, threads] : ways) {
    c.center = center;
    ApiCall call(c, threads);
    const Input key = inputs_of(call)[1];
    const Position order[] = {{1, 1, 2499, 15}, {1, 0, 1024, 0}, {0, 1, 2000, 3}, {0, 1, 1023, 15},
                              {0, 1, 1023, 2},  {0, 0, 2499, 9}, {0, 0, 7, 9},    {0, 0, 0, 0}};
    for (const Position at : order) {  // each lower than those before it, which stay
      key.set(at, at.c % 2 == 0 ? kNan : kInfinity);
      call.expect_refused(INTFLASH_NONFINITE_INPUT, {text_of("key", at)});
    }
  }
}

TEST(NonfiniteInput, BetweenTheRowsIsNotLookedAt) {
  AttentionCase c = small_call();
  c.query.layout = c.key.layout = c.value.layout = Layout::kPaddedRows;  // NaN in the padding
  for (const intflash_mode mode : {INTFLASH_MODE_INT8, INTFLASH_MODE_EXACT}) {
    c.mode = mode;
    ApiCall call(c);
    EXPECT_EQ(call.attend(), INTFLASH_OK) << intflash_last_error();
  }
}

TEST(NonfiniteInput, OfPackIsFoundByPackAndOfQueryByRunPacked) {
  ApiCall call;
  intflash_plan* plan = nullptr;
  ASSERT_EQ(intflash_plan_attend(call.context, &call.desc(), &plan), INTFLASH_OK);
  const std::size_t bytes = intflash_plan_workspace_bytes(plan);
  std::byte* workspace = call.memory.take(bytes);
  const std::vector<Input> inputs = inputs_of(call);
  const float kept = inputs[2].get(inputs[2].last());
  inputs[2].set(inputs[2].last(), kNan);
  call.expect_refusal(intflash_pack(plan, &call.args(), workspace, bytes), INTFLASH_NONFINITE_INPUT,
                      {text_of("value", inputs[2].last())});
  inputs[2].set(inputs[2].last(), kept);
  ASSERT_EQ(intflash_pack(plan, &call.args(), workspace, bytes), INTFLASH_OK);
  inputs[0].set(inputs[0].middle(), kInfinity);
  call.expect_refusal(intflash_run_packed(plan, &call.args(), workspace, bytes),
                      INTFLASH_NONFINITE_INPUT, {text_of("query", inputs[0].middle())});
  intflash_plan_destroy(plan);
}

TEST(BadCodes, OfMinus128AreNamedWhereverTheyAre) {
  for (const intflash_mode mode : {INTFLASH_MODE_INT8, INTFLASH_MODE_EXACT, INTFLASH_MODE_INTFA}) {
    AttentionCase c = small_call();
    c.mode = mode;
    c.query.dtype = c.key.dtype = c.value.dtype = INTFLASH_INT8;
    ApiCall call(c);
    for (const Input& input : inputs_of(call)) {
      for (const Position at : {input.first(), input.middle(), input.last()}) {
        const intflash_tensor& t = *input.tensor;
        std::int8_t& code =
            static_cast<std::int8_t*>(t.data)[at.b * t.stride_batch + at.h * t.stride_head +
                                              at.token * t.stride_token + at.c];
        const std::int8_t kept = code;
        code = -128;
        call.expect_refused(INTFLASH_INVALID_ARGUMENT,
                            {text_of(input.name, at), "-128", "-127 ... 127"});
        code = kept;
      }
    }
  }
}

TEST(Overflow, OfScoresAndOfValuesIsRefused) {
  AttentionCase c = small_call();
  c.query.magnitude = c.key.magnitude = 1e20f;
  ApiCall scores(c);
  scores.expect_refused(INTFLASH_SCORE_OVERFLOW, {"query and key", "head_dim 16", "2^126"});
  c = small_call();
  c.value.magnitude = 1e30f;
  ApiCall values(c);
  values.expect_refused(INTFLASH_SCORE_OVERFLOW, {"value", "2^90"});
  c = small_call();
  c.center = INTFLASH_CENTER_KEY_VALUE;
  c.given_centers = true;
  ApiCall center(c);
  const_cast<float*>(center.args().value_center)[11] = 3e38f;
  center.expect_refused(INTFLASH_SCORE_OVERFLOW, {"value_center", "2^90"});
}

// Every combination of magnitudes, centres, rotation and cap.
TEST(Magnitudes, OfFiniteInputsGiveFiniteOutputsOrARefusal) {
  const std::vector<float> magnitudes = {0.0f, 1e-38f, 1e-20f, 1e-2f, 1.0f, 1e5f, 1e18f, 3e36f};
  int refused = 0;
  int answered = 0;
  for (const float query : magnitudes) {
    for (const float key : magnitudes) {
      for (const int kind : {0, 1, 2, 3, 4, 5}) {
        AttentionCase c;
        c.query_len = 3;
        c.kv_len = 70;  // more than the 64 rows whose sum is in f32
        c.head_dim = c.head_dim_v = 32;
        c.seed = seed_from_test_name();
        c.query.magnitude = query;
        c.key.magnitude = key;
        c.value.magnitude = kind == 5 ? 1e25f : 1.0f;
        c.data = CaseData::kChannelBias;
        c.center = kind == 1 ? INTFLASH_CENTER_NONE : INTFLASH_CENTER_KEY_VALUE;
        c.given_centers = kind == 2;
        c.rotate = kind == 3;
        c.score_cap = kind == 4 ? 30 : 0;
        const CaseResult result = run_case(c, scalar_port());
        if (result.status != INTFLASH_OK) {
          EXPECT_EQ(result.status, INTFLASH_SCORE_OVERFLOW) << describe(c);
          ++refused;
          continue;
        }
        ++answered;
        const Numbers numbers = numbers_of(c, result);
        for (const double x : numbers.out) ASSERT_TRUE(std::isfinite(x)) << describe(c);
        for (const double x : numbers.lse) ASSERT_TRUE(std::isfinite(x)) << describe(c);
        for (const PortEntry& port : ports_under_test())
          EXPECT_EQ(difference(c, run_case(c, port), result), "") << port.name << describe(c);
        c.mode = INTFLASH_MODE_EXACT;
        const Numbers exact = numbers_of(c, run_case(c, scalar_port()));
        // Scores are of the size of query * key: quantization takes a few of their hundredths.
        const double size = static_cast<double>(query) * static_cast<double>(key);
        for (std::size_t i = 0; i < exact.lse.size(); ++i)
          ASSERT_NEAR(numbers.lse[i], exact.lse[i], 0.05 + 4 * size) << describe(c);
      }
    }
  }
  EXPECT_GT(answered, 200);
  EXPECT_GT(refused, 20);
}

TEST(Magnitudes, OfTheSoftmaxScaleDoNotSpoilZeroRows) {
  for (const float scale : {1e-45f, 1e-38f, 1e30f, 3e38f}) {
    for (const bool zero_query : {true, false}) {
      for (const float cap : {0.0f, 10.0f}) {
        AttentionCase c = small_call();
        c.softmax_scale = scale;
        c.score_cap = cap;
        c.query.magnitude = zero_query ? 0.0f : 1.0f;
        c.key.magnitude = zero_query ? 1.0f : 0.0f;
        const CaseResult result = run_case(c, scalar_port());
        if (scale > 1e37f && result.status == INTFLASH_BAD_SCALE) continue;
        ASSERT_EQ(result.status, INTFLASH_OK) << result.error;
        for (const float lse : result.lse) ASSERT_NEAR(lse, std::log(7.0f), 0.02f) << describe(c);
      }
    }
  }
}

}  // namespace
}  // namespace intflash::internal
