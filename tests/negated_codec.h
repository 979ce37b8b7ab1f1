// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A codec of the tests': int8's, with every code negated. Its results are int8's to the bit.
#pragma once

#include <atomic>
#include <cstdint>

#include "context/ports.h"
#include "pages/codec.h"

namespace intflash::internal {

extern const Codec kNegatedCodec;
// Blocks that any port has expanded.
extern std::atomic<std::int64_t> num_expanded_blocks;

// A port with the codec's line in its table.
struct NegatedPort {
  explicit NegatedPort(const PortEntry& port);
  NegatedPort(const NegatedPort&) = delete;
  NegatedPort& operator=(const NegatedPort&) = delete;

  RowKernels rows;
  KernelTable kernels;
  PortEntry entry;
};

}  // namespace intflash::internal
