// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Which keys of a request some query sees: what the others hold must not matter, and may be NaN.
#pragma once

#include <bit>
#include <cstdint>

#include "inputs/score_bias.h"
#include "tile/types.h"

namespace intflash::internal {

struct SeenKeys {
  const KernelTable& kernels;
  std::int64_t group_size;  // query heads that share one kv head
  ScoreBias bias;

  // Those of a score block that queries of a kv head see: words [2], a bit each.
  void find(std::int64_t batch, std::int64_t kv_head, std::int64_t first_key,
            std::uint64_t* words) const;
  // Whether any of tokens [begin, end) is seen.
  bool any(std::int64_t batch, std::int64_t kv_head, std::int64_t begin, std::int64_t end) const;
  // Calls visit(token, tokens) for the runs of those that are seen in the block of 64 at first.
  template <class Visit>
  void for_each_run(std::int64_t batch, std::int64_t kv_head, std::int64_t first,
                    Visit visit) const {
    std::uint64_t words[2];
    find(batch, kv_head, first / kScoreBlock * kScoreBlock, words);
    std::uint64_t left = words[first % kScoreBlock / kBlockTokens];
    while (left != 0) {
      const int begin = std::countr_zero(left);
      const int count = std::countr_one(left >> begin);
      visit(first + begin, count);
      left = begin + count == 64 ? 0 : left >> (begin + count) << (begin + count);
    }
  }
};

}  // namespace intflash::internal
