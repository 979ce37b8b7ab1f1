// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "inputs/seen_keys.h"

#include <algorithm>

namespace intflash::internal {
namespace {

// Of one query.
void add_seen(const SeenKeys& seen, std::int64_t batch, std::int64_t kv_head, std::int64_t query,
              std::int64_t first_key, std::uint64_t* words) {
  const ScoreBias& bias = seen.bias;
  const std::int64_t group = seen.group_size;
  const bool heads_differ = bias.additive.data != nullptr && bias.additive.stride_head != 0;
  const BitRow bits = bit_row(bias, query);
  const KeyRange range = visible_keys(bias.rule, query);
  for (std::int64_t i = 0; i < (heads_differ ? group : 1); ++i) {
    std::uint64_t keep[2];
    write_keep_words(&range, 1, first_key, keep);
    if (((keep[0] & ~words[0]) | (keep[1] & ~words[1])) == 0) return;
    mask_row(seen.kernels, bias_row(bias, batch, kv_head * group + i, query), bits, first_key,
             keep);
    words[0] |= keep[0];
    words[1] |= keep[1];
  }
}

}  // namespace

void SeenKeys::find(std::int64_t batch, std::int64_t kv_head, std::int64_t first_key,
                    std::uint64_t* words) const {
  words[0] = words[1] = 0;
  // Late queries see more under causal masks.
  for (std::int64_t query = bias.rule.query_len - 1; query >= 0; --query)
    add_seen(*this, batch, kv_head, query, first_key, words);
}

bool SeenKeys::any(std::int64_t batch, std::int64_t kv_head, std::int64_t begin,
                   std::int64_t end) const {
  for (std::int64_t first = begin / kScoreBlock * kScoreBlock; first < end; first += kScoreBlock) {
    std::uint64_t words[2];
    find(batch, kv_head, first, words);
    const KeyRange wanted = {begin, end};
    if ((words[0] & keep_word(wanted, first)) != 0) return true;
    if ((words[1] & keep_word(wanted, first + kBlockTokens)) != 0) return true;
  }
  return false;
}

}  // namespace intflash::internal
