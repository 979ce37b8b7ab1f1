// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// intflash.merge_states: results over several sets of keys, put together.
#pragma once

#include <nanobind/nanobind.h>

namespace intflash::python {

void add_merge(nanobind::module_& module);

}  // namespace intflash::python
