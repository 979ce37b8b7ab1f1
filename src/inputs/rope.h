// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Rotary position embedding as the caller gives it: checked, and cut into rows.
#pragma once

#include <cstdint>

#include "intflash/cache.h"
#include "tile/types.h"

namespace intflash::internal {

// cos and sin are at most this: 1, times a factor of attention that some models fold in.
constexpr float kMaxRope = 16.0f;

// Everything but the tables' elements.
intflash_status check_rope(const intflash_rope& rope, std::int64_t head_dim);
// That the tables have a request's positions [begin, end); or that of a new token.
intflash_status check_rope_positions(const intflash_rope& rope, std::int64_t request,
                                     std::int64_t begin, std::int64_t end);
intflash_status check_rope_position(const intflash_rope& rope, std::int64_t token,
                                    std::int64_t position);
// The tables' elements at positions that they have: in range.
intflash_status check_rope_table(const intflash_rope& rope, std::int64_t begin, std::int64_t end);

// Of rows from a position on; none where rope is none.
RopeRows rope_rows(const intflash_rope& rope, std::int64_t position);
// Of the same rows from a later one on.
RopeRows later_rows(const RopeRows& rope, std::int64_t row);

}  // namespace intflash::internal
