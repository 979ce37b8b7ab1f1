// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the library rounds, simulated part by part: what is not rounded is double precision.
#pragma once

#include <span>

#include "pipelines.h"

namespace intflash {

// The parts in the order in which tables print them. The last one is all of them at once: what the
// library would give with scores of one digit if its fixed point were exact.
std::span<const Pipeline> library_parts();

}  // namespace intflash
