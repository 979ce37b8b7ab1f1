// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Contexts, plans and workspaces that cannot be used are refused, and a context says how many
// threads it has.
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "api_call.h"
#include "machine/machine.h"
#include "threads/parallel.h"

namespace intflash::internal {
namespace {

TEST(BadHandles, AreRefused) {
  ApiCall call;
  intflash_plan* plan = nullptr;
  intflash_plan_info info = {};
  const auto refuse = [&](intflash_status status, const std::vector<std::string>& words) {
    call.expect_refusal(status, INTFLASH_INVALID_ARGUMENT, words);
  };
  refuse(intflash_context_create(nullptr, nullptr), {"context", "NULL"});
  refuse(intflash_attend(nullptr, &call.desc(), &call.args()), {"context", "NULL"});
  refuse(intflash_attend(call.context, nullptr, &call.args()), {"desc", "NULL"});
  refuse(intflash_attend(call.context, &call.desc(), nullptr), {"args", "NULL"});
  refuse(intflash_plan_attend(nullptr, &call.desc(), &plan), {"context", "NULL"});
  refuse(intflash_plan_attend(call.context, nullptr, &plan), {"desc", "NULL"});
  refuse(intflash_plan_attend(call.context, &call.desc(), nullptr), {"plan", "NULL"});
  EXPECT_EQ(plan, nullptr);
  refuse(intflash_query_support(nullptr, &call.desc(), nullptr), {"context", "NULL"});
  refuse(intflash_query_support(call.context, &call.desc(), &info), {"info.struct_size", "0"});
  refuse(intflash_run(nullptr, &call.args(), nullptr, 0), {"plan", "NULL"});
  refuse(intflash_pack(nullptr, &call.args(), nullptr, 0), {"plan", "NULL"});
  refuse(intflash_run_packed(nullptr, &call.args(), nullptr, 0), {"plan", "NULL"});
  refuse(intflash_plan_get_info(nullptr, &info), {"plan", "NULL"});
  ASSERT_EQ(intflash_plan_attend(call.context, &call.desc(), &plan), INTFLASH_OK);
  refuse(intflash_plan_get_info(plan, nullptr), {"info", "NULL"});
  refuse(intflash_plan_get_info(plan, &info), {"info.struct_size", "0"});
  refuse(intflash_run(plan, nullptr, nullptr, 0), {"args", "NULL"});
  intflash_plan_destroy(plan);
  intflash_port_info port = {};
  refuse(intflash_get_port(0, nullptr), {"info", "point to a struct"});
  refuse(intflash_get_port(0, &port), {"info", "struct_size"});
  port.struct_size = sizeof port;
  refuse(intflash_get_port(-1, &port), {"index", "-1", "0 ..."});
  refuse(intflash_get_port(intflash_num_ports(), &port), {"index", "0 ..."});
  intflash_plan_destroy(nullptr);
  intflash_context_destroy(nullptr);
  EXPECT_EQ(intflash_plan_workspace_bytes(nullptr), 0u);
  EXPECT_STREQ(intflash_context_port(nullptr), "");
  EXPECT_STREQ(intflash_context_port_reason(nullptr), "");
  EXPECT_EQ(intflash_context_num_threads(nullptr), 0);
}

TEST(BadOptions, AreRefused) {
  const auto refuse = [](const std::function<void(intflash_context_options&)>& spoil,
                         const std::vector<std::string>& words) {
    intflash_context_options options = {};
    options.struct_size = sizeof options;
    spoil(options);
    auto* const poison = reinterpret_cast<intflash_context*>(0x40);
    intflash_context* context = poison;
    EXPECT_EQ(intflash_context_create(&options, &context), INTFLASH_INVALID_ARGUMENT);
    EXPECT_EQ(context, poison);
    for (const std::string& word : words)
      EXPECT_NE(std::string(intflash_last_error()).find(word), std::string::npos)
          << intflash_last_error() << " lacks " << word;
  };
  using Options = intflash_context_options;
  refuse([](Options& o) { o.struct_size = 3; }, {"options.struct_size", "3"});
  refuse([](Options& o) { o.num_threads = -1; }, {"num_threads", "-1", "0 ..."});
  refuse([](Options& o) { o.num_threads = 1 << 20; }, {"num_threads", "1048576", "4096"});
  refuse([](Options& o) { o.l2_bytes = -6; }, {"l2_bytes", "-6", ">= 0"});
  refuse([](Options& o) { o.deallocate = [](void*, void*) {}; },
         {"allocate", "deallocate", "both or neither"});
  refuse([](Options& o) { o.threads = static_cast<intflash_threads>(7); },
         {"options.threads", "7", "intflash_threads"});
  refuse(
      [](Options& o) {
        o.threads = INTFLASH_THREADS_OPENMP;
        o.parallel_for = [](void*, std::int32_t, auto, void*) {};
      },
      {"options.threads", "parallel_for", "give one"});
}

TEST(Threads, OfOpenmpAreAsManyAsItSaysOrUnsupported) {
  intflash_context_options options = {};
  options.struct_size = sizeof options;
  options.threads = INTFLASH_THREADS_OPENMP;
  intflash_context* context = nullptr;
  const intflash_status status = intflash_context_create(&options, &context);
  EXPECT_EQ(status, has_openmp() ? INTFLASH_OK : INTFLASH_UNSUPPORTED);
  EXPECT_EQ(intflash_context_num_threads(context), has_openmp() ? openmp_num_threads() : 0);
  intflash_context_destroy(context);
}

TEST(Threads, ByDefaultAreThePhysicalCoresOfTheCallersAffinityAtTheTime) {
  std::thread([] {
    const auto num_threads = [] {
      intflash_context* context = nullptr;
      EXPECT_EQ(intflash_context_create(nullptr, &context), INTFLASH_OK);
      const std::int32_t threads = intflash_context_num_threads(context);
      intflash_context_destroy(context);
      return threads;
    };
    const CpuSet cpus = this_threads_cpus();
    EXPECT_EQ(num_threads(), default_num_threads(cpus));
    std::size_t first = 0;
    while (!cpus[first]) ++first;
    bind_this_thread(CpuSet().set(first));
    EXPECT_EQ(num_threads(), 1);
  }).join();
}

TEST(BadWorkspace, IsRefused) {
  ApiCall call;
  for (const intflash_mode mode : {INTFLASH_MODE_INT8, INTFLASH_MODE_EXACT}) {
    call.desc().mode = mode;
    intflash_plan* plan = nullptr;
    ASSERT_EQ(intflash_plan_attend(call.context, &call.desc(), &plan), INTFLASH_OK);
    const std::size_t bytes = intflash_plan_workspace_bytes(plan);
    ASSERT_GT(bytes, 0u);
    std::byte* workspace = call.memory.take(bytes + 64);
    const std::string needed = std::to_string(bytes);
    const auto refuse = [&](intflash_status status) {
      call.expect_refusal(status, INTFLASH_WORKSPACE_TOO_SMALL,
                          {"workspace", needed + " bytes", "multiple of 64"});
    };
    refuse(intflash_run(plan, &call.args(), nullptr, bytes));
    refuse(intflash_run(plan, &call.args(), workspace, bytes - 1));
    refuse(intflash_run(plan, &call.args(), workspace + 8, bytes));
    refuse(intflash_pack(plan, &call.args(), workspace, 0));
    refuse(intflash_run_packed(plan, &call.args(), workspace + 32, bytes));
    EXPECT_EQ(intflash_run(plan, &call.args(), workspace, bytes), INTFLASH_OK);
    intflash_plan_destroy(plan);
    std::memset(call.tensors.out, CaseTensors::kPoison, call.tensors.out_bytes);
    std::memset(call.args().lse, CaseTensors::kPoison, call.tensors.lse_count * 4);
  }
}

}  // namespace
}  // namespace intflash::internal
