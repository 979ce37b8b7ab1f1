// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What of a block is not as append would have written it with so many first tokens: for codecs that
// have these parts in common. nullptr: nothing.
#pragma once

#include <cstdint>

#include "pages/page.h"

namespace intflash::internal {

// Of codes in INT8.
const void* find_damaged_keys(const PageLayout& layout, const KvBlock& block, std::int64_t tokens);
const void* find_damaged_scale(const KvBlock& block, std::int64_t tokens);

}  // namespace intflash::internal
