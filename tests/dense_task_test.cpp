// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Dense calls that a host takes in tasks, or cancels.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "api_call.h"
#include "intflash/cache.h"
#include "test_ports.h"

namespace intflash::internal {
namespace {

// A call and its plan, with a workspace.
struct Planned {
  explicit Planned(const AttentionCase& c, std::int32_t num_threads = 3) : call(c, num_threads) {
    EXPECT_EQ(intflash_plan_attend(call.context, &call.desc(), &plan), INTFLASH_OK)
        << intflash_last_error();
    bytes = intflash_plan_workspace_bytes(plan);
    workspace = memory.take(bytes);
    std::memset(workspace, CaseTensors::kPoison, bytes);
  }
  ~Planned() { intflash_plan_destroy(plan); }
  Planned(const Planned&) = delete;
  Planned& operator=(const Planned&) = delete;

  intflash_status begin() { return intflash_begin(plan, &call.args(), workspace, bytes); }
  intflash_status run() { return intflash_run(plan, &call.args(), workspace, bytes); }
  intflash_status end() { return intflash_end(plan, workspace); }
  void run_tasks(std::uint32_t seed) {
    std::mt19937 random(seed);
    for (std::int32_t phase = 0; phase < intflash_plan_num_phases(plan); ++phase) {
      std::vector<std::int64_t> tasks(
          static_cast<std::size_t>(intflash_plan_num_tasks(plan, phase)));
      std::iota(tasks.begin(), tasks.end(), 0);
      std::shuffle(tasks.begin(), tasks.end(), random);
      for (const std::int64_t task : tasks) {
        EXPECT_EQ(intflash_run_task(plan, workspace, phase, task,
                                    static_cast<std::int32_t>(random() % 3)),
                  INTFLASH_OK)
            << intflash_last_error();
      }
    }
  }
  void poison() {
    const CaseTensors& tensors = call.tensors;
    std::memset(tensors.out, CaseTensors::kPoison, tensors.out_bytes);
    std::memset(tensors.args.lse, CaseTensors::kPoison, tensors.lse_count * sizeof(float));
  }
  std::vector<std::byte> out() const {
    return {call.tensors.out, call.tensors.out + call.tensors.out_bytes};
  }

