// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Stands in for src/tile/fetch_line.h, so that a test sees which lines are asked for.
#pragma once

#include "tile/portability.h"

namespace intflash::internal {

// Of tests/test_ports.h.
extern void (*see_fetched_line)(const void* line);

namespace {

INTFLASH_INLINE void fetch_line(const void* line) {
  if (see_fetched_line != nullptr) see_fetched_line(line);
}

}  // namespace
}  // namespace intflash::internal
