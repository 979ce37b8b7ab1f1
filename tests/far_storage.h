// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A device of the tests', whose caches are out of reach but for its own functions, and for its
// backends between begin and end of a run: elsewhere to read a page is a crash. Within them it is
// the CPU, to the bit.
#pragma once

#include "context/device.h"

struct intflash_cache;

namespace intflash::internal {

extern const Storage kFarStorage;
extern const Device kFarDevice;

// The first byte of a cache's pages.
const void* far_memory(const intflash_cache& cache);

}  // namespace intflash::internal
