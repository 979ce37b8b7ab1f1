// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "core/mask.h"

#include <algorithm>

namespace intflash::internal {

KeyRange visible_keys(const MaskRule& rule, std::int64_t query) {
  const std::int64_t position = rule.kv_len - rule.query_len + query + rule.shift;
  const std::int64_t begin =
      rule.window_left < 0 ? rule.kv_begin : std::max(rule.kv_begin, position - rule.window_left);
  const std::int64_t end_of_window = std::max(position + rule.window_right + 1, rule.prefix_len);
  const std::int64_t end =
      rule.window_right < 0 ? rule.kv_len : std::min(rule.kv_len, end_of_window);
  return begin < end ? KeyRange{begin, end} : KeyRange{0, 0};
}

std::uint64_t keep_word(KeyRange range, std::int64_t first_key) {
  const std::int64_t begin = std::clamp<std::int64_t>(range.begin - first_key, 0, 64);
  const std::int64_t end = std::clamp<std::int64_t>(range.end - first_key, 0, 64);
  if (begin >= end) return 0;
  const std::uint64_t below_end = end == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << end) - 1;
  return below_end & ~std::uint64_t{0} << begin;
}

void write_keep_words(const KeyRange* ranges, std::int32_t rows, std::int64_t first_key,
                      std::uint64_t* words) {
  for (std::int32_t r = 0; r < rows; ++r) {
    words[2 * r] = keep_word(ranges[r], first_key);
    words[2 * r + 1] = keep_word(ranges[r], first_key + kBlockTokens);
  }
}

}  // namespace intflash::internal
