// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The way of short calls of intflash.torch.sdpa, past PyTorch's dispatcher.
#pragma once

#include <nanobind/nanobind.h>

namespace intflash::python {

void add_sdpa(nanobind::module_& module);

}  // namespace intflash::python
