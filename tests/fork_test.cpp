// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A forked child has contexts that work: its parent's, and new ones. It has none of their threads.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "api_call.h"
#include "threads/thread_pool.h"

namespace intflash::internal {
namespace {

// Whether body, called in a child, returns true and in time.
bool true_in_child(const std::function<bool()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(120);
    _exit(body() ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// Enough work for several workers.
AttentionCase several_heads() {
  AttentionCase c;
  c.num_kv_heads = 8;
  c.query_len = 64;
  c.kv_len = 300;
  c.head_dim = c.head_dim_v = 64;
  return c;
}

// Attends, and keeps the bits of the first time.
class Attention {
 public:
  explicit Attention(intflash_threads threads = INTFLASH_THREADS_POOL) : call_(several_heads()) {
    intflash_context_options options{};
    options.struct_size = sizeof options;
    options.num_threads = 3;
    options.threads = threads;
    EXPECT_EQ(intflash_context_create(&options, &context_), INTFLASH_OK);
    EXPECT_TRUE(attend(context_));
    expected_ = out();
  }
  ~Attention() { intflash_context_destroy(context_); }

  bool gives_the_same_bits() { return attend(context_) && out() == expected_; }
  bool gives_the_same_bits_in_a_new_context() {
    intflash_context* context = nullptr;
    if (intflash_context_create(nullptr, &context) != INTFLASH_OK) return false;
    const bool attended = attend(context);
    intflash_context_destroy(context);
    return attended && out() == expected_;
  }
  void destroy() {
    intflash_context_destroy(context_);
    context_ = nullptr;
  }

 private:
  bool attend(intflash_context* context) {
    std::memset(call_.tensors.out, CaseTensors::kPoison, call_.tensors.out_bytes);
    return intflash_attend(context, &call_.desc(), &call_.args()) == INTFLASH_OK;
  }
  std::vector<std::byte> out() const {
    return {call_.tensors.out, call_.tensors.out + call_.tensors.out_bytes};
  }

  ApiCall call_;
  intflash_context* context_ = nullptr;
  std::vector<std::byte> expected_;
};

TEST(Fork, AChildAttendsWithItsParentsContextAndWithNewOnes) {
  Attention attention;
  EXPECT_TRUE(true_in_child([&] { return attention.gives_the_same_bits(); }));
  EXPECT_TRUE(true_in_child([&] { return attention.gives_the_same_bits_in_a_new_context(); }));
  EXPECT_TRUE(true_in_child([&] {
    return attention.gives_the_same_bits() &&
           true_in_child([&] { return attention.gives_the_same_bits(); }) &&
           attention.gives_the_same_bits();
  }));
  EXPECT_TRUE(attention.gives_the_same_bits());
}

TEST(Fork, AChildDestroysItsParentsContext) {
  Attention attention;
  EXPECT_TRUE(true_in_child([&] {
    attention.destroy();
    return true;
  }));
  EXPECT_TRUE(true_in_child([&] {
    const bool same = attention.gives_the_same_bits();
    attention.destroy();
    return same;
  }));
  EXPECT_TRUE(attention.gives_the_same_bits());
}

TEST(Fork, AChildOfAProcessWithOpenmpsThreadsAttends) {
  if (!has_openmp()) GTEST_SKIP() << "this build has no OpenMP";
  Attention attention(INTFLASH_THREADS_OPENMP);
  EXPECT_TRUE(true_in_child([&] { return attention.gives_the_same_bits(); }));
  EXPECT_TRUE(true_in_child([&] { return attention.gives_the_same_bits_in_a_new_context(); }));
  EXPECT_TRUE(attention.gives_the_same_bits());
}

// Two workers that are inside a run until they are told to leave.
class LongRun {
 public:
  explicit LongRun(ThreadPool& pool) : thread_([&] { pool.run(2, wait, this); }) {
    while (num_inside_ < 2) std::this_thread::yield();
  }
  ~LongRun() {
    may_leave_ = true;
    thread_.join();
  }

 private:
  static void wait(void* self, std::int32_t) {
    LongRun& run = *static_cast<LongRun*>(self);
    ++run.num_inside_;
    while (!run.may_leave_) std::this_thread::yield();
  }

  std::atomic<int> num_inside_{0};
  std::atomic<bool> may_leave_{false};
  std::thread thread_;
};

// Runs two workers that each wait for the other: true where they have two threads.
bool runs_at_once(ThreadPool& pool) {
  std::atomic<int> missing = 2;
  pool.run(
      2,
      [](void* context, std::int32_t) {
        std::atomic<int>& missing = *static_cast<std::atomic<int>*>(context);
        --missing;
        while (missing > 0) std::this_thread::yield();
      },
      &missing);
  return missing == 0;
}

TEST(Fork, AChildOfAProcessInARunHasThePoolToItself) {
  ASSERT_TRUE(watch_forks());
  std::vector<pthread_t> helpers(2);
  ThreadPool pool(helpers, this_threads_cpus());
  {
    const LongRun run(pool);
    EXPECT_TRUE(true_in_child([&] { return runs_at_once(pool) && runs_at_once(pool); }));
  }
  EXPECT_TRUE(runs_at_once(pool));
}

}  // namespace
}  // namespace intflash::internal
