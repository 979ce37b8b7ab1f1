// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Tokens out of the pages of a cache, in f32.
#pragma once

#include <cstdint>

#include "cache/kv_cache.h"

namespace intflash::internal {

// Those of a kv head at positions [begin, end) of a run of pages, which has them: key [end -
// begin][head_dim], value [end - begin][head_dim_v].
void export_head(const intflash_cache& cache, const PageRun& run, std::int64_t kv_head,
                 std::int64_t begin, std::int64_t end, float* key, float* value);

}  // namespace intflash::internal
