// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A run that a host takes in tasks: what belongs to no run that was begun, or ends one too early,
// is a status.
#include <cstring>

#include <gtest/gtest.h>

#include "serving_input.h"

namespace intflash::internal::serving {
namespace {

class BatchTasks : public testing::Test {
 protected:
  BatchTasks() {
    EXPECT_EQ(intflash_cache_append(input.cache, &input.append), INTFLASH_OK);
    EXPECT_EQ(batch.make_plan(input.context, input.cache), INTFLASH_OK);
    std::memset(batch.workspace.get(), 0xa5, batch.workspace_bytes);
  }

  intflash_status begin() {
    return intflash_begin_batch(batch.plan, input.cache, &batch.args, batch.workspace.get(),
                                batch.workspace_bytes);
  }
  intflash_status run_task(std::int32_t phase, std::int64_t task, std::int32_t worker = 0) {
    return intflash_run_task(batch.plan, batch.workspace.get(), phase, task, worker);
  }
  void run_phases(std::int32_t first, std::int32_t end) {
    for (std::int32_t phase = first; phase < end; ++phase) {
      for (std::int64_t i = 0; i < intflash_plan_num_tasks(batch.plan, phase); ++i)
        EXPECT_EQ(run_task(phase, i), INTFLASH_OK) << intflash_last_error();
    }
  }
  intflash_status end() { return intflash_end(batch.plan, batch.workspace.get()); }
  static void expect_message(const std::string& words) {
    EXPECT_NE(std::string(intflash_last_error()).find(words), std::string::npos)
        << intflash_last_error();
  }
  std::int32_t num_phases() const { return intflash_plan_num_phases(batch.plan); }

  ServingInput input;
  BatchCall& batch = input.batch;
};

TEST_F(BatchTasks, OfAWholeRunEndOnce) {
  ASSERT_EQ(begin(), INTFLASH_OK) << intflash_last_error();
  run_phases(0, num_phases());
  EXPECT_EQ(end(), INTFLASH_OK) << intflash_last_error();
  const std::vector<float> out = batch.out;
  EXPECT_EQ(end(), INTFLASH_INVALID_ARGUMENT);
  expect_message("holds no run");
  ASSERT_EQ(batch.run(input.cache), INTFLASH_OK);
  EXPECT_EQ(batch.out, out);
  EXPECT_EQ(end(), INTFLASH_INVALID_ARGUMENT);
}

TEST_F(BatchTasks, ThatAreMissingKeepTheRunFromItsEnd) {
  ASSERT_EQ(begin(), INTFLASH_OK) << intflash_last_error();
  run_phases(0, 1);
  EXPECT_EQ(end(), INTFLASH_INVALID_ARGUMENT);
  expect_message("tasks of this run have run");
  run_phases(1, num_phases());
  EXPECT_EQ(end(), INTFLASH_OK) << intflash_last_error();
}

TEST_F(BatchTasks, OfARunThatWasNotBegunAreRefused) {
  EXPECT_EQ(run_task(0, 0), INTFLASH_INVALID_ARGUMENT);
  expect_message("holds no run");
  EXPECT_EQ(end(), INTFLASH_INVALID_ARGUMENT);
  ASSERT_EQ(begin(), INTFLASH_OK);
  batch.args.lse = reinterpret_cast<float*>(1);
  EXPECT_EQ(begin(), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(run_task(0, 0), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(end(), INTFLASH_INVALID_ARGUMENT);
  for (const float x : batch.out) EXPECT_EQ(x, ServingInput::kUntouched);
}

TEST_F(BatchTasks, OfAnotherPlanAreRefused) {
  ASSERT_EQ(begin(), INTFLASH_OK);
  intflash_plan* other = nullptr;
  ASSERT_EQ(intflash_plan_batch(input.context, input.cache, &batch.desc, &other), INTFLASH_OK);
  EXPECT_EQ(intflash_run_task(other, batch.workspace.get(), 0, 0, 0), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(intflash_end(other, batch.workspace.get()), INTFLASH_INVALID_ARGUMENT);
  intflash_plan_destroy(other);
}

TEST_F(BatchTasks, OutOfRangeAreRefused) {
  ASSERT_EQ(begin(), INTFLASH_OK);
  EXPECT_EQ(run_task(-1, 0), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(run_task(num_phases(), 0), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(run_task(0, -1), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(run_task(0, intflash_plan_num_tasks(batch.plan, 0)), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(run_task(0, 0, -1), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(run_task(0, 0, 1), INTFLASH_INVALID_ARGUMENT);
  expect_message("worker = 1");
}

TEST_F(BatchTasks, NeedTheArgumentsOnlyAsTheyWereAtTheBegin) {
  ASSERT_EQ(begin(), INTFLASH_OK);
  batch.args = {};
  run_phases(0, num_phases());
  EXPECT_EQ(end(), INTFLASH_OK) << intflash_last_error();
  for (const float x : batch.out) EXPECT_NE(x, ServingInput::kUntouched);
}

}  // namespace
}  // namespace intflash::internal::serving
