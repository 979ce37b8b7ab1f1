// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// intflash.Batch: attention of some sequences of a cache, planned once and run for each layer.
#pragma once

#include <nanobind/nanobind.h>

namespace intflash::python {

void add_batch(nanobind::module_& module);

}  // namespace intflash::python
