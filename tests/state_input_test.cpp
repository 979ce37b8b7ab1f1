// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Sets of states that are bad: refused by name, and nothing is written.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "state_calls.h"

namespace intflash::internal::serving {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Two states of two rows, and where they go: each valid.
struct StateInput {
  StateInput() {
    context_of(context);
    for (OwnState& state : states) {
      std::fill(state.reference.begin(), state.reference.end(), 2.0f);
      std::fill(state.row_sum.begin(), state.row_sum.end(), 1e6f);
      std::fill(state.accumulators.begin(), state.accumulators.end(), 1.0f);
      std::fill(state.center_score.begin(), state.center_score.end(), 0.0);
    }
    args.struct_size = sizeof args;
    args.out_dtype = INTFLASH_F32;
    args.out = tensor_of(out.data(), 2, 8);
    args.lse = lse.data();
    args.num_kv_heads = 1;
  }
  ~StateInput() { intflash_context_destroy(context); }
  StateInput(const StateInput&) = delete;
  StateInput& operator=(const StateInput&) = delete;

  static void context_of(intflash_context*& context) {
    intflash_context_options options{};
    options.struct_size = sizeof options;
    options.num_threads = 1;
    EXPECT_EQ(intflash_context_create(&options, &context), INTFLASH_OK);
  }
  static Shape two_rows() {
    Shape shape;
    shape.num_kv_heads = 1;
    shape.head_dim_v = 8;
    return shape;
  }

