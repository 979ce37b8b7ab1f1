// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A line of memory asked for ahead, into L2.
#pragma once

#include "tile/portability.h"

namespace intflash::internal {
namespace {

INTFLASH_INLINE void fetch_line(const void* line) { __builtin_prefetch(line, 0, 2); }

}  // namespace
}  // namespace intflash::internal
