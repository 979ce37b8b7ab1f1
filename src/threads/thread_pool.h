// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A context's own threads: made when a run first needs them, joined with the context, made anew in
// a forked child.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <span>

#include "machine/machine.h"
#include "threads/parallel.h"

namespace intflash::internal {

// Counts the forks from here on; false where the system has no memory for that.
bool watch_forks() noexcept;

// How many of the counted forks made this process: where it has changed, threads are gone.
std::uint32_t fork_generation() noexcept;

// Runs one job at a time. Nothing in it waits for a thread to be scheduled but for those that are
// at work: helpers join a job that they find open, and what none of them takes the caller does. So
// a helper that does not exist, sleeps, or is gone since a fork costs speed alone.
class ThreadPool {
 public:
  static constexpr std::int32_t kMaxWorkers = 0xffff;

  // helpers is where the threads besides the caller's are kept. They run on cpus; where these are
  // of several nodes, each on those of one of them, so many on each as it has CPUs.
  ThreadPool(std::span<pthread_t> helpers, const CpuSet& cpus,
             const NumaNodes* nodes = nullptr) noexcept;
  ~ThreadPool();  // no run may be under way
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Calls fn(context, worker) for each worker in [0, num_workers), at most kMaxWorkers. A caller
  // that finds the pool at work for another, or is itself one of its workers, calls them all
  // itself.
  void run(std::int32_t num_workers, WorkerFn fn, void* context) noexcept;

  Parallel parallel() noexcept;

 private:
  static void* start_helping(void* pool);

  bool claim(std::int32_t& other_callers) noexcept;
  void run_job(std::int32_t num_workers, std::int32_t num_helpers, WorkerFn fn, void* context);
  std::int32_t start_helpers(std::int32_t wanted) noexcept;
  void wake(std::int32_t num_helpers) noexcept;
  void await_finished(std::uint32_t count) noexcept;

  void help() noexcept;
  CpuSet choose_cpus() noexcept;
  std::uint32_t await_job() noexcept;
  std::uint32_t work(bool needs_seat) noexcept;
  std::int32_t take_worker(bool needs_seat) noexcept;

  template <class IsReady>
  bool spin(IsReady is_ready) const noexcept;

  const std::span<pthread_t> helpers_;
  const CpuSet cpus_;
  const NumaNodes* const nodes_;
  const bool spins_;

  // fork_generation() << 32 | callers inside run << 1 | whether one of them has the pool. In
  // another generation nobody does.
  alignas(64) std::atomic<std::uint64_t> callers_;

  // Of whoever has the pool.
  std::int32_t num_helpers_ = 0;
  std::int32_t runs_until_retry_ = 0;
  std::int32_t num_workers_ = 0;
  WorkerFn fn_ = nullptr;
  void* context_ = nullptr;

  // The job: seats for helpers << 16 | workers that nobody has taken. Whoever takes a worker may
  // read the job; it lives until that worker is counted in finished_.
  alignas(64) std::atomic<std::uint32_t> open_{0};
  alignas(64) std::atomic<std::uint32_t> finished_{0};
  std::atomic<std::int32_t> num_asleep_{0};
  std::atomic<std::int32_t> num_bound_{0};  // helpers that have chosen a node
};

}  // namespace intflash::internal