  ApiCall call;
  Memory memory;
  intflash_plan* plan = nullptr;
  std::byte* workspace = nullptr;
  std::size_t bytes = 0;
};

std::vector<AttentionCase> cases() {
  std::vector<AttentionCase> cases(7, small_call());
  cases[1].query_len = 300;  // packed first, means computed
  cases[1].kv_len = 1500;
  cases[1].mask = INTFLASH_MASK_CAUSAL;
  cases[2].query_len = 1;  // packed as it is attended, cut between workers
  cases[2].kv_len = 9000;
  cases[2].center = INTFLASH_CENTER_NONE;
  cases[3].bias = CaseBias::kAll;
  cases[4].mode = INTFLASH_MODE_EXACT;
  cases[5].given_centers = true;
  cases[6].query.dtype = cases[6].key.dtype = cases[6].value.dtype = INTFLASH_INT8;
  return cases;
}

TEST(DenseTasks, GiveTheBitsOfARun) {
  for (const AttentionCase& c : cases()) {
    SCOPED_TRACE(describe(c));
    Planned planned(c);
    ASSERT_EQ(planned.run(), INTFLASH_OK) << intflash_last_error();
    const std::vector<std::byte> expected = planned.out();
    planned.poison();
    ASSERT_EQ(planned.begin(), INTFLASH_OK) << intflash_last_error();
    planned.run_tasks(11);
    EXPECT_EQ(planned.end(), INTFLASH_OK) << intflash_last_error();
    EXPECT_EQ(planned.out(), expected);
  }
}

TEST(DenseRuns, HaveAStatusFromAnEndWithoutAnErrorOn) {
  Planned planned(small_call());
  const auto status = [&] { return intflash_status_of_run(planned.plan, planned.workspace); };
  EXPECT_EQ(status(), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(intflash_status_of_run(planned.plan, nullptr), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(intflash_status_of_run(nullptr, planned.workspace), INTFLASH_INVALID_ARGUMENT);
  ASSERT_EQ(planned.run(), INTFLASH_OK) << intflash_last_error();
  EXPECT_EQ(status(), INTFLASH_OK);
  EXPECT_EQ(status(), INTFLASH_OK);
  const Planned other(small_call());
  EXPECT_EQ(intflash_status_of_run(other.plan, planned.workspace), INTFLASH_INVALID_ARGUMENT);
  ASSERT_EQ(planned.begin(), INTFLASH_OK);
  EXPECT_EQ(status(), INTFLASH_INVALID_ARGUMENT);
  EXPECT_NE(std::string(intflash_last_error()).find("ended without an error"), std::string::npos);
}

TEST(DenseTasks, ThatAreMissingKeepTheRunFromItsEnd) {
  Planned planned(small_call());
  EXPECT_EQ(planned.end(), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(intflash_run_task(planned.plan, planned.workspace, 0, 0, 0), INTFLASH_INVALID_ARGUMENT);
  ASSERT_EQ(planned.begin(), INTFLASH_OK);
  EXPECT_EQ(planned.end(), INTFLASH_INVALID_ARGUMENT);
  EXPECT_NE(std::string(intflash_last_error()).find("tasks of this run have run"),
            std::string::npos);
  planned.run_tasks(3);
  EXPECT_EQ(planned.end(), INTFLASH_OK);
  EXPECT_EQ(planned.end(), INTFLASH_INVALID_ARGUMENT);
}

TEST(DenseTasks, OfWhatIsNotFiniteEndWithTheErrorAndWriteNothing) {
  for (const AttentionCase& c : cases()) {
    if (c.query.dtype != INTFLASH_F32 || c.mode != INTFLASH_MODE_INT8) continue;
    SCOPED_TRACE(describe(c));
    Planned planned(c);
    for (const intflash_tensor* bad : {&planned.call.args().query, &planned.call.args().key}) {
      float& element = *static_cast<float*>(bad->data);
      const float before = std::exchange(element, std::numeric_limits<float>::quiet_NaN());
      ASSERT_EQ(planned.begin(), INTFLASH_OK);
      planned.run_tasks(5);
      planned.call.expect_refusal(planned.end(), INTFLASH_NONFINITE_INPUT, {"[0] = nan"});
      element = before;
    }
  }
}

TEST(DenseTasks, OfAnEmptyCallAreNone) {
  AttentionCase c = small_call();
  c.query_len = 0;
  Planned planned(c);
  ASSERT_EQ(planned.begin(), INTFLASH_OK) << intflash_last_error();
  EXPECT_EQ(intflash_plan_num_phases(planned.plan), 0);
  EXPECT_EQ(planned.end(), INTFLASH_OK);
}

TEST(DenseCalls, EndWhereTheCallerCancels) {
  for (const AttentionCase& c : cases()) {
    SCOPED_TRACE(describe(c));
    Planned planned(c);
    ASSERT_EQ(planned.run(), INTFLASH_OK);
    const std::vector<std::byte> expected = planned.out();
    intflash_attend_args& args = planned.call.args();
    args.should_cancel = [](void*) { return 1; };
    planned.poison();
    planned.call.expect_refusal(planned.run(), INTFLASH_CANCELLED, {"should_cancel"});
    planned.call.expect_refusal(
        intflash_pack(planned.plan, &args, planned.workspace, planned.bytes),
        c.mode == INTFLASH_MODE_INT8 ? INTFLASH_CANCELLED : INTFLASH_OK, {});
    args.should_cancel = nullptr;
    EXPECT_EQ(planned.run(), INTFLASH_OK);
    EXPECT_EQ(planned.out(), expected);
  }
}

TEST(DenseCalls, AskForCancellationWithinItemsOfManyTilesOrSpans) {
  struct Length {
    std::int64_t query_len, kv_len;
  };
  for (const Length length : {Length{600, 600}, Length{600, quick_length(6000, 2100)},
                              Length{1, 6000}, Length{6, 6000}}) {
    AttentionCase c = small_call();
    c.query_len = length.query_len;
    c.kv_len = length.kv_len;
    SCOPED_TRACE(describe(c));
    Planned planned(c);
    const std::int32_t last_phase = intflash_plan_num_phases(planned.plan) - 1;
    std::int64_t tasks = 0;
    for (std::int32_t phase = 0; phase <= last_phase; ++phase)
      tasks += intflash_plan_num_tasks(planned.plan, phase);
    std::atomic<std::int64_t> asked = 0;
    intflash_attend_args& args = planned.call.args();
    args.should_cancel = [](void* user) {
      ++*static_cast<std::atomic<std::int64_t>*>(user);
      return 0;
    };
    args.cancel_user = &asked;
    ASSERT_EQ(planned.run(), INTFLASH_OK);
    const std::vector<std::byte> expected = planned.out();
    const std::int64_t all = asked;
    EXPECT_GE(all, tasks + 5);
    for (const std::int64_t last : {all / 4, all / 2, all - 1}) {
      asked = last;
      args.should_cancel = [](void* user) {
        return --*static_cast<std::atomic<std::int64_t>*>(user) == 0 ? 1 : 0;
      };
      EXPECT_EQ(planned.run(), INTFLASH_CANCELLED);
      args.should_cancel = nullptr;
      planned.poison();
      ASSERT_EQ(planned.run(), INTFLASH_OK);
      EXPECT_EQ(planned.out(), expected);
    }
  }
}

TEST(DenseCalls, ThatWereCancelledWhileTheyPackedHavePackedNothing) {
  Planned planned(small_call());
  intflash_attend_args& args = planned.call.args();
  args.should_cancel = [](void*) { return 1; };
  EXPECT_EQ(intflash_pack(planned.plan, &args, planned.workspace, planned.bytes),
            INTFLASH_CANCELLED);
  args.should_cancel = nullptr;
  EXPECT_EQ(intflash_run_packed(planned.plan, &args, planned.workspace, planned.bytes),
            INTFLASH_INVALID_ARGUMENT);
}

TEST(Plans, OfDenseCallsLeaveNoStates) {
  const Planned planned(small_call());
  EXPECT_EQ(intflash_plan_num_states(planned.plan, 0), 0);
}

TEST(Plans, OfOneKindAreRefusedByTheCallsOfTheOther) {
  Planned planned(small_call());
  EXPECT_EQ(intflash_run_batch(planned.plan, nullptr, nullptr, planned.workspace, planned.bytes),
            INTFLASH_INVALID_ARGUMENT);
  EXPECT_NE(std::string(intflash_last_error()).find("must be of a batch"), std::string::npos);
}

}  // namespace
}  // namespace intflash::internal
