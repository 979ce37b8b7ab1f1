// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "intflash/intflash.h"
#include "tile/score_range.h"

namespace intflash::internal {

// INTFLASH_OK, or the error that names the magnitudes.
intflash_status check_score_range(const ScoreRange& range);

}  // namespace intflash::internal
