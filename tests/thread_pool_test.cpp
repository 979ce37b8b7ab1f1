// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A pool calls each worker once, whoever else uses it and however many threads the system gives it.
#include "threads/thread_pool.h"

#include <signal.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <functional>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

// The linker's --wrap sends the library's calls of pthread_create here, not those of std::thread.
static std::atomic<int> creations{0};
static std::atomic<int> creations_allowed{1 << 20};

extern "C" {
int __real_pthread_create(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
int __wrap_pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                          void* (*start)(void*), void* argument) {
  if (++creations > creations_allowed) return EAGAIN;
  return __real_pthread_create(thread, attributes, start, argument);
}
}  // extern "C"

namespace intflash::internal {
namespace {

class TestPool {
 public:
  explicit TestPool(int num_threads, const NumaNodes& nodes = {})
      : nodes_(nodes),
        helpers_(static_cast<std::size_t>(num_threads - 1)),
        pool_(helpers_, this_threads_cpus(), &nodes_) {
    creations = 0;
  }
  ~TestPool() { creations_allowed = 1 << 20; }

  void run(int num_workers, std::function<void(int)> work) {
    pool_.run(
        num_workers,
        [](void* context, std::int32_t worker) {
          (*static_cast<std::function<void(int)>*>(context))(worker);
        },
        &work);
  }

  void expect_each_once(int num_workers) {
    std::vector<int> calls(static_cast<std::size_t>(num_workers));  // TSan checks the join
    run(num_workers, [&](int worker) { ++calls.at(static_cast<std::size_t>(worker)); });
    EXPECT_EQ(calls, std::vector<int>(calls.size(), 1));
  }

 private:
  const NumaNodes nodes_;
  std::vector<pthread_t> helpers_;
  ThreadPool pool_;
};

// Where workers, or threads, meet; false after a time that no machine is too slow for.
class Meeting {
 public:
  explicit Meeting(int expected) : missing_(expected) {}
  bool arrive() {
    --missing_;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (missing_ > 0) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::yield();
    }
    return true;
  }

 private:
  std::atomic<int> missing_;
};

TEST(ThreadPool, CallsEachWorkerOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    TestPool pool(threads);
    for (int round = 0; round < 20; ++round) {
      for (const int workers : {1, 2, 3, 7, 64, 1000}) pool.expect_each_once(workers);
    }
  }
}

TEST(ThreadPool, CallsEachWorkerOnceWhileItsThreadsFallAsleep) {
  for (const int threads : {2, 5}) {
    TestPool pool(threads);
    for (int round = 0; round < 50; ++round) {
      pool.expect_each_once(threads);
      std::this_thread::sleep_for(std::chrono::microseconds(round * 4));
    }
  }
}

TEST(ThreadPool, RunsWorkersAtOnce) {
  for (const int threads : {2, 4}) {
    TestPool pool(threads);
    for (int round = 0; round < 10; ++round) {
      Meeting meeting(threads);
      std::atomic<int> met = 0;
      pool.run(threads, [&](int) { met += meeting.arrive(); });
      EXPECT_EQ(met, threads);
    }
  }
}

TEST(ThreadPool, ServesSeveralCallingThreadsAtOnce) {
  TestPool pool(3);
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      for (int round = 0; round < 200; ++round) pool.expect_each_once(3);
    });
  }
  for (std::thread& caller : callers) caller.join();
}

TEST(ThreadPool, ACallerThatFindsItAtWorkRunsAlone) {
  TestPool pool(3);
  Meeting begun(3), ended(3);
  std::thread other([&] {
    pool.run(2, [&](int) {
      EXPECT_TRUE(begun.arrive());
      EXPECT_TRUE(ended.arrive());
    });
  });
  EXPECT_TRUE(begun.arrive());
  pool.run(3, [caller = std::this_thread::get_id()](int) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
  });
  EXPECT_TRUE(ended.arrive());
  other.join();
}

TEST(ThreadPool, OfItsThreadsOneRestsForEachOtherCaller) {
  TestPool pool(3);
  Meeting owner_begun(2), owner_may_end(2), other_begun(2), other_may_end(2);
  std::thread owner([&] {
    pool.run(2, [&](int worker) {
      EXPECT_TRUE(worker != 0 || (owner_begun.arrive() && owner_may_end.arrive()));
    });
  });
  EXPECT_TRUE(owner_begun.arrive());
  std::thread other([&] {
    pool.run(2, [&](int worker) {
      EXPECT_TRUE(worker != 0 || (other_begun.arrive() && other_may_end.arrive()));
    });
  });
  EXPECT_TRUE(other_begun.arrive());
  EXPECT_TRUE(owner_may_end.arrive());
  owner.join();

  std::mutex mutex;
  std::set<std::thread::id> threads;
  pool.run(6, [&](int) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const std::lock_guard lock(mutex);
    threads.insert(std::this_thread::get_id());
  });
  EXPECT_LE(threads.size(), 2u);
  EXPECT_TRUE(other_may_end.arrive());
  other.join();
}

