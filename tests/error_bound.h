// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// How far mode int8 may be from exact attention: a bound on each element, from the steps of the
// quantization and the fixed point alone.
#pragma once

#include "attention_case.h"
#include "eigen_oracle.h"

namespace intflash::internal {

// Bounds on |int8 - exact|, as Numbers are laid out; infinity where the inputs allow no bound.
// lse: 0 where the row sees no key.
Numbers error_bound(const AttentionCase& c, const CaseTensors& tensors);

}  // namespace intflash::internal
