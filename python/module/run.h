// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// One call of the library's that may take long: without the GIL, and ended by Python's signals.
#pragma once

#include <nanobind/nanobind.h>

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <cstdint>

#include <intflash/intflash.h>

#include "errors.h"

namespace intflash::python {

class Run {
 public:
  // Calls call(), and raises what it, or a signal's handler, says. Arguments that take
  // should_cancel are given it, with this Run.
  template <class Call>
  void operator()(Call&& call) {
    release();
    const intflash_status status = call();
    acquire();
    if (raised_.load(std::memory_order_relaxed)) throw nb::python_error();
    check(status);
  }

  // On the calling thread, the only one that may: asks Python for signals now and then.
  static std::int32_t should_cancel(void* run);

 private:
  using Clock = std::chrono::steady_clock;
  // Where others keep the GIL, polls wait for it, for a fifth of the time at most.
  static constexpr std::chrono::milliseconds kBetweenPolls{5};
  static constexpr int kTimesWaited = 4;

  void release();
  void acquire();
  bool poll();

  PyThreadState* state_ = nullptr;
  pthread_t caller_ = pthread_self();
  Clock::time_point next_poll_ = Clock::now() + kBetweenPolls;
  std::atomic<bool> raised_{false};
};

}  // namespace intflash::python
