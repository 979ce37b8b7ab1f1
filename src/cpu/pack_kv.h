// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Key and value into the workspace: centred, rotated, quantized, and packed into pages.
#pragma once

#include <cstdint>

#include "cpu/dense_run.h"
#include "intflash/intflash.h"

namespace intflash::internal {

// The score block of a head (b * num_kv_heads + h) at keys.begin into two pages. Tokens from
// keys.end on are taken as absent, and second digits left out where queries of this limit take
// none.
void pack_score_block(DenseRun& run, const Worker& worker, std::int64_t head, KeyRange keys,
                      float query_limit, char* pages, ScoreBlock& score_block);

// Means of all keys or values that some query sees, where they are computed: sums first, of chunk
// after chunk. A mean that would make the steps of most rows coarser is 0.
void sum_chunk(DenseRun& run, std::int64_t chunk);
void compute_center(const DenseRun& run, const Worker& worker, std::int64_t head);
// Score block `index` of all heads' into the workspace's pages.
void pack_block(DenseRun& run, const Worker& worker, std::int64_t index);

// Whether what was found of keys and values is no error.
bool is_sound(const Finding& key, const Finding& value);
// What error it is: NaN, infinity, or magnitudes out of range.
intflash_status check_kv(const DenseRun& run, const Finding& key, const Finding& value);

// The largest of the packed keys that some query sees, at most.
double largest_packed_key(const DenseRun& run);

// The workspace holds what was packed; or whether it does.
void mark_packed(DenseRun& run, double largest_key);
bool is_packed(const intflash_plan& plan, const DenseRun& run);

}  // namespace intflash::internal
