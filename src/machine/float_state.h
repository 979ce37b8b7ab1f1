// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The floating-point state that the arithmetic is defined in: round to nearest even, no flush to
// zero.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace intflash::internal {

// Sets the state for the calling thread, and restores what it was when it goes.
class FloatState {
 public:
  FloatState() noexcept : saved_(read()) { write(kDefault); }
  ~FloatState() { write(saved_); }
  FloatState(const FloatState&) = delete;
  FloatState& operator=(const FloatState&) = delete;

 private:
#if defined(__x86_64__)
  using Register = unsigned;
  static constexpr Register kDefault = 0x1f80;  // all exceptions masked, to nearest, denormals kept
  static Register read() { return _mm_getcsr(); }
  static void write(Register state) { _mm_setcsr(state); }
#elif defined(__aarch64__)
  using Register = std::uint64_t;
  static constexpr Register kDefault = 0;
  static Register read() {
    Register state;
    __asm__ volatile("mrs %0, fpcr" : "=r"(state));
    return state;
  }
  static void write(Register state) { __asm__ volatile("msr fpcr, %0" : : "r"(state)); }
#else
  using Register = unsigned;
  static constexpr Register kDefault = 0;
  static Register read() { return 0; }
  static void write(Register) {}
#endif
  Register saved_;
};

}  // namespace intflash::internal
