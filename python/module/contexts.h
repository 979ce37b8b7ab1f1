// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The process's contexts, one for each number of threads that somebody asked for. None is ever
// destroyed: its threads may be at work when the interpreter goes.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

#include <intflash/intflash.h>

namespace intflash::python {

// threads: None = torch.get_num_threads() where the process has imported torch, else the library's
// default, the physical cores that the process may use.
intflash_context* context_of(nanobind::handle threads);

}  // namespace intflash::python
