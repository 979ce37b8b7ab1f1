// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Where the parts of a workspace lie: one after the other, each at a multiple of 64 bytes.
#pragma once

#include <cstdint>

#include "tile/portability.h"

namespace intflash::internal {

class Arena {
 public:
  // The offset of so many bytes more.
  std::int64_t take(std::int64_t bytes) {
    const std::int64_t offset = used_;
    used_ += round_up(bytes, 64);
    return offset;
  }
  std::int64_t used() const { return used_; }

 private:
  std::int64_t used_ = 0;
};

}  // namespace intflash::internal
