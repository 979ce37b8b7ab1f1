// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the operating system is advised of a cache's pages.
#pragma once

#include <cstddef>
#include <cstdint>

#include "intflash/cache.h"

namespace intflash::internal {

// For the system's pages that lie wholly within memory. Does nothing where there is no such advice.
void advise_huge_pages(void* memory, std::size_t bytes, intflash_huge_pages huge_pages);
void advise_numa(void* memory, std::size_t bytes, intflash_numa numa);
// Takes back what was advised of nodes: the allocator may hand the memory out again.
void forget_node(void* memory, std::size_t bytes);
// That it should lie on the node of this number, where that has room.
void advise_node(void* memory, std::size_t bytes, std::int32_t node);

}  // namespace intflash::internal
