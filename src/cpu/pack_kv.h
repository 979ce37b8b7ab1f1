// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Key and value into the workspace: centred, rotated, quantized, and packed into pages.
#pragma once

#include <cstdint>

#include "cpu/call.h"
#include "intflash/intflash.h"

namespace intflash::internal {

intflash_status pack_kv(const intflash_plan& plan, const intflash_attend_args& args,
                        void* workspace);

// The same by score blocks: of a head (b * num_kv_heads + h) into two pages. Tokens from kv_end on
// are taken as absent.
void begin_packing(const Call& call);
void pack_score_block(const Call& call, const Worker& worker, std::int64_t head,
                      std::int64_t first_key, std::int64_t kv_end, char* pages,
                      ScoreBlock& score_block);
// Whether nothing was found so far that is an error.
bool is_sound(const Call& call);
// What was found: NaN, infinity, or magnitudes out of range.
intflash_status end_packing(const Call& call);

// Whether the workspace holds what pack_kv left.
bool is_packed(const Call& call);

}  // namespace intflash::internal
