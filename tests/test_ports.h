// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The ports that tests compare: those that this CPU runs, and those whose instructions it lacks and
// that are emulated for the test.
#pragma once

#include <cstdint>
#include <vector>

#include "context/ports.h"

namespace intflash::internal {

const PortEntry& scalar_port();

// Every other port that can run here, best first, then the emulated ones, unless the environment
// says INTFLASH_TEST_NATIVE=1: emulated CPUs take too long for them.
const std::vector<PortEntry>& ports_under_test();

// scalar_port() and ports_under_test().
const std::vector<PortEntry>& all_test_ports();

#if defined(INTFLASH_TEST_EMULATED_PORTS)
// A port's emulation, whether this CPU has the port or not; nullptr: emulations do not run here.
const PortEntry* emulated_port(const char* native);
// Emulated ports call it with each line of memory that they ask for ahead; nullptr: they do not.
extern void (*see_fetched_line)(const void* line);
#endif

// Whether the environment asks for small cases: INTFLASH_TEST_QUICK=1.
bool quick_tests();

// length, or in quick tests at most `most`.
std::int64_t quick_length(std::int64_t length, std::int64_t most);

}  // namespace intflash::internal
