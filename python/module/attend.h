// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// intflash.attend: a dense call of arrays.
#pragma once

#include <nanobind/nanobind.h>

namespace intflash::python {

void add_attend(nanobind::module_& module);

}  // namespace intflash::python
