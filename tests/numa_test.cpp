// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Caches whose pages lie by NUMA node, on nodes made up here.
#include <cstdint>
#include <initializer_list>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "cache/kv_cache.h"
#include "serving.h"

namespace intflash::internal::serving {
namespace {

constexpr std::int64_t kSpanPages = kSpanTokens / kBlockTokens;

// Nodes 10, 11, ... of so many CPUs each.
NumaNodes make_nodes(std::initializer_list<int> sizes) {
  NumaNodes nodes;
  int next = 0;
  for (const int size : sizes) {
    CpuSet own;
    for (int i = 0; i < size; ++i) own.set(static_cast<std::size_t>(next++));
    nodes.add(10 + nodes.count, own);
  }
  return nodes;
}

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

}  // namespace
}  // namespace intflash::internal::serving
