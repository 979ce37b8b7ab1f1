// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What other codecs' blocks have as codec int8 has it.
#pragma once

#include <cstdint>

#include "pages/page.h"

namespace intflash::internal {

// What is not as append would have written it in a block with so many first tokens; nullptr:
// nothing.
const void* find_damaged_keys(const PageLayout& layout, const KvBlock& block, std::int64_t tokens);
const void* find_damaged_scale(const KvBlock& block, std::int64_t tokens);

}  // namespace intflash::internal
