// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The ports of this version, best first: which are built, which this CPU and operating system run,
// and which one to use.
#pragma once

#include <span>

#include "intflash/intflash.h"
#include "tile/types.h"

namespace intflash::internal {

struct PortEntry {
  const char* name;
  const KernelTable* kernels;  // nullptr: not in this build
  bool supported;              // built, and the CPU and OS run it
  const char* reason;          // why not; "" where supported
  std::uint32_t required = 0;  // CpuFeature bits
};

// All ports of this processor architecture, best first; asked once.
std::span<const PortEntry> ports();

// The kernels of a supported port that the kernel permits; nullptr for any other name.
const KernelTable* find_kernels(const char* name);

// The port called name; with nullptr the one that the environment's INTFLASH_ISA names, else the
// best one that is supported and permitted. An unknown or unsupported name sets the last error,
// which lists what there is. Permission is requested for a port that is about to be chosen alone.
intflash_status choose_port(const char* name, const PortEntry*& port);

// Why a context whose port is not this one, though it is better, has another.
const char* reason_passed_over(const PortEntry& port);

// The choice, for tests: among these, and with this answer in place of the kernel's.
using RequestPermission = const char* (*)(std::uint32_t required);
intflash_status choose_port(const char* name, std::span<const PortEntry> among,
                            RequestPermission request, const PortEntry*& port);

}  // namespace intflash::internal
