// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The owners of intflash.hpp, as a C++17 program that links the library alone uses them.
#include <intflash/intflash.hpp>

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace {

constexpr std::int64_t kHeads = 2, kTokens = 4, kDim = 16, kElements = kHeads * kTokens * kDim;

struct Call {
  Call() : query(kElements), key(kElements), value(kElements), out(kElements) {
    for (std::size_t i = 0; i < query.size(); ++i) {
      query[i] = static_cast<float>(i % 5) - 2;
      key[i] = static_cast<float>(i % 7) - 3;
      value[i] = static_cast<float>(i % 11) - 5;
    }
    desc.num_query_heads = desc.num_kv_heads = kHeads;
    desc.query_len = desc.kv_len = kTokens;
    desc.head_dim = kDim;
    args.query = intflash::contiguous(query.data(), kHeads, kTokens, kDim);
    args.key = intflash::contiguous(key.data(), kHeads, kTokens, kDim);
    args.value = intflash::contiguous(value.data(), kHeads, kTokens, kDim);
    args.out = intflash::contiguous(out.data(), kHeads, kTokens, kDim);
  }
  std::vector<float> query, key, value, out;
  intflash_attend_desc desc = intflash::attend_desc();
  intflash_attend_args args = intflash::attend_args();
};

TEST(CppInterface, APlanGivesWhatAttendGives) {
  Call call;
  const intflash::Context context;
  context.attend(call.desc, call.args);
  const std::vector<float> expected = call.out;
  const intflash::Plan plan(context, call.desc);
  intflash::Workspace workspace = plan.make_workspace();
  EXPECT_EQ(workspace.bytes(), plan.info().workspace_bytes);
  call.out.assign(kElements, 0.0f);
  plan.run(call.args, workspace);
  EXPECT_EQ(call.out, expected);
  call.out.assign(kElements, 0.0f);
  plan.pack(call.args, workspace);
  plan.run_packed(call.args, workspace);
  EXPECT_EQ(call.out, expected);
}

TEST(CppInterface, AFailedCallThrowsItsStatusAndMessage) {
  Call call;
  call.desc.head_dim = 12;
  const intflash::Context context;
  try {
    context.attend(call.desc, call.args);
    FAIL() << "no exception";
  } catch (const intflash::Error& error) {
    EXPECT_EQ(error.status(), INTFLASH_BAD_SHAPE);
    EXPECT_NE(std::string(error.what()).find("head_dim"), std::string::npos);
  }
  EXPECT_THROW(intflash::Plan(context, call.desc), intflash::Error);
  intflash_context_options options = intflash::context_options();
  options.isa = "no such port";
  EXPECT_THROW(intflash::Context{options}, intflash::Error);
}

TEST(CppInterface, AContextTellsItsPortAndThreads) {
  intflash_context_options options = intflash::context_options();
  options.isa = "scalar";
  options.num_threads = 3;
  const intflash::Context context(options);
  EXPECT_STREQ(context.port(), "scalar");
  EXPECT_EQ(context.num_threads(), 3);
}

TEST(CppInterface, OwnersMoveAndDoNotCopy) {
  static_assert(std::is_nothrow_move_constructible_v<intflash::Context>);
  static_assert(std::is_nothrow_move_constructible_v<intflash::Plan>);
  static_assert(!std::is_copy_constructible_v<intflash::Context>);
  static_assert(!std::is_copy_constructible_v<intflash::Plan>);
  Call call;
  intflash::Context first;
  const intflash::Context second = std::move(first);
  EXPECT_EQ(first.get(), nullptr);
  second.attend(call.desc, call.args);
}

TEST(CppInterface, StructsBeginZeroedWithTheirSize) {
  EXPECT_EQ(intflash::attend_desc().struct_size, sizeof(intflash_attend_desc));
  EXPECT_EQ(intflash::attend_desc().out_dtype, INTFLASH_F32);
  EXPECT_EQ(intflash::attend_args().struct_size, sizeof(intflash_attend_args));
  EXPECT_EQ(intflash::context_options().struct_size, sizeof(intflash_context_options));
}

}  // namespace
