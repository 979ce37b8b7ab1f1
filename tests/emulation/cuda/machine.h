// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the emulated machine is like, for tests to change while it runs.
#pragma once

#include <cstddef>

namespace intflash::emulation {

struct EmulatedContext {
  int device;
};

struct EmulatedMachine {
  static constexpr int kMaxDevices = 2;

  int num_devices = 2;
  int compute_major = 8, compute_minor = 0;
  int num_multiprocessors = 1;
  bool has_code = true;                      // the library's kernels have code for the devices
  std::size_t bytes_left = ~std::size_t{0};  // of memory, for what is allocated next
  bool has_memory_pools = true;
  bool refuses_memory = false;   // though there is some
  std::size_t pools = 0;         // that have not been destroyed
  std::size_t pool_growths = 0;  // memory that pools had to take from the system, so far
  std::size_t allocations = 0;   // that have not been freed
  std::size_t launches_left = ~std::size_t{0};  // of kernels, before the device is lost
  // That enqueue a kernel or a copy, before one that is refused, and harms nothing.
  std::size_t calls_left = ~std::size_t{0};
  std::size_t waits = 0;  // for streams, so far

  // Of the calling thread: the current context, of the runtime's or of the caller's own, and the
  // device where there is none.
  EmulatedContext* context = nullptr;
  int device = 0;
  bool has_primary_context[kMaxDevices] = {};  // the runtime has made its own
};

// Of the library that exports intflash_emulated_machine.
using EmulatedMachineFn = EmulatedMachine* (*)();

}  // namespace intflash::emulation
