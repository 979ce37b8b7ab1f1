// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Runs on the emulated CUDA device go into a stream, and into graphs: they wait for nothing, and
// the device itself refuses what the host would have.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "attention_case.h"
#include "cuda_cache_attempt.h"
#include "emulated_cuda.h"
#include "emulation/cuda/c/cuda_runtime_api.h"

namespace intflash::internal {
namespace {

// A stream, and page-locked memory for a workspace.
class CudaEnqueue : public testing::Test {
 protected:
  CudaEnqueue() { EXPECT_EQ(cudaStreamCreate(&stream_), cudaSuccess); }
  ~CudaEnqueue() override {
    EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess);
    for (void* const workspace : workspaces_) EXPECT_EQ(cudaFreeHost(workspace), cudaSuccess);
    EXPECT_EQ(emulated_machine().allocations, 0u);
  }
  void* workspace_of(const intflash_plan* plan) {
    workspaces_.push_back(nullptr);
    EXPECT_EQ(cudaMallocHost(&workspaces_.back(), intflash_plan_workspace_bytes(plan)),
              cudaSuccess);
    return workspaces_.back();
  }
  // What run(), which must succeed without a wait, has enqueued.
  template <class Run>
  cudaGraphExec_t capture(Run run) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t made = nullptr;
    EXPECT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), cudaSuccess);
    EXPECT_EQ(run(), INTFLASH_OK) << intflash_last_error();
    EXPECT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
    EXPECT_EQ(cudaGraphInstantiate(&made, graph, 0), cudaSuccess);
    EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
    return made;
  }

  cudaStream_t stream_ = nullptr;
  std::vector<void*> workspaces_;
};

// A dense call, and its run in a stream of its own.
struct DenseRun {
  explicit DenseRun(cudaStream_t stream) {
    AttentionCase c;
    c.num_kv_heads = 2;
    c.query_len = 3;
    c.kv_len = 70;
    c.mask = INTFLASH_MASK_WINDOW;
    c.window_left = 10;
    c.window_right = 0;
    tensors = make_tensors(c, memory);
    *static_cast<float*>(tensors.args.key.data) = INFINITY;  // which no query sees
    intflash_context_options options{};
    options.struct_size = sizeof options;
    options.device = "cuda:0";
    options.stream = stream;
    EXPECT_EQ(intflash_context_create(&options, &context), INTFLASH_OK) << intflash_last_error();
    EXPECT_EQ(intflash_plan_attend(context, &tensors.desc, &plan), INTFLASH_OK);
  }
  ~DenseRun() {
    intflash_plan_destroy(plan);
    intflash_context_destroy(context);
  }
  float& query() const { return *static_cast<float*>(tensors.args.query.data); }
  std::vector<std::byte> out() const { return {tensors.out, tensors.out + tensors.out_bytes}; }
  void clear_out() const {
    std::fill_n(tensors.out, tensors.out_bytes, std::byte{CaseTensors::kPoison});
  }
  // By a call that waits.
  std::vector<std::byte> attended() {
    clear_out();
    const CaseResult result = run_on_device(tensors);
    EXPECT_EQ(result.status, INTFLASH_OK) << result.error;
    clear_out();
    return result.out;
  }

  DeviceMemory memory;
  CaseTensors tensors{};
  intflash_context* context = nullptr;
  intflash_plan* plan = nullptr;
};

TEST_F(CudaEnqueue, ARunIsDoneWhenItsStreamIsWaitedFor) {
  DenseRun run(stream_);
  const std::vector<std::byte> expected = run.attended();
  void* const workspace = workspace_of(run.plan);
  const std::size_t waits = emulated_machine().waits;
  ASSERT_EQ(
      intflash_run(run.plan, &run.tensors.args, workspace, intflash_plan_workspace_bytes(run.plan)),
      INTFLASH_OK)
      << intflash_last_error();
  EXPECT_EQ(emulated_machine().waits, waits);
  EXPECT_TRUE(is_untouched(run.tensors));
  EXPECT_EQ(intflash_status_of_run(run.plan, workspace), INTFLASH_OK) << intflash_last_error();
  EXPECT_TRUE(run.out() == expected);
}

TEST_F(CudaEnqueue, WhatWaitsMayBeInMemoryThatIsNotPageLocked) {
  DenseRun run(stream_);
  const std::vector<std::byte> expected = run.attended();
  Memory memory;
  const std::size_t bytes = intflash_plan_workspace_bytes(run.plan);
  void* const workspace = memory.take(bytes);
  EXPECT_EQ(intflash_status_of_run(run.plan, workspace), INTFLASH_INVALID_ARGUMENT);
  ASSERT_EQ(intflash_run(run.plan, &run.tensors.args, workspace, bytes), INTFLASH_OK);
  EXPECT_EQ(intflash_status_of_run(run.plan, workspace), INTFLASH_OK) << intflash_last_error();
  EXPECT_TRUE(run.out() == expected);
}

