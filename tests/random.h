// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Random numbers of tests: fast enough for emulated CPUs, and the same on every platform.
#pragma once

#include <cstdint>

namespace intflash::internal {

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {  // splitmix64
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  // [0, 1)
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  // 0 ... count - 1
  std::int64_t below(std::int64_t count) {
    return static_cast<std::int64_t>(next() % static_cast<std::uint64_t>(count));
  }
  // Mean 0, variance 1, a bell: the sum of four uniform numbers, in (-3.47, 3.47).
  float normal() {
    const std::uint64_t bits = next();
    std::int32_t sum = -2 * 65536;
    for (int i = 0; i < 64; i += 16) sum += static_cast<std::int32_t>(bits >> i & 0xffff);
    return static_cast<float>(sum) * (1.7320508f / 65536);
  }

 private:
  std::uint64_t state_;
};

}  // namespace intflash::internal
