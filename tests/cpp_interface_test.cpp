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

// A cache with room for the call's tokens in several sequences.
struct Server {
  Server() : cache(context, options()) {}
  static intflash_cache_options options() {
    intflash_cache_options options = intflash::cache_options();
    options.num_kv_heads = kHeads;
    options.head_dim = kDim;
    options.num_pages = 4;
    return options;
  }
  void append(const Call& call, const intflash::Sequence& sequence) {
    const std::int64_t token_indptr[] = {0, kTokens};
    const std::int32_t number = sequence.number();
    intflash_append_args args = intflash::append_args();
    args.num_requests = 1;
    args.token_indptr = token_indptr;
    args.key = call.args.key;
    args.value = call.args.value;
    cache.append(&number, args);
  }
  // The call's queries over a sequence, which holds its tokens.
  std::vector<float> attend(const Call& call, const intflash::Sequence& sequence) const {
    intflash_request request{};
    request.query_len = kTokens;
    request.kv_len = sequence.kv_len();
    intflash_batch_desc desc = intflash::batch_desc();
    desc.num_requests = 1;
    desc.requests = &request;
    desc.num_query_heads = kHeads;
    const intflash::Plan plan(context, cache, desc);
    intflash::Workspace workspace = plan.make_workspace();
    EXPECT_EQ(workspace.bytes(), plan.info().workspace_bytes);
    std::vector<float> out(kElements);
    const auto [page_ids, num_pages] = sequence.pages();
    const std::int64_t page_indptr[] = {0, num_pages};
    intflash_batch_args args = intflash::batch_args();
    args.query = call.args.query;
    args.out = intflash::contiguous(out.data(), kHeads, kTokens, kDim);
    args.pages = {page_indptr, page_ids};
    plan.run(cache, args, workspace);
    return out;
  }

  intflash::Context context;
  intflash::Cache cache;
};

TEST(CppInterface, ACacheAndABatchGiveWhatAttendGives) {
  Call call;
  Server server;
  call.desc.center = INTFLASH_CENTER_NONE;
  server.context.attend(call.desc, call.args);
  const intflash::Sequence sequence(server.cache);
  server.append(call, sequence);
  EXPECT_EQ(server.attend(call, sequence), call.out);
}

TEST(CppInterface, StatesOfABatchComeToWhatAttendGives) {
  Call call;
  Server server;
  call.desc.center = INTFLASH_CENTER_NONE;
  server.context.attend(call.desc, call.args);
  const intflash::Sequence sequence(server.cache);
  server.append(call, sequence);
  intflash_request request{};
  request.query_len = request.kv_len = kTokens;
  intflash_batch_desc desc = intflash::batch_desc();
  desc.num_requests = 1;
  desc.requests = &request;
  desc.num_query_heads = kHeads;
  const intflash::Plan plan(server.context, server.cache, desc);
  intflash::Workspace workspace = plan.make_workspace();
  ASSERT_EQ(plan.num_states(0), 1);
  intflash_state state = plan.state(0, 0);
  std::vector<float> reference(kTokens * kHeads), row_sum(kTokens * kHeads), values(kElements);
  std::vector<double> center_score(kTokens * kHeads);
  state.reference = reference.data();
  state.row_sum = row_sum.data();
  state.accumulators = values.data();
  state.center_score = center_score.data();
  const std::int32_t number = sequence.number();
  intflash_batch_args args = intflash::batch_args();
  args.query = call.args.query;
  args.sequences = &number;
  args.states = &state;
  plan.run(server.cache, args, workspace);
  intflash_state_set set = intflash::state_set();
  set.states = &state;
  set.num_states = 1;
  set.query_len = kTokens;
  set.num_query_heads = kHeads;
  set.head_dim_v = kDim;
  intflash::join_states(server.context, set, state);
  std::vector<float> out(kElements);
  intflash_finish_args finish = intflash::finish_args();
  finish.out = intflash::contiguous(out.data(), kHeads, kTokens, kDim);
  intflash::finish_states(server.context, set, finish);
  EXPECT_EQ(out, call.out);
}