// Each launch looks at what the tensors hold then.
TEST_F(CudaEnqueue, AGraphOfADenseCallRunsAgainAndRefusesWhatTheCallWould) {
  DenseRun run(stream_);
  void* const workspace = workspace_of(run.plan);
  const cudaGraphExec_t graph = capture([&] {
    return intflash_run(run.plan, &run.tensors.args, workspace,
                        intflash_plan_workspace_bytes(run.plan));
  });
  const auto launch = [&] {
    EXPECT_EQ(cudaGraphLaunch(graph, stream_), cudaSuccess);
    return intflash_status_of_run(run.plan, workspace);
  };
  for (const float query : {0.25f, -3.0f}) {
    run.query() = query;
    const std::vector<std::byte> expected = run.attended();
    EXPECT_EQ(launch(), INTFLASH_OK) << intflash_last_error();
    EXPECT_TRUE(run.out() == expected);
  }
  run.clear_out();
  run.query() = NAN;
  EXPECT_EQ(launch(), INTFLASH_NONFINITE_INPUT);
  EXPECT_NE(std::string(intflash_last_error()).find("query[batch 0][head 0][token 0]"),
            std::string::npos)
      << intflash_last_error();
  run.query() = 1e30f;
  EXPECT_EQ(launch(), INTFLASH_OK) << intflash_last_error();
  run.clear_out();
  run.query() = 2e30f;
  EXPECT_EQ(launch(), INTFLASH_SCORE_OVERFLOW);
  EXPECT_TRUE(is_untouched(run.tensors));
  EXPECT_EQ(cudaGraphExecDestroy(graph), cudaSuccess);
}

TEST_F(CudaEnqueue, AGraphOfABatchRunsAgain) {
  CacheCase c;
  c.stream = stream_;
  Attempt attempt(c);
  CacheSide& side = attempt.side;
  const intflash_request request = request_of(2, 100);
  const CacheSide::Result expected = side.attend({request}, attempt.args, 3);
  intflash_batch_desc desc = desc_of(request);
  intflash_plan* plan = nullptr;
  ASSERT_EQ(intflash_plan_batch(side.context(), side.cache(), &desc, &plan), INTFLASH_OK)
      << intflash_last_error();
  intflash_batch_args args = attempt.args;
  args.struct_size = sizeof args;
  args.query = side.tensor(4, 2, 64, INTFLASH_F32, 1, 3);
  args.out = side.tensor(4, 2, 64, INTFLASH_F32, 1, 4);
  void* const workspace = workspace_of(plan);
  const cudaGraphExec_t graph = capture([&] {
    return intflash_run_batch(plan, side.cache(), &args, workspace,
                              intflash_plan_workspace_bytes(plan));
  });
  float& query = *static_cast<float*>(args.query.data);
  const float before = query;
  for (const float x : {NAN, before}) {
    query = x;
    EXPECT_EQ(cudaGraphLaunch(graph, stream_), cudaSuccess);
    EXPECT_EQ(intflash_status_of_run(plan, workspace),
              std::isnan(x) ? INTFLASH_NONFINITE_INPUT : INTFLASH_OK);
  }
  const auto* const out = static_cast<const std::byte*>(args.out.data);
  EXPECT_TRUE(std::equal(expected.out.begin(), expected.out.end(), out));
  EXPECT_EQ(cudaGraphExecDestroy(graph), cudaSuccess);
  intflash_plan_destroy(plan);
}

// Twice, by CUDA's own copy of what was found of the tokens too.
TEST_F(CudaEnqueue, AnAppendWaitsForWhatItsTokensAreAlone) {
  CacheCase c;
  c.stream = stream_;
  Attempt attempt(c);
  const std::size_t waits = emulated_machine().waits;
  ASSERT_EQ(intflash_sequences_append(attempt.side.cache(), &attempt.sequence, &attempt.tokens),
            INTFLASH_OK)
      << intflash_last_error();
  EXPECT_EQ(emulated_machine().waits, waits + 2);
}

// What waits would end the capture.
TEST_F(CudaEnqueue, WhatWaitsIsRefusedWhileItsStreamIsCaptured) {
  CacheCase c;
  c.stream = stream_;
  Attempt attempt(c);
  CacheSide& side = attempt.side;
  DenseRun run(stream_);
  void* const workspace = workspace_of(run.plan);
  const auto refused = [](intflash_status status, const char* what) {
    expect_error(status, INTFLASH_UNSUPPORTED, {"cuda:0", what, "captur"});
  };
  const auto write = [](void*, const void*, std::size_t count) { return count; };
  const cudaGraphExec_t graph = capture([&] {
    refused(intflash_sequences_append(side.cache(), &attempt.sequence, &attempt.tokens),
            "an append");
    refused(intflash_sequence_save(side.cache(), attempt.sequence, write, nullptr),
            "reading a page");
    const intflash_cache_options options = small_options();
    intflash_cache* cache = nullptr;
    refused(intflash_cache_create(side.context(), &options, &cache), "a new cache");
    expect_error(intflash_attend(run.context, &run.tensors.desc, &run.tensors.args),
                 INTFLASH_UNSUPPORTED, {"workspace", "cuda:0", "captured", "page-locked"});
    const intflash_status status = intflash_run(run.plan, &run.tensors.args, workspace,
                                                intflash_plan_workspace_bytes(run.plan));
    refused(intflash_status_of_run(run.plan, workspace), "the status of a run");
    return status;
  });
  EXPECT_EQ(cudaGraphLaunch(graph, stream_), cudaSuccess);
  EXPECT_EQ(intflash_status_of_run(run.plan, workspace), INTFLASH_OK) << intflash_last_error();
  EXPECT_EQ(cudaGraphExecDestroy(graph), cudaSuccess);
  EXPECT_TRUE(side.save(attempt.sequence) == attempt.before);
  attempt.expect_usable();
}

}  // namespace
}  // namespace intflash::internal
