// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// intflash.load_calibration: the caches that a model's layers are to have.
#pragma once

#include <nanobind/nanobind.h>

namespace intflash::python {

void add_calibration(nanobind::module_& module);

}  // namespace intflash::python
