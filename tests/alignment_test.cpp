// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Every pointer that a call is given has the natural alignment of what it points to, or is refused
// by name before it is read.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>

#include <gtest/gtest.h>

#include "api_call.h"
#include "serving_input.h"

namespace intflash::internal {
namespace {

using serving::ServingInput;

// One byte behind where a T may lie, of memory that is as nobody has written to it.
template <class T>
T* misplaced() {
  alignas(64) static std::array<std::byte, 1024> memory = [] {
    std::array<std::byte, 1024> untouched;
    untouched.fill(static_cast<std::byte>(CaseTensors::kPoison));
    return untouched;
  }();
  return reinterpret_cast<T*>(memory.data() + 1);
}

template <class Call>
struct Misplacement {
  const char* pointer;  // as the message names it
  std::function<void(Call&)> make;
};

TEST(Alignment, OfEveryPointerOfADenseCallIsChecked) {
  const Misplacement<ApiCall> misplacements[] = {
      {"query.data", [](ApiCall& c) { c.args().query.data = misplaced<float>(); }},
      {"key.data", [](ApiCall& c) { c.args().key.data = misplaced<float>(); }},
      {"value.data", [](ApiCall& c) { c.args().value.data = misplaced<float>(); }},
      {"out.data", [](ApiCall& c) { c.args().out.data = misplaced<float>(); }},
      {"lse", [](ApiCall& c) { c.args().lse = misplaced<float>(); }},
      {"key_center", [](ApiCall& c) { c.args().key_center = misplaced<float>(); }},
      {"value_center",
       [](ApiCall& c) {
         c.desc().center = INTFLASH_CENTER_KEY_VALUE;
         c.args().value_center = misplaced<float>();
       }},
      {"sinks", [](ApiCall& c) { c.args().sinks = misplaced<float>(); }},
      {"alibi_slopes", [](ApiCall& c) { c.args().alibi_slopes = misplaced<float>(); }},
      {"additive_mask.data",
       [](ApiCall& c) {
         c.args().additive_mask.data = misplaced<std::uint16_t>();
         c.args().additive_mask.dtype = INTFLASH_F16;
       }},
      {"additive_mask.head_scale",
       [](ApiCall& c) {
         static const float zeros[7] = {};
         c.args().additive_mask.data = zeros;
         c.args().additive_mask.dtype = INTFLASH_F32;
         c.args().additive_mask.head_scale = misplaced<float>();
       }},
      {"bit_mask.words",
       [](ApiCall& c) {
         c.args().bit_mask = {misplaced<std::uint64_t>(), 7};
       }},
  };
  for (const Misplacement<ApiCall>& misplacement : misplacements) {
    ApiCall call;
    misplacement.make(call);
    call.expect_refused(INTFLASH_INVALID_ARGUMENT,
                        {misplacement.pointer + std::string(" = 0x"), "must be a multiple of"});
  }
}

TEST(Alignment, OfScalesIsCheckedAndCodesMayLieAnywhere) {
  AttentionCase c = small_call();
  c.query.dtype = c.key.dtype = c.value.dtype = INTFLASH_INT8;
  ApiCall call(c);
  call.args().key.scale = misplaced<float>();
  call.expect_refused(INTFLASH_INVALID_ARGUMENT, {"key.scale = 0x", "must be a multiple of 4"});
  ApiCall moved(c);
  const std::size_t bytes = 2 * 2 * 7 * 16;
  std::vector<std::int8_t> codes(bytes + 1);
  std::memcpy(codes.data() + 1, moved.args().key.data, bytes);
  moved.args().key.data = codes.data() + 1;
  EXPECT_EQ(moved.attend(), INTFLASH_OK) << intflash_last_error();
}

TEST(Alignment, OfEveryPointerOfABatchIsChecked) {
  const Misplacement<ServingInput> misplacements[] = {
      {"query.data", [](ServingInput& i) { i.batch.args.query.data = misplaced<float>(); }},
      {"out.data", [](ServingInput& i) { i.batch.args.out.data = misplaced<float>(); }},
      {"lse", [](ServingInput& i) { i.batch.args.lse = misplaced<float>(); }},
      {"page_indptr",
       [](ServingInput& i) { i.batch.args.pages.page_indptr = misplaced<std::int64_t>(); }},
      {"page_ids",
       [](ServingInput& i) { i.batch.args.pages.page_ids = misplaced<std::int32_t>(); }},
      {"rope.cos",
       [](ServingInput& i) {
         i.batch.args.rope.cos = misplaced<float>();
         i.batch.args.rope.sin = i.tokens.key.data();
       }},
      {"rope.sin",
       [](ServingInput& i) {
         i.batch.args.rope.cos = i.tokens.key.data();
         i.batch.args.rope.sin = misplaced<float>();
       }},
      {"sinks", [](ServingInput& i) { i.batch.args.sinks = misplaced<float>(); }},
      {"alibi_slopes", [](ServingInput& i) { i.batch.args.alibi_slopes = misplaced<float>(); }},
      {"additive_masks",
       [](ServingInput& i) { i.batch.args.additive_masks = misplaced<intflash_additive_mask>(); }},
      {"additive_masks[1].data",
       [](ServingInput& i) {
         i.batch.additive_masks.assign(2, {});
         i.batch.additive_masks[1].data = misplaced<float>();
         i.batch.additive_masks[1].dtype = INTFLASH_F32;
         i.batch.args.additive_masks = i.batch.additive_masks.data();
       }},
      {"bit_masks",
       [](ServingInput& i) { i.batch.args.bit_masks = misplaced<intflash_bit_mask>(); }},
      {"bit_masks[1].words",
       [](ServingInput& i) {
         i.batch.bit_masks.assign(2, {});
         i.batch.bit_masks[1] = {misplaced<std::uint64_t>(), 7};
         i.batch.args.bit_masks = i.batch.bit_masks.data();
       }},
  };
  for (const Misplacement<ServingInput>& misplacement : misplacements) {
    ServingInput input;
    ASSERT_EQ(input.batch.make_plan(input.context, input.cache), INTFLASH_OK);
    misplacement.make(input);
    input.expect_refusal(input.batch.run(input.cache), INTFLASH_INVALID_ARGUMENT,
                         {misplacement.pointer + std::string(" = 0x"), "must be a multiple of"});
  }
}

TEST(Alignment, OfWhatABatchIsPlannedOfIsChecked) {
  ServingInput input;
  intflash_plan* plan = nullptr;
  intflash_batch_desc desc = input.batch.desc;
  desc.requests = misplaced<intflash_request>();
  input.expect_refusal(intflash_plan_batch(input.context, input.cache, &desc, &plan),
                       INTFLASH_INVALID_ARGUMENT, {"requests = 0x", "must be a multiple of 8"});
  desc = input.batch.desc;
  desc.shared_prefixes = misplaced<intflash_shared_prefix>();
  desc.num_shared_prefixes = 1;
  input.expect_refusal(intflash_plan_batch(input.context, input.cache, &desc, &plan),
                       INTFLASH_INVALID_ARGUMENT,
                       {"shared_prefixes = 0x", "must be a multiple of 8"});
  EXPECT_EQ(plan, nullptr);
}

TEST(Alignment, OfEveryPointerOfAnAppendIsChecked) {
  const Misplacement<ServingInput> misplacements[] = {
      {"token_indptr", [](ServingInput& i) { i.append.token_indptr = misplaced<std::int64_t>(); }},
      {"kv_lens", [](ServingInput& i) { i.append.kv_lens = misplaced<std::int64_t>(); }},
      {"first_key_positions",
       [](ServingInput& i) { i.append.first_key_positions = misplaced<std::int64_t>(); }},
      {"slots", [](ServingInput& i) { i.append.slots = misplaced<std::int64_t>(); }},
      {"positions",
       [](ServingInput& i) {
         i.append.slots = i.token_indptr;
         i.append.positions = misplaced<std::int64_t>();
       }},
      {"page_indptr",
       [](ServingInput& i) { i.append.pages.page_indptr = misplaced<std::int64_t>(); }},
      {"page_ids", [](ServingInput& i) { i.append.pages.page_ids = misplaced<std::int32_t>(); }},
      {"key.data", [](ServingInput& i) { i.append.key.data = misplaced<float>(); }},
      {"value.data", [](ServingInput& i) { i.append.value.data = misplaced<float>(); }},
  };
  for (const Misplacement<ServingInput>& misplacement : misplacements) {
    ServingInput input;
    misplacement.make(input);
    input.expect_refusal(intflash_cache_append(input.cache, &input.append),
                         INTFLASH_INVALID_ARGUMENT,
                         {misplacement.pointer + std::string(" = 0x"), "must be a multiple of"});
  }
}

TEST(Alignment, OfCentresAndOfExportedPagesIsChecked) {
  ServingInput input;
  intflash_cache_options options = input.cache_options();
  options.key_center = misplaced<float>();
  intflash_cache* cache = nullptr;
  input.expect_refusal(intflash_cache_create(input.context, &options, &cache),
                       INTFLASH_INVALID_ARGUMENT, {"key_center = 0x", "must be a multiple of 4"});
  EXPECT_EQ(cache, nullptr);
  input.expect_refusal(
      intflash_cache_export(input.cache, misplaced<std::int32_t>(), 0, 64, nullptr, nullptr),
      INTFLASH_INVALID_ARGUMENT, {"page_ids = 0x", "must be a multiple of 4"});
}

TEST(Alignment, OfStatesIsChecked) {
  const auto refused = [](const float* out_of_state, float* out, const char* words) {
    const float lse_of_state[] = {0};
    const intflash_tensor outs[] = {serving::tensor_of(out_of_state, 1, 1)};
    const intflash_tensor target = serving::tensor_of(out, 1, 1);
    const float* const lses[] = {lse_of_state};
    float lse = 0;
    EXPECT_EQ(intflash_merge_states(1, outs, lses, 1, 1, 1, &target, &lse),
              INTFLASH_INVALID_ARGUMENT);
    EXPECT_NE(std::string(intflash_last_error()).find(words), std::string::npos)
        << intflash_last_error();
  };
  const float in[] = {1};
  float out[1];
  refused(misplaced<float>(), out, "outs[0].data = 0x");
  refused(in, misplaced<float>(), "out.data = 0x");
}

}  // namespace
}  // namespace intflash::internal
