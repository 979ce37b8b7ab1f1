// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Which second digits of keys a dense call of few queries packs: those that some query may take.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "attention_case.h"
#include "cpu/dense_run.h"
#include "seed.h"
#include "test_ports.h"
#include "tile/score_block.h"

namespace intflash::internal {
namespace {

// More queries than a tile has, and less than half as many as keys.
AttentionCase few_queries() {
  AttentionCase c;
  c.num_kv_heads = 2;
  c.group_size = 2;
  c.query_len = 40;
  c.kv_len = 640;
  c.rotate = true;
  c.query.magnitude = 0.5f;
  return c;
}

// Of each head's score blocks, whether the run wrote second digits of keys: all of a workspace was
// poisoned before.
std::vector<std::vector<bool>> blocks_with_digits(CaseTensors& tensors) {
  Memory memory;
  intflash_context context = make_context(scalar_port(), {});
  intflash_plan* plan = nullptr;
  EXPECT_EQ(intflash_plan_attend(&context, &tensors.desc, &plan), INTFLASH_OK);
  const std::size_t bytes = intflash_plan_workspace_bytes(plan);
  std::byte* const workspace = memory.take(bytes);
  std::memset(workspace, CaseTensors::kPoison, bytes);
  EXPECT_EQ(intflash_run(plan, &tensors.args, workspace, bytes), INTFLASH_OK);
  const DenseRun& run = *reinterpret_cast<const DenseRun*>(workspace);
  const DensePlan& dense = run.dense_plan();
  std::vector<std::vector<bool>> written;
  for (std::int64_t head = 0; head < plan->problem.num_kv_heads; ++head) {
    std::vector<bool>& blocks = written.emplace_back();
    for (std::int64_t b = 0; b < dense.blocks_per_head; ++b) {
      const std::int8_t* digits = dense.page.block(run.page(head, 2 * b), 0).key_digits;
      blocks.push_back(
          std::any_of(digits, digits + kBlockTokens * dense.page.head_dim, [](std::int8_t digit) {
            return static_cast<unsigned char>(digit) != CaseTensors::kPoison;
          }));
    }
  }
  intflash_plan_destroy(plan);
  return written;
}

TEST(KeyDigits, AreLeftOutWhereNoQueryOfTheHeadMayTakeThem) {
  const AttentionCase c = few_queries();
  Memory memory;
  CaseTensors tensors = make_tensors(c, memory);
  const std::vector<bool> none(5);
  EXPECT_EQ(blocks_with_digits(tensors), std::vector(2, none));
  // One key of the second head's third block.
  auto* key = static_cast<float*>(const_cast<void*>(tensors.args.key.data));
  key += (c.kv_len + 300) * c.head_dim;
  for (std::int64_t i = 0; i < c.head_dim; ++i) key[i] *= 100;
  EXPECT_EQ(blocks_with_digits(tensors),
            (std::vector<std::vector<bool>>{none, {false, false, true, false, false}}));
}

TEST(KeyDigits, ArePackedOfTheHeadAloneThatHasOneLargeQuery) {
  const AttentionCase c = few_queries();
  Memory memory;
  CaseTensors tensors = make_tensors(c, memory);
  // The last query of the first head's second query head.
  auto* query = static_cast<float*>(const_cast<void*>(tensors.args.query.data));
  query += (2 * c.query_len - 1) * c.head_dim;
  for (std::int64_t i = 0; i < c.head_dim; ++i) query[i] *= 100;
  EXPECT_EQ(blocks_with_digits(tensors),
            (std::vector{std::vector<bool>(5, true), std::vector<bool>(5)}));
}

TEST(KeyDigits, AreAllThereWhereAllRowsTakeThem) {
  AttentionCase c = few_queries();
  c.score_digits = 2;
  Memory memory;
  CaseTensors tensors = make_tensors(c, memory);
  EXPECT_EQ(blocks_with_digits(tensors), std::vector(2, std::vector<bool>(5, true)));
}

TEST(KeyDigits, MayBeTakenBeyondALimitOfTheUnit) {
  ScoreBlock block{};
  block.key_exponent = -4;
  block.key_mantissa = 0.75f;
  // The largest unit is 2^kDigitExponent where limit * key scale is below that.
  const float limit = std::ldexp(1 / 0.75f, kDigitExponent + 4);
  EXPECT_FALSE(may_take_digits(block, 0.999f * limit, kDigitExponent));
  EXPECT_TRUE(may_take_digits(block, 1.001f * limit, kDigitExponent));
}

// Keys that are packed before queries are known have all their digits; where a whole run has left
// some out there stands what would show.
TEST(KeyDigits, ThatARowTakesAreAlwaysThere) {
  std::mt19937_64 random(seed_from_test_name());
  const auto choose = [&](std::initializer_list<std::int64_t> of) {
    return of.begin()[random() % of.size()];
  };
  const std::int64_t cases = quick_tests() ? 60 : 200;
  for (std::int64_t i = 0; i < cases; ++i) {
    AttentionCase c = few_queries();
    c.seed = random();
    c.query_len = choose({33, 40, 70});
    c.head_dim = choose({16, 64, 80, 128});
    c.mask = choose({0, 1}) != 0 ? INTFLASH_MASK_CAUSAL : INTFLASH_MASK_NONE;
    c.rotate = choose({0, 1, 2}) != 0;
    c.data = choose({0, 1}) != 0 ? CaseData::kOutliers : CaseData::kNormal;
    c.query.magnitude = std::exp2(static_cast<float>(choose({-2, -1, 0, 1, 2})) / 2);
    c.key.magnitude = std::exp2(static_cast<float>(choose({-2, -1, 0, 1, 2})) / 2);
    c.query.dtype = choose({0, 1, 2}) == 0 ? INTFLASH_INT8 : INTFLASH_F32;
    if (c.query.dtype == INTFLASH_INT8) c.rotate = false;
    const PortEntry& port = all_test_ports()[random() % all_test_ports().size()];
    RunOptions packed;
    packed.packed = true;
    EXPECT_EQ(difference(c, run_case(c, port), run_case(c, port, packed)), "")
        << describe(c) << " on " << port.name;
  }
}

}  // namespace
}  // namespace intflash::internal
