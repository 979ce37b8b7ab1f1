// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Which keys count: classifies whole score blocks, and writes keep words for the rest.
#pragma once

#include <cstdint>

#include "problem.h"
#include "tile/types.h"

namespace intflash {

// One bit per key of [first_key, first_key + 64): set where the key lies in range.
std::uint64_t keep_word(KeyRange range, std::int64_t first_key);

// What a score block is to the rows of a tile.
enum class BlockKind { kHidden, kVisible, kMixed };
BlockKind classify_block(const KeyRange* ranges, std::int32_t rows, std::int64_t first_key);

// Keep words of a score block: words[rows][2].
void write_keep_words(const KeyRange* ranges, std::int32_t rows, std::int64_t first_key,
                      std::uint64_t* words);

}  // namespace intflash
