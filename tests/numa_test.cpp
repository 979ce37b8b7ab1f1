// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Caches whose pages lie by NUMA node, and runs that take tasks to where their pages are, on nodes
// made up here.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "backend/backend.h"
#include "machine/machine.h"
#include "serving.h"
#include "threads/node_lists.h"
#include "threads/thread_pool.h"

namespace intflash::internal::serving {
namespace {

constexpr std::int64_t kSpanPages = kSpanTokens / kBlockTokens;

// Nodes 10, 11, ... of so many of these CPUs each.
NumaNodes make_nodes(std::initializer_list<int> sizes, std::vector<int> cpus = {}) {
  NumaNodes nodes;
  auto cpu = cpus.begin();
  int next = 0;
  for (const int size : sizes) {
    CpuSet own;
    for (int i = 0; i < size; ++i)
      own.set(static_cast<std::size_t>(cpu == cpus.end() ? next++ : *cpu++));
    nodes.add(10 + nodes.count, own);
  }
  return nodes;
}

// One of this thread's, and then those after the last that there can be here.
int first_cpu() {
  const CpuSet cpus = this_threads_cpus();
  int cpu = 0;
  while (!cpus[static_cast<std::size_t>(cpu)]) ++cpu;
  return cpu;
}
constexpr int kNoCpu = kMaxCpus - 1;

Shape shape_by(const NumaNodes& nodes, std::int64_t num_pages) {
  Shape shape;
  shape.num_kv_heads = 1;
  shape.group_size = 1;
  shape.head_dim = shape.head_dim_v = 8;
  shape.num_pages = num_pages;
  shape.nodes = &nodes;
  return shape;
}

// Lengthens a sequence by so many tokens.
void extend(Server& server, std::int32_t sequence, std::int64_t count) {
  const Tokens tokens = random_tokens(server.shape(), count, 1);
  ASSERT_EQ(server.append(sequence, tokens, 0, count), INTFLASH_OK) << intflash_last_error();
}

std::vector<std::int32_t> nodes_of_pages(const Server& server, std::int32_t sequence) {
  std::vector<std::int32_t> nodes;
  for (const std::int32_t page : server.request_of(sequence).pages)
    nodes.push_back(intflash_cache_get_page_node(server.cache(), page));
  return nodes;
}

// So many pages of each node in turn.
std::vector<std::int32_t> runs(
    std::initializer_list<std::pair<std::int64_t, std::int32_t>> counts) {
  std::vector<std::int32_t> nodes;
  for (const auto& [count, node] : counts)
    nodes.insert(nodes.end(), static_cast<std::size_t>(count), node);
  return nodes;
}

// ---- Pages ----

TEST(NumaPages, AreDividedInProportionToTheNodesCpus) {
  const NumaNodes nodes = make_nodes({4, 2, 2});
  const Server server(shape_by(nodes, 80));
  for (std::int32_t page = 0; page < 80; ++page) {
    EXPECT_EQ(intflash_cache_get_page_node(server.cache(), page), page < 40   ? 10
                                                                  : page < 60 ? 11
                                                                              : 12);
  }
  EXPECT_EQ(intflash_cache_get_page_node(server.cache(), -1), -1);
  EXPECT_EQ(intflash_cache_get_page_node(server.cache(), 80), -1);
  EXPECT_EQ(intflash_cache_get_page_node(nullptr, 0), -1);
}

TEST(NumaPages, LieNowhereInParticularWithOneNodeOrWithoutTheOption) {
  const NumaNodes one = make_nodes({2});
  EXPECT_EQ(intflash_cache_get_page_node(Server(shape_by(one, 8)).cache(), 0), -1);
  Server server(Shape{});
  server.context()->nodes = make_nodes({1, 1});
  EXPECT_EQ(intflash_cache_get_page_node(server.cache(), 0), -1);
  const std::int32_t sequence = server.create_sequence();
  extend(server, sequence, 3 * kSpanTokens);
  EXPECT_EQ(server.request_of(sequence).pages, page_range(0, 3 * kSpanPages));
}

TEST(NumaPages, OfASpanAreOfOneNodeAndSpansGoRoundTheNodes) {
  const NumaNodes nodes = make_nodes({1, 1, 1});
  Server server(shape_by(nodes, 300));
  const std::int32_t first = server.create_sequence();
  const std::int32_t second = server.create_sequence();
  // Piece by piece, in turns.
  for (const std::int64_t count : {1, 100, 1000, 63, 64, 2000}) {
    extend(server, first, count);
    extend(server, second, count + 7);
  }
  EXPECT_EQ(nodes_of_pages(server, first), runs({{16, 10}, {16, 11}, {16, 12}, {3, 10}}));
  EXPECT_EQ(nodes_of_pages(server, second), runs({{16, 11}, {16, 12}, {16, 10}, {4, 11}}));
}

TEST(NumaPages, GoToNodesInProportionToTheirCpus) {
  const NumaNodes nodes = make_nodes({3, 1});
  Server server(shape_by(nodes, 200));
  const std::int32_t sequence = server.create_sequence();
  extend(server, sequence, 8 * kSpanTokens);
  EXPECT_EQ(nodes_of_pages(server, sequence), runs({{48, 10}, {16, 11}, {48, 10}, {16, 11}}));
}

TEST(NumaPages, OfAForkAndOfWhatComesAfterDroppedOnesFollowTheirSpan) {
  const NumaNodes nodes = make_nodes({1, 1});
  Server server(shape_by(nodes, 200));
  const std::int32_t sequence = server.create_sequence();
  extend(server, sequence, kSpanTokens + 100);
  std::int32_t fork = -1;
  ASSERT_EQ(intflash_sequence_fork(server.cache(), sequence, &fork), INTFLASH_OK);
  extend(server, fork, 200);  // copies the page that is not full
  EXPECT_EQ(nodes_of_pages(server, fork), runs({{16, 10}, {5, 11}}));
  ASSERT_EQ(intflash_sequence_drop_before(server.cache(), sequence, kSpanTokens), INTFLASH_OK);
  extend(server, sequence, kSpanTokens);
  EXPECT_EQ(nodes_of_pages(server, sequence), runs({{16, 11}, {2, 10}}));
}

TEST(NumaPages, ComeFromAnyNodeWhereOneHasNoneAndGoBackToTheirOwn) {
  const NumaNodes nodes = make_nodes({1, 1});
  Server server(shape_by(nodes, 40));
  for (int round = 0; round < 3; ++round) {
    const std::int32_t sequence = server.create_sequence();
    extend(server, sequence, 40 * kBlockTokens);
    // Of the third span four pages are left on its node, and then four on the other.
    EXPECT_EQ(nodes_of_pages(server, sequence), runs({{16, 10}, {16, 11}, {4, 10}, {4, 11}}));
    const std::vector<std::int32_t> pages = server.request_of(sequence).pages;
    EXPECT_EQ(std::set<std::int32_t>(pages.begin(), pages.end()).size(), 40u);
    EXPECT_EQ(server.free_pages(), 0);
    const Tokens one = random_tokens(server.shape(), 1, 1);
    EXPECT_EQ(server.append(sequence, one, 0, 1), INTFLASH_POOL_EXHAUSTED);
    ASSERT_EQ(intflash_sequence_free(server.cache(), sequence), INTFLASH_OK);
    EXPECT_EQ(server.free_pages(), 40);
  }
}

// ---- Tasks ----

// Takes all that is left, as a thread of this node.
std::vector<std::int64_t> take_all(NodeLists& lists, std::int32_t node) {
  std::vector<std::int64_t> taken;
  std::int32_t num_empty = 0;
  for (std::int64_t i = lists.take(node, num_empty); i >= 0; i = lists.take(node, num_empty))
    taken.push_back(i);
  return taken;
}

TEST(NumaTasks, OfTheOwnNodeComeFirstInTheirOrderAndThenThoseOfOthers) {
  const std::vector<std::int32_t> node_of = {0, 1, 2, -1, 0, 1, 1, 0};
  using Tasks = std::vector<std::int64_t>;
  for (const auto& [node, expected] :
       std::initializer_list<std::pair<std::int32_t, Tasks>>{{0, {0, 4, 7, 1, 5, 6, 2, 3}},
                                                             {1, {1, 5, 6, 2, 3, 0, 4, 7}},
                                                             {2, {2, 3, 0, 4, 7, 1, 5, 6}},
                                                             {-1, {0, 4, 7, 1, 5, 6, 2, 3}}}) {
    std::vector<std::int32_t> memory(16);
    ASSERT_EQ(NodeLists::bytes(8), 16 * 4);
    NodeLists lists(8, 3, memory.data(),
                    [&](std::int64_t task) { return node_of[static_cast<std::size_t>(task)]; });
    EXPECT_EQ(take_all(lists, node), expected);
    EXPECT_EQ(take_all(lists, 1), Tasks());
  }
}

TEST(NumaTasks, AreEachDoneOnceByThreadsOfAnyNodes) {
  std::vector<pthread_t> helpers(3);
  ThreadPool pool(helpers, this_threads_cpus());
  for (const std::int64_t count : {1, 2, 5, 1000}) {
    for (int round = 0; round < 20; ++round) {
      std::vector<std::int32_t> memory(static_cast<std::size_t>(2 * count));
      NodeLists lists(count, 3, memory.data(), [](std::int64_t task) {
        return static_cast<std::int32_t>(task * task % 5 % 4) - 1;
      });
      std::vector<int> done(static_cast<std::size_t>(count));  // TSan checks that one has each
      std::atomic<std::int32_t> next_node = -1;
      std::function<void()> work = [&] {
        for (const std::int64_t task : take_all(lists, next_node++))
          ++done.at(static_cast<std::size_t>(task));
      };
      pool.run(
          4, [](void* w, std::int32_t) { (*static_cast<std::function<void()>*>(w))(); }, &work);
      EXPECT_EQ(done, std::vector<int>(done.size(), 1));
    }
  }
}

// Sequences of these lengths, in one batch of one row each.
struct Decoding {
  Decoding(const Shape& shape, std::initializer_list<std::int64_t> lengths) : server(shape) {
    for (const std::int64_t length : lengths) {
      const std::int32_t sequence = server.create_sequence();
      extend(server, sequence, length);
      requests.push_back(server.request_of(sequence));
    }
    tokens = random_tokens(shape, 1, 2);
    for (Request& request : requests) request.query = tokens.query.data();
    call = std::make_unique<BatchCall>(shape, requests);
    EXPECT_EQ(call->make_plan(server.context(), server.cache()), INTFLASH_OK)
        << intflash_last_error();
  }
  intflash_status begin() {
    return intflash_begin_batch(call->plan, server.cache(), &call->args, call->workspace.get(),
                                call->workspace_bytes);
  }
  std::int32_t node_of_task(std::int32_t phase, std::int64_t task) const {
    return intflash_get_task_node(call->plan, call->workspace.get(), phase, task);
  }
  const Item& item(std::int64_t task) const { return call->plan->schedule.items[task]; }
  std::int32_t node_of_span(std::int64_t request, std::int64_t span) const {
    return intflash_cache_get_page_node(server.cache(),
                                        requests[static_cast<std::size_t>(request)]
                                            .pages[static_cast<std::size_t>(span * kSpanPages)]);
  }

