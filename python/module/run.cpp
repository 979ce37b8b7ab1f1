// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "run.h"

#include <cxxabi.h>
#include <unistd.h>

namespace intflash::python {

void Run::release() { state_ = PyEval_SaveThread(); }

// Where the interpreter is going, Python before 3.14 ends a thread that asks for the GIL by
// unwinding its stack, which C++ between Python and here does not survive: such a thread stays.
void Run::acquire() {
  try {
    PyEval_RestoreThread(state_);
  } catch (abi::__forced_unwind&) {
    for (;;) pause();
  }
}

bool Run::poll() {
  const Clock::time_point now = Clock::now();
  if (now < next_poll_) return false;
  acquire();
  const Clock::duration waited = Clock::now() - now;
  const bool raised = PyErr_CheckSignals() != 0;
  release();
  next_poll_ = Clock::now() + kBetweenPolls + kTimesWaited * waited;
  return raised;
}

std::int32_t Run::should_cancel(void* run) {
  Run& self = *static_cast<Run*>(run);
  if (self.raised_.load(std::memory_order_relaxed)) return 1;
  if (pthread_equal(self.caller_, pthread_self()) == 0 || !self.poll()) return 0;
  self.raised_.store(true, std::memory_order_relaxed);
  return 1;
}

}  // namespace intflash::python
