// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Which lines of memory a port asks for ahead: an emulated one lets a test see them.
#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "host/host_pages.h"
#include "pages/codec.h"
#include "serving.h"
#include "test_ports.h"

#if defined(INTFLASH_TEST_EMULATED_PORTS)

namespace intflash::internal::serving {
namespace {

std::vector<const void*> fetched;

// What a line is to a request: codes of keys, or of values, of a score block of a head.
struct Line {
  std::int64_t head, block;
  bool has_values;
};

// Of the codes of all score blocks but the first, which nothing comes before.
std::map<const void*, Line> lines_to_fetch(const Server& server, std::int64_t num_keys) {
  const HostPages& pages = host_pages(*server.cache());
  const Shape& shape = server.shape();
  std::map<const void*, Line> lines;
  for (std::int64_t head = 0; head < shape.num_kv_heads; ++head) {
    for (std::int64_t key = kScoreBlock; key < num_keys; key += kBlockTokens) {
      const KvBlock block = pages.layout.block(pages.page(0, key / kBlockTokens, head), 0);
      for (std::int64_t i = 0; i < shape.head_dim; ++i)
        lines[block.key_codes + i * 64] = {head, key / kScoreBlock, false};
      for (std::int64_t i = 0; i < pages.layout.value_block_bytes / 64; ++i)
        lines[block.value_codes + i * 64] = {head, key / kScoreBlock, true};
    }
  }
  return lines;
}

// That each line has been asked for once, and values no earlier than the keys of their block and no
// later than those of the next but one.
void expect_next_blocks(const std::map<const void*, Line>& lines) {
  EXPECT_EQ(fetched.size(), lines.size());
  std::map<const void*, int> times;
  std::int64_t head = 0, keys = 0, values = 0;  // the block that was asked for last
  for (const void* const address : fetched) {
    const auto found = lines.find(address);
    ASSERT_NE(found, lines.end()) << "a line of no block, or of the first";
    ASSERT_EQ(++times[address], 1);
    const Line& line = found->second;
    if (line.head != head) {
      head = line.head;
      keys = values = 0;
    }
    std::int64_t& last = line.has_values ? values : keys;
    ASSERT_TRUE(line.block == last || line.block == last + 1) << line.block << " after " << last;
    last = line.block;
    ASSERT_TRUE(values <= keys && keys <= values + 2) << values << " of values, " << keys;
  }
}

// The lines of codes that one request asks for over this many keys, in order.
void fetch_codes(const Shape& shape, std::int64_t num_keys, Server& server) {
  const Tokens tokens = random_tokens(shape, num_keys, 1);
  Request request;
  request.kv_len = num_keys;
  request.pages = page_range(0, num_keys / shape.page_size);
  request.query = tokens.query.data();
  server.append(tokens, 0, num_keys, request.pages);
  fetched.clear();
  see_fetched_line = [](const void* line) { fetched.push_back(line); };
  server.attend({request});
  see_fetched_line = nullptr;
}

TEST(Fetch, OfSixToSixteenRowsByAmxIsOfTheNextBlocksCodes) {
  const PortEntry* amx = emulated_port("amx_int8");
  if (amx == nullptr) GTEST_SKIP() << "AMX is not emulated here";
  constexpr std::int64_t kNumKeys = 2 * kSpanTokens + 4 * kScoreBlock;
  for (const auto& [head_dim, head_dim_v] : {std::pair(128, 128), {64, 64}, {40, 72}, {256, 96}}) {
    for (const std::int64_t rows : {6, 16}) {
      Shape shape;
      shape.group_size = rows;
      shape.head_dim = head_dim;
      shape.head_dim_v = head_dim_v;
      shape.port = amx;
      Server server(shape);
      fetch_codes(shape, kNumKeys, server);
      SCOPED_TRACE(std::to_string(rows) + " rows of " + std::to_string(head_dim) + " dims");
      expect_next_blocks(lines_to_fetch(server, kNumKeys));
    }
  }
}

// Values in four bits have half the lines, and are asked for as often: once, and those of the last
// block once more, behind which nothing is known.
TEST(Fetch, OfFewRowsIsOfEachLineOfCodesOnce) {
  constexpr std::int64_t kNumKeys = kSpanTokens + 4 * kScoreBlock;
  Shape shape;
  shape.num_kv_heads = 2;
  shape.head_dim = 64;
  const auto expect_once = [&](const std::string& port) {
    shape.port = emulated_port(port.c_str());
    Server server(shape);
    fetch_codes(shape, kNumKeys, server);
    // A half's scales and sums have four lines each.
    const std::int64_t half_lines =
        shape.head_dim + host_pages(*server.cache()).layout.value_block_bytes / 64 + 12;
    EXPECT_EQ(static_cast<std::int64_t>(fetched.size()),
              shape.num_kv_heads * kNumKeys / kBlockTokens * half_lines)
        << port << ' ' << shape.codec->name << ' ' << shape.head_dim_v;
    std::map<const void*, int> times;
    for (const void* const line : fetched) ++times[line];
    for (const auto& [address, line] : lines_to_fetch(server, kNumKeys)) {
      const bool is_last = line.head == 1 && line.block == kNumKeys / kScoreBlock - 1;
      ASSERT_EQ(times[address], is_last ? 2 : 1)
          << port << ' ' << shape.codec->name << ", " << shape.group_size << " rows, head "
          << line.head << ", block " << line.block << (line.has_values ? " values" : " keys");
    }
  };
  if (emulated_port("avx_vnni") == nullptr) GTEST_SKIP() << "ports are not emulated here";
  for (const Codec* codec : {&kInt8Codec, &kK8v4Codec}) {
    for (const std::int64_t head_dim_v : {64, 96}) {
      for (const std::int64_t rows : {1, 3, 5}) {
        shape.codec = codec;
        shape.head_dim_v = head_dim_v;
        shape.group_size = rows;
        expect_once("avx512_vnni");
        expect_once("avx_vnni");
      }
    }
  }
}

}  // namespace
}  // namespace intflash::internal::serving

#endif