TEST(CppInterface, SequencesAreFreedWithTheirOwners) {
  Call call;
  Server server;
  {
    intflash::Sequence first(server.cache);
    server.append(call, first);
    const intflash::Sequence fork = first.fork();
    first.truncate(1);
    EXPECT_EQ(first.kv_len(), 1);
    EXPECT_EQ(fork.kv_len(), kTokens);
    EXPECT_EQ(fork.first_key_position(), 0);
    intflash::Sequence moved = std::move(first);
    EXPECT_EQ(server.cache.info().num_sequences, 2);
    moved = intflash::Sequence(server.cache);
    EXPECT_EQ(moved.kv_len(), 0);
    EXPECT_EQ(server.cache.info().num_sequences, 2);
    EXPECT_EQ(server.cache.info().free_pages, 3);
    EXPECT_THROW(moved.truncate(1), intflash::Error);
    EXPECT_THROW(moved.drop_before(1), intflash::Error);
  }
  EXPECT_EQ(server.cache.info().num_sequences, 0);
  EXPECT_EQ(server.cache.info().free_pages, 4);
}

TEST(CppInterface, ASavedSequenceComesBack) {
  Call call;
  Server server;
  const intflash::Sequence sequence(server.cache);
  server.append(call, sequence);
  std::string file;
  const auto write = [](void* user, const void* bytes, std::size_t count) {
    static_cast<std::string*>(user)->append(static_cast<const char*>(bytes), count);
    return count;
  };
  const auto read = [](void* user, void* bytes, std::size_t count) {
    std::string& left = *static_cast<std::string*>(user);
    count = left.copy(static_cast<char*>(bytes), count);
    left.erase(0, count);
    return count;
  };
  sequence.save(write, &file);
  const intflash::Sequence loaded = intflash::Sequence::load(server.cache, read, &file);
  EXPECT_EQ(server.attend(call, loaded), server.attend(call, sequence));
  EXPECT_THROW(intflash::Sequence::load(server.cache, read, &file), intflash::Error);
  EXPECT_EQ(server.cache.info().num_sequences, 2);
}

TEST(CppInterface, OwnersMoveAndDoNotCopy) {
  static_assert(std::is_nothrow_move_constructible_v<intflash::Context>);
  static_assert(std::is_nothrow_move_constructible_v<intflash::Plan>);
  static_assert(!std::is_copy_constructible_v<intflash::Context>);
  static_assert(!std::is_copy_constructible_v<intflash::Plan>);
  static_assert(std::is_nothrow_move_constructible_v<intflash::Cache>);
  static_assert(std::is_nothrow_move_assignable_v<intflash::Sequence>);
  static_assert(!std::is_copy_constructible_v<intflash::Cache>);
  static_assert(!std::is_copy_constructible_v<intflash::Sequence>);
  Call call;
  intflash::Context first;
  const intflash::Context second = std::move(first);
  EXPECT_EQ(first.get(), nullptr);
  second.attend(call.desc, call.args);
}

TEST(CppInterface, StructsBeginZeroedWithTheirSize) {
  EXPECT_EQ(intflash::attend_desc().struct_size, sizeof(intflash_attend_desc));
  EXPECT_EQ(intflash::attend_desc().out_dtype, INTFLASH_F32);
  EXPECT_EQ(intflash::attend_desc().batch, 1);
  EXPECT_EQ(intflash::attend_args().struct_size, sizeof(intflash_attend_args));
  EXPECT_EQ(intflash::context_options().struct_size, sizeof(intflash_context_options));
  EXPECT_EQ(intflash::cache_options().struct_size, sizeof(intflash_cache_options));
  EXPECT_EQ(intflash::append_args().struct_size, sizeof(intflash_append_args));
  EXPECT_EQ(intflash::append_args().key_dtype, INTFLASH_F32);
  EXPECT_EQ(intflash::batch_desc().struct_size, sizeof(intflash_batch_desc));
  EXPECT_EQ(intflash::batch_desc().query_dtype, INTFLASH_F32);
  EXPECT_EQ(intflash::batch_desc().request_size, sizeof(intflash_request));
  EXPECT_EQ(intflash::batch_desc().shared_prefix_size, sizeof(intflash_shared_prefix));
  EXPECT_EQ(intflash::batch_args().struct_size, sizeof(intflash_batch_args));
  EXPECT_EQ(intflash::batch_args().additive_mask_size, sizeof(intflash_additive_mask));
  EXPECT_EQ(intflash::batch_args().bit_mask_size, sizeof(intflash_bit_mask));
  EXPECT_EQ(intflash::batch_args().state_size, sizeof(intflash_state));
  EXPECT_EQ(intflash::state_set().struct_size, sizeof(intflash_state_set));
  EXPECT_EQ(intflash::state_set().state_size, sizeof(intflash_state));
  EXPECT_EQ(intflash::finish_args().struct_size, sizeof(intflash_finish_args));
  EXPECT_EQ(intflash::finish_args().out_dtype, INTFLASH_F32);
}

}  // namespace
