// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// run_parallel calls each worker exactly once, whoever's threads it runs on. thread_pool_test has
// the context's own.
#include "threads/parallel.h"

#include <atomic>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace intflash::internal {
namespace {

struct Calls {
  explicit Calls(int num_workers) : of_worker(static_cast<std::size_t>(num_workers)) {}
  static void count(void* calls, std::int32_t worker) {
    ++static_cast<Calls*>(calls)->of_worker.at(static_cast<std::size_t>(worker));
  }
  std::vector<int> of_worker;  // each written by its own worker only: TSan checks the join
};

void expect_each_once(const Parallel& parallel, int num_workers) {
  Calls calls(num_workers);
  run_parallel(parallel, num_workers, Calls::count, &calls);
  EXPECT_EQ(calls.of_worker, std::vector<int>(calls.of_worker.size(), 1));
}

TEST(RunParallel, CallsEachWorkerOnceOnOpenmpsTeamOrTheCallingThread) {
  for (const int num_workers : {1, 2, 3, 7, 64}) {
    expect_each_once(openmp_parallel(), num_workers);
    expect_each_once({}, num_workers);
  }
}

TEST(RunParallel, CallsEachWorkerOnceOnTheCallersThreads) {
  Parallel parallel;
  parallel.run = [](void*, std::int32_t count, auto body, void* context) {
    std::vector<std::thread> threads;
    for (int i = 0; i < count; ++i) threads.emplace_back(body, context, i);
    for (std::thread& thread : threads) thread.join();
  };
  for (const int num_workers : {1, 2, 3, 7}) expect_each_once(parallel, num_workers);
}

TEST(RunParallel, LetsTheCallersLoopRunOneAfterAnotherInAnyOrder) {
  Parallel parallel;
  parallel.run = [](void*, std::int32_t count, auto body, void* context) {
    for (int i = count - 1; i >= 0; --i) body(context, i);
  };
  for (const int num_workers : {2, 3, 7}) expect_each_once(parallel, num_workers);
}

TEST(RunParallel, HandsTheCallersLoopItsOwnPointer) {
  int calls = 0;
  Parallel parallel;
  parallel.user = &calls;
  parallel.run = [](void* user, std::int32_t count, auto body, void* context) {
    ++*static_cast<int*>(user);
    for (int i = 0; i < count; ++i) body(context, i);
  };
  expect_each_once(parallel, 3);
  EXPECT_EQ(calls, 1);
}

TEST(RunParallel, RunsOneWorkerOnTheCallingThread) {
  Parallel parallel;
  parallel.run = [](void*, std::int32_t, auto, void*) { FAIL() << "one worker needs no loop"; };
  std::thread::id thread;
  run_parallel(
      parallel, 1,
      [](void* context, std::int32_t) {
        *static_cast<std::thread::id*>(context) = std::this_thread::get_id();
      },
      &thread);
  EXPECT_EQ(thread, std::this_thread::get_id());
}

TEST(RunParallel, CallsEachWorkerOnceInsideAnotherParallelRun) {
  std::atomic<int> failures = 0;
  run_parallel(
      openmp_parallel(), 2,
      [](void* context, std::int32_t) {
        Calls calls(5);
        run_parallel(openmp_parallel(), 5, Calls::count, &calls);
        if (calls.of_worker != std::vector<int>(5, 1)) ++*static_cast<std::atomic<int>*>(context);
      },
      &failures);
  EXPECT_EQ(failures, 0);
}

TEST(RunParallel, ServesSeveralCallingThreadsAtOnce) {
  std::vector<std::thread> callers;
  for (int i = 0; i < 3; ++i) {
    callers.emplace_back([] {
      for (int round = 0; round < 20; ++round) expect_each_once(openmp_parallel(), 3);
    });
  }
  for (std::thread& caller : callers) caller.join();
}

}  // namespace
}  // namespace intflash::internal
