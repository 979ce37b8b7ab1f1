// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Plans: items cover every row of every head once, the costliest first, and the parts of the
// workspace do not overlap.
#include "engine/plan.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "engine/worker.h"
#include "test_ports.h"

namespace intflash::internal {
namespace {

struct Shape {
  std::int64_t batch, num_kv_heads, group_size, query_len, kv_len, head_dim, head_dim_v;
};
const Shape kShapes[] = {{1, 1, 1, 1, 1, 8, 8},         {1, 1, 1, 1, 0, 64, 64},
                         {1, 8, 4, 1, 5000, 128, 128},  {2, 3, 5, 17, 129, 72, 40},
                         {1, 1, 1, 4097, 128, 64, 64},  {1, 2, 8, 300, 3000, 576, 512},
                         {7, 1, 3, 33, 1025, 1024, 24}, {1, 32, 1, 512, 512, 128, 128}};

Problem problem_of(const Shape& shape, bool centered) {
  intflash_attend_desc desc = {};
  desc.struct_size = sizeof desc;
  desc.batch = shape.batch;
  desc.num_kv_heads = shape.num_kv_heads;
  desc.num_query_heads = shape.num_kv_heads * shape.group_size;
  desc.query_len = shape.query_len;
  desc.kv_len = shape.kv_len;
  desc.head_dim = shape.head_dim;
  desc.head_dim_v = shape.head_dim_v;
  desc.query_dtype = desc.key_dtype = desc.value_dtype = desc.out_dtype = INTFLASH_F32;
  desc.mask = INTFLASH_MASK_CAUSAL;
  desc.center = centered ? INTFLASH_CENTER_KEY_VALUE : INTFLASH_CENTER_NONE;
  Problem problem = {};
  EXPECT_EQ(make_problem(&desc, problem), INTFLASH_OK) << last_error();
  return problem;
}

template <class CheckFn>
void for_each_plan(CheckFn check) {
  for (const Shape& shape : kShapes) {
    for (const bool centered : {false, true}) {
      const Problem problem = problem_of(shape, centered);
      for (const PortEntry& port : all_test_ports()) {
        for (const std::int32_t workers : {1, 2, 7, 64}) {
          for (const std::int64_t l2_bytes : {std::int64_t{1}, std::int64_t{2} << 20}) {
            check(problem, make_plan(problem, *port.kernels, workers, l2_bytes), *port.kernels);
          }
        }
      }
    }
  }
}

TEST(Plan, ItemsCoverEachRowOfEachHeadOnce) {
  for_each_plan([](const Problem& problem, const Plan& plan, const KernelTable&) {
    const std::int64_t heads = problem.batch * problem.num_kv_heads;
    std::vector<int> times(static_cast<std::size_t>(heads * plan.rows_per_head), 0);
    ASSERT_EQ(plan.rows_per_head, problem.group_size * problem.query_len);
    for (std::int64_t i = 0; i < plan.num_items; ++i) {
      const WorkItem item = work_item(problem, plan, i);
      ASSERT_TRUE(item.batch >= 0 && item.batch < problem.batch);
      ASSERT_TRUE(item.kv_head >= 0 && item.kv_head < problem.num_kv_heads);
      ASSERT_TRUE(item.num_tiles >= 1 && item.num_tiles <= plan.tiles_per_item);
      const std::int64_t head = item.batch * problem.num_kv_heads + item.kv_head;
      const std::int64_t end =
          std::min((item.first_tile + item.num_tiles) * plan.tile.rows, plan.rows_per_head);
      for (std::int64_t row = item.first_tile * plan.tile.rows; row < end; ++row)
        ++times[static_cast<std::size_t>(head * plan.rows_per_head + row)];
    }
    ASSERT_EQ(times, std::vector<int>(times.size(), 1));
  });
}

TEST(Plan, ItemsOfMoreKeysComeFirst) {
  for_each_plan([](const Problem& problem, const Plan& plan, const KernelTable&) {
    std::int64_t last = INT64_MAX;
    for (std::int64_t i = 0; i < plan.num_items; ++i) {
      const WorkItem item = work_item(problem, plan, i);
      ASSERT_LE(item.first_tile, last);  // later rows see more keys
      last = item.first_tile;
    }
  });
}

TEST(Plan, TilesFitThePort) {
  for_each_plan([](const Problem& problem, const Plan& plan, const KernelTable& kernels) {
    EXPECT_TRUE(plan.tile.rows >= 1 && plan.tile.rows <= kernels.tile_rows);
    EXPECT_LE(plan.tile.rows, kMaxTileRows);
    EXPECT_GE(plan.superblock_spans, 1);
    EXPECT_GE(plan.num_blocks * kScoreBlock, problem.kv_len);
    EXPECT_GE(plan.tile.code_stride, problem.head_dim);
    EXPECT_GE(plan.tile.accumulator_stride, problem.head_dim_v);
  });
}

TEST(Plan, PartsOfTheWorkspaceAreAlignedAndDoNotOverlap) {
  for_each_plan([](const Problem& problem, const Plan& plan, const KernelTable& kernels) {
    const auto heads = static_cast<std::size_t>(problem.batch * problem.num_kv_heads);
    const auto blocks = heads * static_cast<std::size_t>(plan.num_blocks);
    const auto dims = static_cast<std::size_t>(problem.head_dim + problem.head_dim_v);
    const auto spans = static_cast<std::size_t>((problem.kv_len + kSpanTokens - 1) / kSpanTokens);
    const bool centered = problem.center_key || problem.center_value;
    struct Part {
      std::size_t offset, bytes;
    };
    const Part parts[] = {
        {plan.status_offset, sizeof(CallStatus)},
        {plan.mask_offset,
         static_cast<std::size_t>(problem.batch * problem.query_len) * sizeof(KeyRange)},
        {plan.center_offset, centered ? heads * dims * 4 : 0},
        {plan.partial_offset, centered ? heads * spans * dims * 8 : 0},
        {plan.blocks_offset, blocks * sizeof(ScoreBlock)},
        {plan.pages_offset, blocks * 2 * static_cast<std::size_t>(plan.page.bytes())},
        {plan.workers_offset, static_cast<std::size_t>(plan.num_workers * plan.worker.bytes)}};
    std::size_t end = 0;
    for (const Part& part : parts) {
      EXPECT_EQ(part.offset % 64, 0u);
      EXPECT_GE(part.offset, end);
      end = part.offset + part.bytes;
    }
    EXPECT_LE(end, plan.total_bytes);
    EXPECT_EQ(plan.page.bytes() % 64, 0);
    EXPECT_EQ(plan.worker.bytes % 64, 0);
    EXPECT_GE(static_cast<std::size_t>(plan.worker.bytes),
              kernels.scratch_bytes(static_cast<std::int32_t>(problem.head_dim),
                                    static_cast<std::int32_t>(problem.head_dim_v)) +
                  static_cast<std::size_t>(plan.tiles_per_item * plan.tile.bytes()));
  });
}

TEST(Plan, HeadsAtOnceCoverAllHeadsOnceAndFitTheWorkers) {
  int taken = 0;
  for_each_plan([&](const Problem& problem, const Plan& plan, const KernelTable&) {
    if (plan.heads_at_once == 0) return;
    ++taken;
    const std::int64_t heads = problem.batch * problem.num_kv_heads;
    EXPECT_EQ(plan.tiles_per_head, 1);
    EXPECT_FALSE(problem.center_key || problem.center_value);
    EXPECT_LE(plan.heads_at_once, kMaxHeadsAtOnce);
    EXPECT_GE(plan.heads_at_once * plan.num_workers, heads);
    EXPECT_LE(ceil_div(heads, plan.heads_at_once), plan.num_workers);
    EXPECT_GE(plan.worker.parts, plan.heads_at_once * plan.tile.bytes());
    EXPECT_GE(plan.worker.keep, plan.worker.parts + plan.heads_at_once * plan.worker.part_bytes());
  });
  EXPECT_GT(taken, 0);
}

TEST(Plan, DoesNotGrowWithThePortsOrThreadsWhereItHoldsKeys) {
  for (const Shape& shape : kShapes) {
    const Problem problem = problem_of(shape, true);
    const Plan one = make_plan(problem, *scalar_port().kernels, 1, 1 << 20);
    for (const PortEntry& port : ports_under_test()) {
      const Plan other = make_plan(problem, *port.kernels, 7, 1 << 20);
      EXPECT_EQ(other.workers_offset, one.workers_offset) << port.name;
    }
  }
}

}  // namespace
}  // namespace intflash::internal
