// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "threads/thread_pool.h"

#include <signal.h>

#include <algorithm>
#include <chrono>

namespace intflash::internal {
namespace {

std::atomic<std::uint32_t> generation{0};

constexpr std::uint64_t kOwned = 1, kCaller = 2;
constexpr std::uint32_t kSeat = 1u << 16;
constexpr std::uint32_t kClosing = 0xffff0000;  // seats, but nothing to take
constexpr std::uint32_t kAwaited = 1u << 31;    // in finished_: the caller sleeps

// As long as waking a sleeper takes: the phases of a run follow one another within it.
constexpr auto kSpinTime = std::chrono::microseconds(20);

// Asking in vain costs tens of microseconds.
constexpr std::int32_t kRunsBetweenRetries = 256;

std::uint32_t workers_of(std::uint32_t open) { return open & (kSeat - 1); }
std::uint32_t seats_of(std::uint32_t open) { return open / kSeat; }

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb");  // yield is a no-operation on most cores
#endif
}

// While it lives, new threads leave the host's signals to the host's threads; faults stay their
// own.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t blocked;
    sigfillset(&blocked);
    for (const int fault : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS})
      sigdelset(&blocked, fault);
    pthread_sigmask(SIG_SETMASK, &blocked, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

bool watch_forks() noexcept {
  static const bool watched = pthread_atfork(nullptr, nullptr, [] {
                                generation.fetch_add(1, std::memory_order_relaxed);
                              }) == 0;
  return watched;
}

std::uint32_t fork_generation() noexcept { return generation.load(std::memory_order_relaxed); }

// More threads than CPUs would spin at the expense of those that work.
ThreadPool::ThreadPool(std::span<pthread_t> helpers, const CpuSet& cpus,
                       const NumaNodes* nodes) noexcept
    : helpers_(helpers),
      cpus_(cpus),
      nodes_(nodes),
      spins_(helpers.size() < cpus.count()),
      callers_(std::uint64_t{fork_generation()} << 32) {}

ThreadPool::~ThreadPool() {
  if (callers_.load(std::memory_order_acquire) >> 32 != fork_generation()) return;
  open_.store(kClosing);
  open_.notify_all();
  for (std::int32_t i = 0; i < num_helpers_; ++i)
    pthread_join(helpers_[static_cast<std::size_t>(i)], nullptr);
}

Parallel ThreadPool::parallel() noexcept {
  return {[](void* pool, std::int32_t count, WorkerFn body, void* context) {
            static_cast<ThreadPool*>(pool)->run(count, body, context);
          },
          this};
}

void ThreadPool::run(std::int32_t num_workers, WorkerFn fn, void* context) noexcept {
  std::int32_t other_callers = 0;
  const bool owned = claim(other_callers);
  // Other callers compute on threads of the host's, which take a CPU each.
  const std::int32_t num_threads =
      std::min(num_workers, static_cast<std::int32_t>(helpers_.size()) + 1 - other_callers);
  const std::int32_t num_helpers = owned && num_threads > 1 ? start_helpers(num_threads - 1) : 0;
  if (num_helpers > 0) {
    run_job(num_workers, num_helpers, fn, context);
  } else {
    for (std::int32_t worker = 0; worker < num_workers; ++worker) fn(context, worker);
  }
  callers_.fetch_sub(owned ? kCaller | kOwned : kCaller, std::memory_order_release);
}

// Counts the caller in, and gives it the pool where nobody has it.
bool ThreadPool::claim(std::int32_t& other_callers) noexcept {
  const std::uint64_t nobody = std::uint64_t{fork_generation()} << 32;
  std::uint64_t seen = callers_.load(std::memory_order_relaxed);
  std::uint64_t before;
  do {
    before = seen >> 32 == nobody >> 32 ? seen : nobody;
  } while (!callers_.compare_exchange_weak(seen, (before | kOwned) + kCaller,
                                           std::memory_order_acquire, std::memory_order_relaxed));
  if (before & kOwned) return false;
  if (seen >> 32 != nobody >> 32) {  // a forked child: the helpers and their job were the parent's
    num_helpers_ = 0;
    runs_until_retry_ = 0;
    open_.store(0, std::memory_order_relaxed);
    num_asleep_.store(0, std::memory_order_relaxed);
    num_bound_.store(0, std::memory_order_relaxed);
  }
  other_callers = static_cast<std::int32_t>((before - nobody) / kCaller);
  return true;
}

// How many of the wanted helpers there are, new ones included: fewer where the system gives no
// more.
std::int32_t ThreadPool::start_helpers(std::int32_t wanted) noexcept {
  if (num_helpers_ >= wanted) return wanted;
  if (runs_until_retry_ > 0) {
    --runs_until_retry_;
    return num_helpers_;
  }
  const SignalsBlocked blocked;
  while (num_helpers_ < wanted) {
    pthread_t& helper = helpers_[static_cast<std::size_t>(num_helpers_)];
    if (pthread_create(&helper, nullptr, start_helping, this) != 0) {
      runs_until_retry_ = kRunsBetweenRetries;
      break;
    }
    ++num_helpers_;
  }
  return num_helpers_;
}

void ThreadPool::run_job(std::int32_t num_workers, std::int32_t num_helpers, WorkerFn fn,
                         void* context) {
  num_workers_ = num_workers;
  fn_ = fn;
  context_ = context;
  finished_.store(0, std::memory_order_relaxed);
  open_.store(static_cast<std::uint32_t>(num_helpers) * kSeat +
              static_cast<std::uint32_t>(num_workers));
  wake(num_helpers);
  finished_.fetch_add(work(false), std::memory_order_relaxed);
  await_finished(static_cast<std::uint32_t>(num_workers));
}

void ThreadPool::wake(std::int32_t num_helpers) noexcept {
  const std::int32_t asleep = num_asleep_.load();
  if (asleep > num_helpers) {
    for (std::int32_t i = 0; i < num_helpers; ++i) open_.notify_one();
  } else if (asleep > 0) {
    open_.notify_all();
  }
}

void ThreadPool::await_finished(std::uint32_t count) noexcept {
  if (spin([&] { return finished_.load(std::memory_order_acquire) == count; })) return;
  std::uint32_t finished = finished_.fetch_or(kAwaited, std::memory_order_acquire) | kAwaited;
  while (finished != (count | kAwaited)) {
    finished_.wait(finished, std::memory_order_relaxed);
    finished = finished_.load(std::memory_order_acquire);
  }
}

// Calls workers that nobody has taken until there are none, and returns how many.
std::uint32_t ThreadPool::work(bool needs_seat) noexcept {
  std::uint32_t count = 0;
  for (std::int32_t worker = take_worker(needs_seat); worker >= 0; worker = take_worker(false)) {
    fn_(context_, worker);
    ++count;
  }
  return count;
}

// A worker that nobody has taken, or -1. A helper's first one comes with a seat.
std::int32_t ThreadPool::take_worker(bool needs_seat) noexcept {
  std::uint32_t open = open_.load(std::memory_order_relaxed);
  do {
    if (workers_of(open) == 0 || (needs_seat && seats_of(open) == 0)) return -1;
  } while (!open_.compare_exchange_weak(open, open - 1 - (needs_seat ? kSeat : 0),
                                        std::memory_order_acquire, std::memory_order_relaxed));
  return num_workers_ - static_cast<std::int32_t>(workers_of(open));
}

void* ThreadPool::start_helping(void* pool) {
  static_cast<ThreadPool*>(pool)->help();
  return nullptr;
}

// A helper's. The first share is the caller's, who runs where it wants to.
CpuSet ThreadPool::choose_cpus() noexcept {
  if (nodes_ == nullptr || nodes_->count <= 1) return cpus_;
  const std::int32_t share = 1 + num_bound_.fetch_add(1, std::memory_order_relaxed);
  return nodes_->nodes[nodes_->deal(share)].cpus & cpus_;
}

void ThreadPool::help() noexcept {
  bind_this_thread(cpus_);  // it inherits those of whoever ran first
  bind_this_thread(choose_cpus());
  while (await_job() != kClosing) {
    const std::uint32_t count = work(true);
    if (count > 0 && (finished_.fetch_add(count, std::memory_order_release) & kAwaited))
      finished_.notify_one();
  }
}

// Returns open_ with a seat and a worker in it, or kClosing.
std::uint32_t ThreadPool::await_job() noexcept {
  std::uint32_t open = 0;
  const auto is_ready = [&] {
    open = open_.load(std::memory_order_relaxed);
    return open == kClosing || (seats_of(open) > 0 && workers_of(open) > 0);
  };
  while (!spin(is_ready)) {
    num_asleep_.fetch_add(1);
    open_.wait(open);
    num_asleep_.fetch_sub(1, std::memory_order_relaxed);
  }
  return open;
}

// Whether is_ready comes true soon; asks once where spinning would take a CPU from others.
template <class IsReady>
bool ThreadPool::spin(IsReady is_ready) const noexcept {
  if (is_ready()) return true;
  if (!spins_) return false;
  const auto end = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < 16; ++i) {
      relax();
      if (is_ready()) return true;
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

}  // namespace intflash::internal