TEST(ThreadPool, CallsEachWorkerOnceInsideItsOwnWorkers) {
  TestPool pool(3);
  pool.run(3, [&](int) { pool.expect_each_once(5); });
}

TEST(ThreadPool, StartsThreadsWhenARunNeedsThemAndJoinsThemAtItsEnd) {
  const auto num_threads = [] {
    const std::filesystem::directory_iterator tasks("/proc/self/task");
    return std::distance(begin(tasks), end(tasks));
  };
  const auto before = num_threads();
  {
    TestPool pool(5);
    pool.expect_each_once(1);
    EXPECT_EQ(creations, 0);
    pool.expect_each_once(3);
    EXPECT_EQ(creations, 2);
    pool.expect_each_once(9);
    EXPECT_EQ(creations, 4);
    pool.expect_each_once(9);
    EXPECT_EQ(creations, 4);
    EXPECT_EQ(num_threads(), before + 4);
  }
  // The system may list a thread for a moment after it was joined.
  for (int wait = 0; wait < 1000 && num_threads() != before; ++wait)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(num_threads(), before);
}

TEST(ThreadPool, RunsWithFewerThreadsWhereTheSystemGivesNoMore) {
  for (const int allowed : {0, 1, 2}) {
    TestPool pool(4);
    creations_allowed = allowed;
    for (int round = 0; round < 20; ++round) pool.expect_each_once(4);
    EXPECT_EQ(creations, allowed + 1) << "refused once, and not asked again in each run";
  }
}

TEST(ThreadPool, HasAllItsThreadsOnceTheSystemGivesThem) {
  TestPool pool(3);
  creations_allowed = 0;
  pool.expect_each_once(3);
  creations_allowed = 1 << 20;
  for (int round = 0; round < 300; ++round) pool.expect_each_once(3);
  EXPECT_EQ(creations, 3) << "one refused, two made";
}

TEST(ThreadPool, LeavesTheHostsSignalsToTheHostsThreads) {
  TestPool pool(2);
  Meeting meeting(2);
  pool.run(2, [&, caller = std::this_thread::get_id()](int) {
    EXPECT_TRUE(meeting.arrive());
    sigset_t blocked;
    pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
    EXPECT_EQ(sigismember(&blocked, SIGTERM), std::this_thread::get_id() != caller);
    EXPECT_EQ(sigismember(&blocked, SIGSEGV), 0);
  });
}

TEST(ThreadPool, RunsOnTheCpusOfWhoeverMadeIt) {
  const CpuSet cpus = this_threads_cpus();
  std::thread([&] {
    TestPool pool(2);
    std::size_t first = 0;
    while (!cpus[first]) ++first;
    bind_this_thread(CpuSet().set(first));
    EXPECT_EQ(this_threads_cpus().count(), 1u);
    Meeting meeting(2);
    pool.run(2, [&, caller = std::this_thread::get_id()](int) {
      EXPECT_TRUE(meeting.arrive());
      EXPECT_TRUE(std::this_thread::get_id() == caller || this_threads_cpus() == cpus);
    });
  }).join();
}

// Two CPUs of this thread's, each as a node of its own.
NumaNodes two_nodes() {
  NumaNodes nodes;
  const CpuSet cpus = this_threads_cpus();
  for (std::size_t cpu = 0; cpu < kMaxCpus && nodes.count < 2; ++cpu) {
    if (cpus[cpu]) nodes.add(nodes.count, CpuSet().set(cpu));
  }
  return nodes;
}

TEST(ThreadPool, HelpersKeepToOneNodeEachAndTheCallerToNone) {
  const NumaNodes nodes = two_nodes();
  if (nodes.count < 2) GTEST_SKIP() << "one CPU";
  const CpuSet cpus = this_threads_cpus();
  TestPool pool(5, nodes);
  Meeting meeting(5);
  std::mutex mutex;
  std::vector<int> helpers_of_node(2);
  pool.run(5, [&, caller = std::this_thread::get_id()](int) {
    EXPECT_TRUE(meeting.arrive());
    const CpuSet own = this_threads_cpus();
    if (std::this_thread::get_id() == caller) {
      EXPECT_EQ(own, cpus);
      return;
    }
    const int node = nodes.of_cpu(current_cpu());
    ASSERT_GE(node, 0);
    EXPECT_EQ(own, nodes.nodes[node].cpus);
    const std::lock_guard lock(mutex);
    ++helpers_of_node[static_cast<std::size_t>(node)];
  });
  EXPECT_EQ(helpers_of_node, std::vector<int>({2, 2}));
}

}  // namespace
}  // namespace intflash::internal
