// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Key and value into the workspace: centred, rotated, quantized, and packed into pages.
#pragma once

#include <cstdint>

#include "cpu/dense_run.h"
#include "intflash/intflash.h"

namespace intflash::internal {

// Of a score block of a head (b * num_kv_heads + h) into two pages. Tokens from kv_end on are taken
// as absent.
void pack_score_block(DenseRun& run, const Worker& worker, std::int64_t head,
                      std::int64_t first_key, std::int64_t kv_end, char* pages,
                      ScoreBlock& score_block);

// Means of all keys or values, where they are computed: sums first, of chunk after chunk.
void sum_chunk(DenseRun& run, std::int64_t chunk);
void compute_center(const DenseRun& run, std::int64_t head);
// Score block `index` of all heads' into the workspace's pages.
void pack_block(DenseRun& run, const Worker& worker, std::int64_t index);

// Whether nothing was found so far that is an error.
bool is_kv_sound(const DenseRun& run);
// What was found: NaN, infinity, or magnitudes out of range.
intflash_status check_packed(const DenseRun& run);

// The workspace holds what was packed; or whether it does.
void mark_packed(DenseRun& run);
bool is_packed(const intflash_plan& plan, const DenseRun& run);

}  // namespace intflash::internal
