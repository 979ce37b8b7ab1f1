// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Masks: ranges of visible keys, the keep words and the classes of blocks derived from them,
// against the definition of each mask key by key.
#include "core/mask.h"
#include "inputs/problem.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

namespace intflash::internal {
namespace {

// As the interface words it: query i stands at position p = kv_len - query_len + i.
bool sees(const intflash_attend_desc& desc, std::int64_t query, std::int64_t key) {
  const std::int64_t position = desc.kv_len - desc.query_len + query;
  switch (desc.mask) {
    case INTFLASH_MASK_NONE:
      return true;
    case INTFLASH_MASK_CAUSAL:
      return key <= position;
    case INTFLASH_MASK_WINDOW:
      return (desc.window_left == -1 || key >= position - desc.window_left) &&
             (desc.window_right == -1 || key <= position + desc.window_right);
    case INTFLASH_MASK_PREFIX:
      return key <= position || key < desc.prefix_len;
    case INTFLASH_MASK_CAUSAL_TOP_LEFT:
      return key <= query;
  }
  return false;
}

intflash_attend_desc desc_with(intflash_mask mask, std::int64_t query_len, std::int64_t kv_len,
                               std::int64_t left, std::int64_t right) {
  intflash_attend_desc desc = {};
  desc.struct_size = sizeof desc;
  desc.batch = desc.num_query_heads = desc.num_kv_heads = 1;
  desc.query_len = query_len;
  desc.kv_len = kv_len;
  desc.head_dim = 8;
  desc.query_dtype = desc.key_dtype = desc.value_dtype = desc.out_dtype = INTFLASH_F32;
  desc.mask = mask;
  desc.window_left = left;
  desc.window_right = right;
  return desc;
}

std::vector<intflash_attend_desc> descs() {
  std::vector<intflash_attend_desc> all;
  for (const std::int64_t query_len : {1, 3, 64, 65, 130, 200}) {
    for (const std::int64_t kv_len : {0, 1, 63, 64, 65, 128, 129, 200}) {
      all.push_back(desc_with(INTFLASH_MASK_NONE, query_len, kv_len, 0, 0));
      all.push_back(desc_with(INTFLASH_MASK_CAUSAL, query_len, kv_len, 0, 0));
      all.push_back(desc_with(INTFLASH_MASK_CAUSAL_TOP_LEFT, query_len, kv_len, 0, 0));
      for (const std::int64_t left : {-1, 0, 1, 63, 64, 300}) {
        for (const std::int64_t right : {-1, 0, 5, 64, 300})
          all.push_back(desc_with(INTFLASH_MASK_WINDOW, query_len, kv_len, left, right));
      }
      for (const std::int64_t prefix_len : {0, 1, 64, 130}) {
        all.push_back(desc_with(INTFLASH_MASK_PREFIX, query_len, kv_len, 0, 0));
        all.back().prefix_len = std::min<std::int64_t>(prefix_len, kv_len);
      }
    }
  }
  return all;
}

TEST(VisibleKeys, AreThoseOfTheDefinition) {
  for (const intflash_attend_desc& desc : descs()) {
    Problem problem = {};
    ASSERT_EQ(make_problem(&desc, problem), INTFLASH_OK) << last_error();
    for (std::int64_t query = 0; query < desc.query_len; ++query) {
      const KeyRange range = visible_keys(problem.mask, query);
      ASSERT_LE(range.begin, range.end);
      for (std::int64_t key = 0; key < desc.kv_len; ++key) {
        ASSERT_EQ(key >= range.begin && key < range.end, sees(desc, query, key))
            << "mask " << desc.mask << " query " << query << " of " << desc.query_len << " key "
            << key << " of " << desc.kv_len;
      }
      ASSERT_TRUE(range.begin == range.end || (range.begin >= 0 && range.end <= desc.kv_len));
    }
  }
}

TEST(VisibleKeys, OfWindowsAsWideAsInt64AreAll) {
  const std::int64_t most = INT64_MAX;
  const intflash_attend_desc desc = desc_with(INTFLASH_MASK_WINDOW, 10, 20, most, most);
  Problem problem = {};
  ASSERT_EQ(make_problem(&desc, problem), INTFLASH_OK) << last_error();
  for (std::int64_t query = 0; query < 10; ++query) {
    EXPECT_EQ(visible_keys(problem.mask, query).begin, 0);
    EXPECT_EQ(visible_keys(problem.mask, query).end, 20);
  }
}

TEST(KeepWord, HasABitForEachKeyInRange) {
  for (const std::int64_t begin : {0, 1, 63, 64, 65, 127, 128, 190}) {
    for (const std::int64_t end : {0, 1, 2, 63, 64, 65, 128, 129, 192}) {
      for (const std::int64_t first_key : {0, 64, 128}) {
        const std::uint64_t word = keep_word({begin, end}, first_key);
        for (int bit = 0; bit < 64; ++bit) {
          const std::int64_t key = first_key + bit;
          ASSERT_EQ((word >> bit & 1) != 0, key >= begin && key < end)
              << begin << " ... " << end << " key " << key;
        }
      }
    }
  }
}

TEST(KeepWords, EqualThePredicateForEveryRowAndKey) {
  for (const intflash_attend_desc& desc : descs()) {
    Problem problem = {};
    ASSERT_EQ(make_problem(&desc, problem), INTFLASH_OK) << last_error();
    const auto rows = static_cast<std::int32_t>(std::min<std::int64_t>(desc.query_len, 32));
    std::vector<KeyRange> ranges;
    for (std::int32_t r = 0; r < rows; ++r) ranges.push_back(visible_keys(problem.mask, r));
    for (std::int64_t first = 0; first < desc.kv_len; first += kScoreBlock) {
      std::vector<std::uint64_t> words(static_cast<std::size_t>(2 * rows), 0xa5a5);
      write_keep_words(ranges.data(), rows, first, words.data());
      for (std::int32_t r = 0; r < rows; ++r) {
        for (std::int64_t k = 0; k < kScoreBlock; ++k) {
          const bool seen = first + k < desc.kv_len && sees(desc, r, first + k);
          const std::uint64_t word = words[static_cast<std::size_t>(2 * r + k / 64)];
          ASSERT_EQ((word >> (k % 64) & 1) != 0, seen) << "row " << r << " key " << first + k;
        }
      }
    }
  }
}

}  // namespace
}  // namespace intflash::internal