  Server server;
  Tokens tokens;
  std::vector<Request> requests;
  std::unique_ptr<BatchCall> call;
};

TEST(NumaTasks, OfADecodingBatchHaveASpanEachAndItsNode) {
  const NumaNodes nodes = make_nodes({1, 1});
  Shape shape = shape_by(nodes, 400);
  shape.num_threads = 2;
  Decoding decoding(shape, {5 * kSpanTokens, 3000, 1, 64 * 17, 2 * kSpanTokens + 1, 0});
  EXPECT_EQ(decoding.node_of_task(1, 0), -1) << "not begun";
  ASSERT_EQ(decoding.begin(), INTFLASH_OK) << intflash_last_error();
  std::map<std::int32_t, int> tasks_of_node;
  for (std::int64_t task = 0; task < intflash_plan_num_tasks(decoding.call->plan, 1); ++task) {
    const Item& item = decoding.item(task);
    const std::int32_t node = decoding.node_of_task(1, task);
    ++tasks_of_node[node];
    if (item.num_spans == 0) {
      EXPECT_EQ(node, -1);
      continue;
    }
    EXPECT_EQ(item.num_spans, 1);
    EXPECT_EQ(node, decoding.node_of_span(item.section, item.first_span));
  }
  EXPECT_EQ(tasks_of_node, (std::map<std::int32_t, int>{{-1, 1}, {10, 8}, {11, 6}}));
  EXPECT_EQ(decoding.node_of_task(0, 0), -1);
  EXPECT_EQ(decoding.node_of_task(2, 0), -1);
  EXPECT_EQ(decoding.node_of_task(3, 0), -1);
  EXPECT_EQ(decoding.node_of_task(1, 1000), -1);
}

TEST(NumaTasks, HaveTheNodeOfMostOfTheirSpans) {
  const NumaNodes nodes = make_nodes({2, 1});
  Decoding decoding(shape_by(nodes, 400), {3 * kSpanTokens, 3 * kSpanTokens, 2 * kSpanTokens});
  ASSERT_EQ(decoding.begin(), INTFLASH_OK);
  // Spans are dealt out as 10, 11, 10, 10, 11, 10 ...; one worker has a request each.
  for (std::int64_t task = 0; task < 3; ++task) {
    ASSERT_EQ(decoding.item(task).num_spans, task < 2 ? 3 : 2);
    EXPECT_EQ(decoding.node_of_task(1, task), 10);
  }
}

// Calls of a plan, and the order in which a run's items are taken.
struct Recorded {
  static inline const RunCalls* calls = nullptr;
  static inline std::vector<std::int64_t> items;

