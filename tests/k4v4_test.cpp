// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Codec k4v4: keys in four bits by channel, by their definition in double. What queries see of them
// is int8_window_test.cpp's.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "pages/codec.h"
#include "random.h"
#include "seed.h"
#include "test_ports.h"
#include "tile/key_codes.h"

namespace intflash::internal {
namespace {

// A block on its own, and rows of INT8 codes for it.
struct Block {
  explicit Block(std::int64_t head_dim)
      : layout(page_layout(kK4v4Codec, head_dim, head_dim, kBlockTokens)),
        bytes(static_cast<std::size_t>(layout.bytes() + 64)),
        rows(static_cast<std::size_t>(kBlockTokens * head_dim)) {
    void* first = bytes.data();
    std::size_t room = bytes.size();
    page =
        static_cast<char*>(std::align(64, static_cast<std::size_t>(layout.bytes()), first, room));
  }
  void store(const PortEntry& port) {
    kK4v4Codec.store_keys(*port.kernels, layout, writable_block(layout, page, 0),
                          {rows.data(), nullptr, layout.head_dim, 0, kBlockTokens});
  }
  std::vector<std::int8_t> key(std::int64_t at) const {
    std::vector<std::int8_t> codes(static_cast<std::size_t>(layout.head_dim));
    kK4v4Codec.load_key(layout, layout.block(page, 0), at, codes.data());
    return codes;
  }
  std::int8_t& row(std::int64_t at, std::int64_t c) {
    return rows[static_cast<std::size_t>(at * layout.head_dim + c)];
  }

  PageLayout layout;
  std::vector<char> bytes;
  std::vector<std::int8_t> rows;
  char* page = nullptr;
};

// docs/numerics.md, section 8, of one channel.
std::vector<int> defined_codes(Block& block, std::int64_t c) {
  double least = 127, most = -127;
  for (std::int64_t at = 0; at < kBlockTokens; ++at) {
    least = std::min(least, static_cast<double>(block.row(at, c)));
    most = std::max(most, static_cast<double>(block.row(at, c)));
  }
  const double step = std::min(std::ceil((most - least) / 15), 16.0);
  const double first = std::min(
      std::max(least - std::floor((15 * step - (most - least)) / 2), -127.0), 127 - 15 * step);
  std::vector<int> codes;
  for (std::int64_t at = 0; at < kBlockTokens; ++at) {
    const double steps =
        step == 0 ? 0 : std::floor((static_cast<double>(block.row(at, c)) - first) / step + 0.5);
    EXPECT_TRUE(steps >= 0 && steps <= 15);
    codes.push_back(static_cast<int>(first + steps * step));
  }
  return codes;
}

// Channels of all ranges: all of one code, the largest there is, few codes, and normal ones.
void fill(Block& block, Random& random) {
  for (std::int64_t c = 0; c < block.layout.head_dim; ++c) {
    const std::int64_t width = c % 5 == 0 ? 1 : c % 5 == 1 ? 255 : 2 + random.below(253);
    const std::int64_t first = -127 + random.below(256 - width);
    for (std::int64_t at = 0; at < kBlockTokens; ++at)
      block.row(at, c) = static_cast<std::int8_t>(first + random.below(width));
    if (width != 255) continue;
    block.row(3, c) = -127;
    block.row(60, c) = 127;
  }
}

TEST(K4v4, KeysAreThoseOfTheDefinitionOnEveryPort) {
  Random random(seed_from_test_name());
  for (const std::int64_t head_dim : {8, 64, 72, 128, 328}) {
    Block block(head_dim);
    fill(block, random);
    std::vector<std::int64_t> sums(kBlockTokens);
    block.store(scalar_port());
    for (std::int64_t c = 0; c < head_dim; ++c) {
      const std::vector<int> expected = defined_codes(block, c);
      for (std::int64_t at = 0; at < kBlockTokens; ++at) {
        const int code = expected[static_cast<std::size_t>(at)];
        ASSERT_EQ(block.key(at)[static_cast<std::size_t>(c)], code)
            << "channel " << c << " at " << at;
        sums[static_cast<std::size_t>(at)] += code;
      }
    }
    const KvBlock stored = block.layout.block(block.page, 0);
    EXPECT_TRUE(std::equal(sums.begin(), sums.end(), stored.key_sum));
    const PageLayout int8 = page_layout(kInt8Codec, head_dim, head_dim, kBlockTokens);
    const std::vector<char> bytes = block.bytes;
    for (const PortEntry& port : all_test_ports()) {
      block.store(port);
      EXPECT_EQ(block.bytes, bytes) << port.name;
      std::vector<char> room(static_cast<std::size_t>(int8.bytes() + 64));
      void* first = room.data();
      std::size_t size = room.size();
      char* page =
          static_cast<char*>(std::align(64, static_cast<std::size_t>(int8.bytes()), first, size));
      const KvBlock expanded = port.kernels->rows->expand[kK4v4Codec.id](
          stored, static_cast<std::int32_t>(head_dim), static_cast<std::int32_t>(head_dim), 0,
          writable_block(int8, page, 0));
      std::vector<std::int8_t> codes(static_cast<std::size_t>(head_dim));
      for (std::int64_t at = 0; at < kBlockTokens; ++at) {
        kInt8Codec.load_key(int8, expanded, at, codes.data());
        EXPECT_EQ(codes, block.key(at)) << port.name << " at " << at;
      }
    }
  }
}

TEST(K4v4, BlocksThatAreNoneAreFound) {
  Random random(seed_from_test_name());
  Block block(8);  // 16 bytes of the last line are padding
  fill(block, random);
  block.store(scalar_port());
  const WritableBlock at = writable_block(block.layout, block.page, 0);
  const auto damaged = [&](std::int64_t tokens = kBlockTokens) {
    return kK4v4Codec.find_damage(block.layout, block.layout.block(block.page, 0), tokens);
  };
  EXPECT_EQ(damaged(), nullptr);
  EXPECT_EQ(damaged(63), at.key_codes);
  std::int8_t* const step = at.key_codes + nibble_key_bytes(8);
  const auto with = [&](std::int8_t& byte, int value) {
    const std::int8_t before = byte;
    byte = static_cast<std::int8_t>(value);
    const void* const found = damaged();
    byte = before;
    return found;
  };
  EXPECT_EQ(with(step[2], 17), step + 2);
  EXPECT_EQ(with(step[8 + 3], 0), step + 8 + 3);
  EXPECT_EQ(with(step[8 + 3], 256 - 15 * step[3]), step + 8 + 3);
  EXPECT_EQ(with(step[16], 1), step + 16);
  EXPECT_EQ(with(at.key_codes[5], at.key_codes[5] ^ 3), at.key_sum + 1);
  at.key_scale[9] = -1;
  EXPECT_EQ(damaged(), at.key_scale + 9);
}

}  // namespace
}  // namespace intflash::internal
