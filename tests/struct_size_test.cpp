// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A caller of an older header has structs that end sooner: what it does not know is 0, and is
// neither read nor written. A caller of a newer header is refused.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "api_call.h"
#include "serving_input.h"

namespace intflash::internal {
namespace {

using serving::BatchCall;
using serving::ServingInput;

// The first bytes of some structs, in memory of just that size.
class Cut {
 public:
  template <class T>
  Cut(const T* structs, std::size_t count, std::size_t bytes)
      : memory_(std::malloc(count * bytes), std::free) {
    for (std::size_t i = 0; i < count; ++i)
      std::memcpy(static_cast<char*>(memory_.get()) + i * bytes, structs + i, bytes);
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(memory_.get());
  }

 private:
  std::unique_ptr<void, void (*)(void*)> memory_;
};

// A struct with struct_size, as a caller has it that knows its first bytes.
template <class T>
Cut cut(T whole, std::size_t bytes) {
  whole.struct_size = static_cast<std::uint32_t>(bytes);
  return {&whole, 1, bytes};
}

TEST(OlderHeader, ADenseCallIsAsWithTheLaterFieldsZero) {
  ApiCall call;
  const Cut options = cut(intflash_context_options{}, offsetof(intflash_context_options, l2_bytes));
  intflash_context* context = nullptr;
  ASSERT_EQ(intflash_context_create(options.as<intflash_context_options>(), &context), INTFLASH_OK)
      << intflash_last_error();
  ASSERT_EQ(call.attend(), INTFLASH_OK);
  const std::vector<std::byte> expected(call.tensors.out,
                                        call.tensors.out + call.tensors.out_bytes);
  std::memset(call.tensors.out, CaseTensors::kPoison, call.tensors.out_bytes);
  const Cut desc = cut(call.desc(), offsetof(intflash_attend_desc, prefix_len));
  const Cut args = cut(call.args(), offsetof(intflash_attend_args, sinks));
  ASSERT_EQ(
      intflash_attend(context, desc.as<intflash_attend_desc>(), args.as<intflash_attend_args>()),
      INTFLASH_OK)
      << intflash_last_error();
  EXPECT_EQ(std::memcmp(call.tensors.out, expected.data(), expected.size()), 0);
  intflash_context_destroy(context);
}

TEST(OlderHeader, InfosAreFilledAsFarAsTheyGo) {
  ApiCall call;
  const Cut info = cut(intflash_plan_info{}, offsetof(intflash_plan_info, num_threads));
  ASSERT_EQ(intflash_query_support(call.context, &call.desc(), info.as<intflash_plan_info>()),
            INTFLASH_OK);
  EXPECT_STREQ(info.as<intflash_plan_info>()->mode, "int8");
  EXPECT_EQ(info.as<intflash_plan_info>()->struct_size, offsetof(intflash_plan_info, num_threads));
  const Cut port = cut(intflash_port_info{}, offsetof(intflash_port_info, built));
  ASSERT_EQ(intflash_get_port(intflash_num_ports() - 1, port.as<intflash_port_info>()),
            INTFLASH_OK);
  EXPECT_STREQ(port.as<intflash_port_info>()->name, "scalar");
  ServingInput input;
  const Cut cache = cut(intflash_cache_info{}, offsetof(intflash_cache_info, num_sequences));
  ASSERT_EQ(intflash_cache_get_info(input.cache, cache.as<intflash_cache_info>()), INTFLASH_OK);
  EXPECT_EQ(cache.as<intflash_cache_info>()->num_pages, 8);
}

TEST(OlderHeader, ACacheAndABatchAreAsWithTheLaterFieldsZero) {
  const serving::AlignedMemory arena = serving::aligned_memory(ServingInput::kArenaBytes);
  std::memset(arena.get(), ServingInput::kPoison, ServingInput::kArenaBytes);
  ServingInput input;
  BatchCall& batch = input.batch;
  batch.additive_masks[1].data = input.tokens.key.data();
  batch.additive_masks[1].dtype = INTFLASH_F32;
  ASSERT_EQ(intflash_cache_append(input.cache, &input.append), INTFLASH_OK);
  ASSERT_EQ(batch.make_plan(input.context, input.cache), INTFLASH_OK);
  ASSERT_EQ(batch.run(input.cache), INTFLASH_OK) << intflash_last_error();
  const std::vector<float> expected = batch.out;
  std::fill(batch.out.begin(), batch.out.end(), ServingInput::kUntouched);

  intflash_cache_options own = input.cache_options();
  own.arena = arena.get();
  own.arena_bytes = ServingInput::kArenaBytes;
  const Cut options = cut(own, offsetof(intflash_cache_options, rotation));
  input.other_cache = input.create_cache(*options.as<intflash_cache_options>());
  const Cut append = cut(input.append, offsetof(intflash_append_args, rope));
  ASSERT_EQ(intflash_cache_append(input.other_cache, append.as<intflash_append_args>()),
            INTFLASH_OK)
      << intflash_last_error();

  constexpr std::size_t kRequest = offsetof(intflash_request, prefix_len);
  const Cut requests(batch.requests.data(), 2, kRequest);
  intflash_batch_desc desc = batch.desc;
  desc.requests = requests.as<intflash_request>();
  desc.request_size = kRequest;
  const Cut old_desc = cut(desc, offsetof(intflash_batch_desc, shared_prefixes));
  intflash_plan_destroy(std::exchange(batch.plan, nullptr));
  ASSERT_EQ(intflash_plan_batch(input.context, input.other_cache,
                                old_desc.as<intflash_batch_desc>(), &batch.plan),
            INTFLASH_OK)
      << intflash_last_error();

  constexpr std::size_t kMask = offsetof(intflash_additive_mask, head_scale);
  const Cut masks(batch.additive_masks.data(), 2, kMask);
  intflash_batch_args args = batch.args;
  args.additive_masks = masks.as<intflash_additive_mask>();
  args.additive_mask_size = kMask;
  const Cut old_args = cut(args, offsetof(intflash_batch_args, bit_masks));
  ASSERT_EQ(intflash_run_batch(batch.plan, input.other_cache, old_args.as<intflash_batch_args>(),
                               batch.workspace.get(), batch.workspace_bytes),
            INTFLASH_OK)
      << intflash_last_error();
  EXPECT_EQ(batch.out, expected);
}

TEST(NewerHeader, ALargerStructIsRefused) {
  ApiCall call;
  call.desc().struct_size += 8;
  call.expect_refused(INTFLASH_INVALID_ARGUMENT,
                      {"desc.struct_size", std::to_string(sizeof(intflash_attend_desc) + 8),
                       "at most " + std::to_string(sizeof(intflash_attend_desc))});
  call.desc().struct_size -= 8;
  call.args().struct_size += 8;
  call.expect_refused(INTFLASH_INVALID_ARGUMENT, {"args.struct_size", "intflash_attend_args"});
  intflash_plan_info info{};
  info.struct_size = sizeof info + 8;
  call.expect_refusal(intflash_query_support(call.context, &call.desc(), &info),
                      INTFLASH_INVALID_ARGUMENT, {"info.struct_size", "intflash_plan_info"});
}

TEST(NewerHeader, ElementsOfAnotherSizeAreRefused) {
  for (const std::size_t size : {std::size_t{0}, std::size_t{12}, sizeof(intflash_request) + 8}) {
    ServingInput input;
    input.batch.desc.request_size = static_cast<std::uint32_t>(size);
    input.expect_refusal(input.batch.make_plan(input.context, input.cache),
                         INTFLASH_INVALID_ARGUMENT,
                         {"requests: elements of " + std::to_string(size), "intflash_request"});
  }
  ServingInput input;
  ASSERT_EQ(input.batch.make_plan(input.context, input.cache), INTFLASH_OK);
  input.batch.args.bit_mask_size = 0;
  input.expect_refusal(input.batch.run(input.cache), INTFLASH_INVALID_ARGUMENT,
                       {"bit_masks: elements of 0", "intflash_bit_mask"});
}

}  // namespace
}  // namespace intflash::internal