  static void run_task(Run& run, std::int32_t phase, std::int64_t task, std::int32_t worker) {
    if (phase == 1) items.push_back(task);
    calls->run_task(run, phase, task, worker);
  }
};

TEST(NumaTasks, AreTakenByAThreadOfTheirNodeFirst) {
  const int here = first_cpu();
  for (const std::vector<int>& cpus : {std::vector<int>{here, kNoCpu}, {kNoCpu, here}}) {
    const NumaNodes nodes = make_nodes({1, 1}, cpus);
    const std::int32_t own = cpus[0] == here ? 10 : 11;
    Shape shape = shape_by(nodes, 400);
    shape.num_threads = 2;
    Decoding decoding(shape, {5 * kSpanTokens, 3000, 900});
    // One thread does what both workers should.
    decoding.server.context()->parallel = {
        [](void*, std::int32_t count, WorkerFn body, void* context) {
          for (std::int32_t worker = 0; worker < count; ++worker) body(context, worker);
        },
        nullptr};
    Recorded::calls = decoding.call->plan->calls;
    RunCalls calls = *Recorded::calls;
    calls.run_task = Recorded::run_task;
    decoding.call->plan->calls = &calls;
    ASSERT_EQ(decoding.begin(), INTFLASH_OK);
    std::vector<std::int64_t> expected;
    const std::int64_t num_items = intflash_plan_num_tasks(decoding.call->plan, 1);
    for (const bool is_own : {true, false}) {
      for (std::int64_t task = 0; task < num_items; ++task) {
        if ((decoding.node_of_task(1, task) == own) == is_own) expected.push_back(task);
      }
    }
    Recorded::items.clear();
    std::thread([&] {
      bind_this_thread(CpuSet().set(static_cast<std::size_t>(here)));
      EXPECT_EQ(decoding.call->run(decoding.server.cache()), INTFLASH_OK) << intflash_last_error();
    }).join();
    EXPECT_EQ(Recorded::items, expected);
  }
}

TEST(NumaTasks, LeaveEveryBitAsItIsWithoutThem) {
  Shape shape;
  shape.num_pages = 400;
  const std::int64_t lengths[] = {5000, 1, 1024, 2500, 2500, 70};
  const std::int64_t query_lens[] = {1, 1, 2, 300, 1, 70};
  const auto attend = [&] {
    Server server(shape);
    std::vector<Tokens> tokens;
    std::vector<Request> requests;
    for (std::size_t r = 0; r < std::size(lengths); ++r) {
      tokens.push_back(random_tokens(shape, lengths[r], 3));
      const std::int32_t sequence = server.create_sequence();
      EXPECT_EQ(server.append(sequence, tokens[r], 0, lengths[r]), INTFLASH_OK);
      requests.push_back(server.request_of(sequence));
      requests[r].query_len = query_lens[r];
      requests[r].query = tokens[r].query.data();
    }
    // The tokens are the same up to there.
    for (std::int64_t i = 0; i < 2048 / kBlockTokens; ++i) {
      const auto page = static_cast<std::size_t>(i);
      requests[4].pages[page] = requests[3].pages[page];
    }
    return server.attend(requests, 0, {{3, 2, 2048}});
  };
  const std::vector<Result> expected = attend();
  const int here = first_cpu();
  for (const NumaNodes& nodes :
       {make_nodes({1, 1}, {here, kNoCpu}), make_nodes({1, 1}), make_nodes({2, 1, 1})}) {
    shape.nodes = &nodes;
    for (const std::int32_t threads : {1, 2, 5}) {
      shape.num_threads = threads;
      EXPECT_EQ(attend(), expected) << nodes.count << " nodes, " << threads << " threads";
    }
  }
}

}  // namespace
}  // namespace intflash::internal::serving