  intflash_context* context = nullptr;
  States states = {{two_rows(), 1, 1024, 1024}, {two_rows(), 1, 2048, 2048}};
  std::vector<intflash_state> all = views(states);
  intflash_state_set set = set_of(two_rows(), 1, all);
  std::vector<float> out = std::vector<float>(16, -77), lse = std::vector<float>(2, -77);
  intflash_finish_args args{};
  OwnState own_joined{two_rows(), 1, 0, 4096};
  intflash_state joined = own_joined.view();
};

struct BadStates {
  std::function<void(StateInput&)> spoil;
  intflash_status status;
  std::vector<std::string> words;  // of the message
};

void expect_words(intflash_status found, const BadStates& bad) {
  EXPECT_STREQ(intflash_status_name(found), intflash_status_name(bad.status));
  const std::string message = intflash_last_error();
  for (const std::string& word : bad.words)
    EXPECT_NE(message.find(word), std::string::npos) << message << " lacks " << word;
}

TEST(StateSets, ThatAreBadAreRefusedAndNothingIsWritten) {
  const BadStates bad_sets[] = {
      {[](StateInput& i) { i.set.struct_size = 0; },
       INTFLASH_INVALID_ARGUMENT,
       {"set.struct_size"}},
      {[](StateInput& i) { i.set.state_size = 4; },
       INTFLASH_INVALID_ARGUMENT,
       {"states: elements of 4"}},
      {[](StateInput& i) { i.set.states = nullptr; }, INTFLASH_INVALID_ARGUMENT, {"states = NULL"}},
      {[](StateInput& i) { i.set.num_states = -1; }, INTFLASH_BAD_SHAPE, {"num_states = -1"}},
      {[](StateInput& i) { i.set.query_len = -1; }, INTFLASH_BAD_SHAPE, {"query_len = -1"}},
      {[](StateInput& i) { i.set.query_len = std::int64_t{1} << 30; },
       INTFLASH_SIZE_OVERFLOW,
       {"query_len", "num_query_heads = 2"}},
      {[](StateInput& i) { i.set.num_query_heads = 0; }, INTFLASH_BAD_SHAPE, {"num_query_heads"}},
      {[](StateInput& i) { i.set.head_dim_v = 7; }, INTFLASH_BAD_SHAPE, {"head_dim_v = 7"}},
      {[](StateInput& i) { i.all[1].num_keys = 3072; },
       INTFLASH_BAD_SHAPE,
       {"states[1]: 3072 keys from 2048", "1024 * 2^k"}},
      {[](StateInput& i) { i.all[1].num_keys = 0; }, INTFLASH_BAD_SHAPE, {"states[1]: 0 keys"}},
      {[](StateInput& i) { i.all[1].first_key = 3072; },
       INTFLASH_BAD_SHAPE,
       {"states[1]: 2048 keys from 3072"}},
      {[](StateInput& i) { i.all[1].first_key = -2048; }, INTFLASH_BAD_SHAPE, {"from -2048"}},
      {[](StateInput& i) { i.all[1].first_key = std::int64_t{1} << 31; },
       INTFLASH_BAD_SHAPE,
       {"states[1]", "below 2^31"}},
      {[](StateInput& i) { i.all[1].first_key = 0; },  // over the first state's keys
       INTFLASH_BAD_SHAPE,
       {"states[1].first_key = 0", "at least 2048"}},
      {[](StateInput& i) { std::swap(i.all[0], i.all[1]); },
       INTFLASH_BAD_SHAPE,
       {"states[1].first_key = 1024", "at least 4096"}},
      {[](StateInput& i) { i.all[0].row_sum = nullptr; },
       INTFLASH_INVALID_ARGUMENT,
       {"states[0]", "NULL"}},
      {[](StateInput& i) { i.all[1].center_score = misplaced(i.all[1].center_score); },
       INTFLASH_INVALID_ARGUMENT,
       {"states[1].center_score", "multiple of 8"}},
      {[](StateInput& i) { i.states[1].reference[1] = NAN; },
       INTFLASH_NONFINITE_INPUT,
       {"states[1], row 1", "reference = nan"}},
      {[](StateInput& i) { i.states[0].reference[0] = kInfinity; },
       INTFLASH_NONFINITE_INPUT,
       {"states[0], row 0", "reference = inf"}},
      {[](StateInput& i) { i.states[0].reference[0] = 0.5f; },
       INTFLASH_NONFINITE_INPUT,
       {"reference = 0.5", "whole"}},
      {[](StateInput& i) { i.states[0].row_sum[1] = -1; },
       INTFLASH_NONFINITE_INPUT,
       {"states[0], row 1", "row_sum = -1"}},
      {[](StateInput& i) { i.states[1].accumulators[15] = NAN; },
       INTFLASH_NONFINITE_INPUT,
       {"states[1], row 1", "accumulators"}},
      {[](StateInput& i) { i.states[1].center_score[0] = 3; },
       INTFLASH_NONFINITE_INPUT,
       {"states[1].center_score[0] = 3", "states[0]"}},
  };
  for (const BadStates& bad : bad_sets) {
    StateInput input;
    bad.spoil(input);
    expect_words(intflash_finish_states(input.context, &input.set, &input.args), bad);
    EXPECT_EQ(input.out, std::vector<float>(16, -77));
    EXPECT_EQ(input.lse, std::vector<float>(2, -77));
    expect_words(intflash_join_states(input.context, &input.set, &input.joined), bad);
    EXPECT_TRUE(std::isnan(input.own_joined.row_sum[0]));
  }
  StateInput input;
  EXPECT_EQ(intflash_finish_states(nullptr, &input.set, &input.args), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(intflash_finish_states(input.context, &input.set, &input.args), INTFLASH_OK);
  EXPECT_EQ(intflash_join_states(input.context, &input.set, &input.joined), INTFLASH_OK);
}

TEST(StateSets, AreFinishedToWhatIsValidAlone) {
  static const float centers[16] = {1, NAN};
  static const float sinks[2] = {0, NAN};
  const BadStates bad_args[] = {
      {[](StateInput& i) { i.args.struct_size = 4096; },
       INTFLASH_INVALID_ARGUMENT,
       {"args.struct_size"}},
      {[](StateInput& i) { i.args.out_dtype = INTFLASH_INT8; },
       INTFLASH_INVALID_ARGUMENT,
       {"out_dtype"}},
      {[](StateInput& i) { i.args.out.data = nullptr; }, INTFLASH_INVALID_ARGUMENT, {"out.data"}},
      {[](StateInput& i) { i.args.out.stride_token = i.args.out.stride_head = 0; },
       INTFLASH_BAD_STRIDE,
       {"out"}},
      {[](StateInput& i) { i.args.lse = misplaced(i.args.lse); },
       INTFLASH_INVALID_ARGUMENT,
       {"lse"}},
      {[](StateInput& i) { i.args.sinks = sinks; }, INTFLASH_NONFINITE_INPUT, {"sinks[1]"}},
      {[](StateInput& i) { i.args.value_center = centers; },
       INTFLASH_NONFINITE_INPUT,
       {"value_center[head 0][1]"}},
      {[](StateInput& i) {
         i.args.value_center = centers;
         i.args.num_kv_heads = 3;
       },
       INTFLASH_BAD_SHAPE,
       {"num_kv_heads = 3", "num_query_heads = 2"}},
  };
  for (const BadStates& bad : bad_args) {
    StateInput input;
    bad.spoil(input);
    expect_words(intflash_finish_states(input.context, &input.set, &input.args), bad);
    EXPECT_EQ(input.out, std::vector<float>(16, -77));
  }
}

TEST(StateSets, AreJoinedToWhatHasAllOfTheirKeys) {
  const BadStates bad_joined[] = {
      {[](StateInput& i) { i.joined.num_keys = 2048; },
       INTFLASH_BAD_SHAPE,
       {"joined: 2048 keys from 0", "1024 ... 4095"}},
      {[](StateInput& i) { i.joined.num_keys = 5000; }, INTFLASH_BAD_SHAPE, {"joined: 5000 keys"}},
      {[](StateInput& i) { i.joined.reference = nullptr; }, INTFLASH_INVALID_ARGUMENT, {"joined"}},
      {[](StateInput& i) { i.joined.row_sum = misplaced(i.joined.row_sum); },
       INTFLASH_INVALID_ARGUMENT,
       {"joined.row_sum"}},
      {[](StateInput& i) { i.set.num_states = 0; }, INTFLASH_BAD_SHAPE, {"num_states = 0"}},
  };
  for (const BadStates& bad : bad_joined) {
    StateInput input;
    bad.spoil(input);
    expect_words(intflash_join_states(input.context, &input.set, &input.joined), bad);
  }
  StateInput input;
  EXPECT_EQ(intflash_join_states(input.context, &input.set, nullptr), INTFLASH_INVALID_ARGUMENT);
}

}  // namespace
}  // namespace intflash::internal::serving
