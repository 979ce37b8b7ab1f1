// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Prefixes that requests of a batch share: checked, and which sections they make.
#pragma once

#include <cstdint>

#include "cache/kv_cache.h"
#include "engine/schedule.h"
#include "intflash/cache.h"

namespace intflash::internal {

// The prefixes of a batch whose requests have been checked.
intflash_status check_shared_prefixes(const intflash_batch_desc& desc);

// That the requests of a shared section have its pages in common. Their tables have been checked.
intflash_status check_shared_pages(const Schedule& schedule, const Section& section,
                                   const intflash_cache& cache, const intflash_batch_args& args);

// Writes the sections that a batch's prefixes make, at most one for each, and the requests'
// shared_end; returns how many. Left out are those without a whole block or page that more than one
// request reads.
std::int64_t make_shared_sections(const Batch& batch, Request* requests, Section* sections);

}  // namespace intflash::internal
