// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Key and value into the workspace: centred, rotated, quantized, and packed into pages.
#pragma once

#include <cstdint>

#include "call.h"
#include "intflash/intflash.h"

namespace intflash {

// The same by score blocks: of a head (b * num_kv_heads + h) into two pages, from any worker.
// Tokens from kv_end on are taken as absent.
void begin_packing(const Call& call);
void pack_score_block(const Call& call, const Worker& worker, std::int64_t head, std::int64_t block,
                      std::int64_t kv_end, char* pages, ScoreBlock& score_block);
// What was found: NaN, infinity, or magnitudes out of range.
intflash_status end_packing(const Call& call);

// All of it.
intflash_status pack_kv(const intflash_plan& plan, const intflash_attend_args& args,
                        void* workspace);

}  // namespace intflash
