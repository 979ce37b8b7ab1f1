// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Functions that run beside each other on one thread, each on a stack of its own, until they give
// way.
#pragma once

#include <cstddef>

namespace intflash::emulation {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // What resume() will begin with; body must not return, but give way for good.
  void start(void (*body)());
  // Runs until the fiber gives way. Of the fiber that runs, give_way() returns to resume().
  void resume();
  void give_way();

 private:
  static constexpr std::size_t kStackBytes = std::size_t{256} << 10;

  void* stack_;
  void* own_ = nullptr;      // where the fiber left off
  void* resumer_ = nullptr;  // and who resumed it
};

}  // namespace intflash::emulation
