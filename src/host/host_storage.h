// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The storage of caches in the host's memory: what its table is made of.
#pragma once

#include <cstdint>

#include "cache/storage.h"

namespace intflash::internal {

extern const Storage kHostStorage;

// As Storage has them.
intflash_status check_tokens(const Append& append);
intflash_status append_tokens(const Append& append);
intflash_status export_rows(const Export& wanted);

// The token at a place of a block, which is of this codec, as export_rows gives it.
void export_key(const intflash_cache& cache, const Codec& codec, std::int64_t layer,
                std::int64_t kv_head, const KvBlock& block, std::int64_t at, float* key);
void export_value(const intflash_cache& cache, const Codec& codec, std::int64_t layer,
                  std::int64_t kv_head, const KvBlock& block, std::int64_t at, float* value);

// Of one kv head and of the run's layer alone, on this thread: key [end - begin][head_dim], value
// [end - begin][head_dim_v].
void export_head(const intflash_cache& cache, const PageRun& run, std::int64_t kv_head,
                 std::int64_t begin, std::int64_t end, float* key, float* value);

// A full block in INT8 as the cache's codec has it. rows: room for 64 rows of codes.
void code_full_block(const intflash_cache& cache, const KvBlock& from, const WritableBlock& to,
                     std::int8_t* rows);

// How many of the context's threads so many rows, tokens times kv heads, are worth.
std::int64_t workers_for(const intflash_context& context, std::int64_t rows);

}  // namespace intflash::internal
