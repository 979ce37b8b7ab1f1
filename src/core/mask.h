// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Which keys count: the rule of a request, and the keep words of a score block.
#pragma once

#include <cstdint>

#include "tile/types.h"

namespace intflash::internal {

// What the queries of a request see. Query i stands at position kv_len - query_len + i, is seen at
// p = that + shift, and sees keys p - window_left ... p + window_right; -1 = no bound on that side.
// Causal is {-1, 0}. Keys below prefix_len are never too late to be seen.
struct MaskRule {
  std::int64_t query_len;
  std::int64_t kv_begin;  // position of the first key
  std::int64_t kv_len;    // position after the last one
  std::int64_t window_left;
  std::int64_t window_right;
  std::int64_t prefix_len;
  std::int64_t shift;
};

// Keys [begin, end); begin == end: none.
struct KeyRange {
  std::int64_t begin;
  std::int64_t end;
};
KeyRange visible_keys(const MaskRule& rule, std::int64_t query);

// One bit per key of [first_key, first_key + 64): set where the key lies in range.
std::uint64_t keep_word(KeyRange range, std::int64_t first_key);

// Keep words of a score block: words[rows][2].
void write_keep_words(const KeyRange* ranges, std::int32_t rows, std::int64_t first_key,
                      std::uint64_t* words);

}  // namespace intflash::internal
