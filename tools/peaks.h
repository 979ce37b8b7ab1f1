// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What this machine can do at most, measured: integer multiply-adds from registers, and bytes to
// and from memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "call.h"
#include "tile/types.h"

namespace intflash {

// The register-only rate of a port's integer multiply-add, on a number of threads at once.
class IntegerPeak {
 public:
  // One sample of measure() takes about this long on each thread.
  IntegerPeak(const internal::KernelTable& kernels, int threads, double sample_seconds);

  double measure();  // operations per second of all threads, two per multiply-add

 private:
  const internal::KernelTable& kernels_;
  int threads_;
  std::int64_t repeats_ = 1;
};

// The rate at which threads read, or copy, a buffer of a given size, each thread its own part.
class MemoryRate {
 public:
  explicit MemoryRate(std::size_t bytes);

  double read(int threads);  // bytes read per second
  double copy(
      int threads);  // bytes read plus bytes written per second; memcpy from one half to the other
  std::size_t bytes() const { return buffer_.size(); }

 private:
  AlignedArray<std::byte> buffer_;
};

// Sizes to measure: the largest that an L3 (or, without one, nothing smaller than memory) serves
// beyond the L2 caches, and one that no cache holds.
std::size_t l3_test_bytes();
std::size_t dram_test_bytes();

}  // namespace intflash
