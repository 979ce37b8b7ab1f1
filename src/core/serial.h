// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Numbers by which a workspace tells whose it is: addresses are used again.
#pragma once

#include <atomic>
#include <cstdint>

namespace intflash::internal {

// A number that nothing else in this process was given.
inline std::uint64_t next_serial() {
  static std::atomic<std::uint64_t> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

}  // namespace intflash::internal
