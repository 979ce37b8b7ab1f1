// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Keys in four and two bits by channel, and values in two, by their definition in double. What
// queries see of them is int8_window_test.cpp's.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "cache_uses.h"
#include "pages/codec.h"
#include "random.h"
#include "seed.h"
#include "test_ports.h"
#include "tile/key_codes.h"
#include "tile/value_steps.h"

namespace intflash::internal {
namespace {

// Room for a page of one block, and rows of INT8 codes for it.
struct Block {
  Block(const Codec& of, std::int64_t head_dim)
      : codec(of),
        layout(page_layout(of, head_dim, head_dim, kBlockTokens)),
        bytes(static_cast<std::size_t>(layout.bytes() + 64)),
        rows(static_cast<std::size_t>(kBlockTokens * head_dim)) {
    void* first = bytes.data();
    std::size_t room = bytes.size();
    page =
        static_cast<char*>(std::align(64, static_cast<std::size_t>(layout.bytes()), first, room));
  }
  void store(const PortEntry& port) {
    const TokenCodes tokens = {rows.data(), nullptr, layout.head_dim, 0, kBlockTokens};
    codec.store_keys(*port.kernels, layout, writable_block(layout, page, 0), tokens);
    codec.store_values(*port.kernels, layout, writable_block(layout, page, 0), tokens);
  }
  std::vector<std::int8_t> key(std::int64_t at) const {
    std::vector<std::int8_t> codes(static_cast<std::size_t>(layout.head_dim));
    codec.load_key(layout, layout.block(page, 0), at, codes.data());
    return codes;
  }
  std::vector<std::int8_t> value(std::int64_t at) const {
    std::vector<std::int8_t> codes(static_cast<std::size_t>(layout.head_dim));
    codec.load_value(layout, layout.block(page, 0), at, codes.data());
    return codes;
  }
  std::int8_t& row(std::int64_t at, std::int64_t c) {
    return rows[static_cast<std::size_t>(at * layout.head_dim + c)];
  }
  std::vector<double> channel(std::int64_t c) {
    std::vector<double> codes;
    for (std::int64_t at = 0; at < kBlockTokens; ++at) codes.push_back(row(at, c));
    return codes;
  }

  const Codec& codec;
  PageLayout layout;
  std::vector<char> bytes;
  std::vector<std::int8_t> rows;
  char* page = nullptr;
};

// docs/numerics.md, section 8, of one channel of keys.
std::vector<int> defined_keys(const std::vector<double>& codes, double most_code) {
  const double least = *std::min_element(codes.begin(), codes.end());
  const double range = *std::max_element(codes.begin(), codes.end()) - least;
  const double step = std::min(std::ceil(range / most_code), std::floor(254 / most_code));
  const double first = std::min(
      std::max(least - std::floor((most_code * step - range) / 2), -127.0), 127 - most_code * step);
  std::vector<int> defined;
  for (const double code : codes) {
    const double steps = step == 0 ? 0 : std::floor((code - first) / step + 0.5);
    EXPECT_TRUE(steps >= 0 && steps <= most_code);
    defined.push_back(static_cast<int>(first + steps * step));
    EXPECT_LE(std::fabs(defined.back() - code), std::max(step / 2, 7.0));
  }
  return defined;
}

// The same of values.
std::vector<int> defined_values(const std::vector<double>& codes) {
  static const double kSteps[] = {3, 4, 5, 6, 8, 10, 12, 15, 19, 24, 30, 38, 48, 60, 76};
  double sum = 0, squares = 0;
  for (const double code : codes) {
    sum += code;
    squares += code * code;
  }
  if (squares == 0) return std::vector<int>(codes.size());
  const double mean = sum / 64, variance = squares / 64 - mean * mean;
  int middle = 0;
  while (middle < 14 && (variance > kSteps[middle] * kSteps[middle + 1] ||
                         std::fabs(mean) > 2.75 * kSteps[middle]))
    ++middle;
  std::vector<int> best;
  double least = INFINITY, best_step = 0;
  const auto attempt = [&](double step, double more) {
    const double place = std::clamp(std::floor(mean / (3 * step / 16) + 0.5) + more, -8.0, 7.0);
    const double middle_level = std::floor(place * 3 * step / 16 + 0.5);
    const double first = std::clamp(middle_level - std::floor(1.5 * step), -127.0, 127 - 3 * step);
    std::vector<int> levels;
    double left = 0, left_squares = 0;
    for (const double code : codes) {
      const double level =
          first + step * std::clamp(std::floor((code - first) / step + 0.5), 0.0, 3.0);
      levels.push_back(static_cast<int>(level));
      left += code - level;
      left_squares += (code - level) * (code - level);
    }
    const double damage = left_squares + left * left / 8;
    if (damage >= least) return;
    least = damage;
    best = levels;
    best_step = step;
  };
  for (const int index : {middle, std::min(middle + 1, 14)}) attempt(kSteps[index], 0);
  const double step = best_step;
  for (const double more : {-2, -1, 1, 2}) attempt(step, more);
  return best;
}

// Channels of all ranges: all of one code, the largest there is, few codes, normal ones, and zeros.
void fill(Block& block, Random& random) {
  for (std::int64_t c = 0; c < block.layout.head_dim; ++c) {
    const std::int64_t width = c % 5 == 0 ? 1 : c % 5 == 1 ? 255 : 2 + random.below(253);
    const std::int64_t first = c == 5 ? 0 : -127 + random.below(256 - width);
    for (std::int64_t at = 0; at < kBlockTokens; ++at) {
      const std::int64_t code = random.below(width) + (c % 5 == 2 ? random.below(width) : width);
      block.row(at, c) = static_cast<std::int8_t>(first + code - (c % 5 == 2 ? code / 2 : width));
    }
    if (width != 255) continue;
    block.row(3, c) = -127;
    block.row(60, c) = 127;
  }
}

// By the bits of keys and values.
constexpr std::tuple<const Codec*, int, int> kCodecs[] = {
    {&kK4v4Codec, 4, 4}, {&kK4v2Codec, 4, 2}, {&kK2v2Codec, 2, 2}};

TEST(FewBits, BlocksAreThoseOfTheDefinitionOnEveryPort) {
  Random random(seed_from_test_name());
  for (const auto& [codec, key_bits, value_bits] : kCodecs) {
    for (const std::int64_t head_dim : {8, 64, 72, 128, 328}) {
      Block block(*codec, head_dim);
      fill(block, random);
      std::vector<std::int64_t> sums(kBlockTokens);
      block.store(scalar_port());
      for (std::int64_t c = 0; c < head_dim; ++c) {
        const std::vector<int> keys = defined_keys(block.channel(c), (1 << key_bits) - 1);
        const std::vector<int> values = defined_values(block.channel(c));
        for (std::int64_t at = 0; at < kBlockTokens; ++at) {
          const auto channel = static_cast<std::size_t>(c);
          const int code = keys[static_cast<std::size_t>(at)];
          ASSERT_EQ(block.key(at)[channel], code)
              << codec->name << " channel " << c << " at " << at;
          sums[static_cast<std::size_t>(at)] += code;
          if (value_bits != 2) continue;
          ASSERT_EQ(block.value(at)[channel], values[static_cast<std::size_t>(at)])
              << codec->name << " channel " << c << " at " << at;
        }
      }
      const KvBlock stored = block.layout.block(block.page, 0);
      EXPECT_TRUE(std::equal(sums.begin(), sums.end(), stored.key_sum));
      const PageLayout int8 = page_layout(kInt8Codec, head_dim, head_dim, kBlockTokens);
      const std::vector<char> bytes = block.bytes;
      for (const PortEntry& port : all_test_ports()) {
        block.store(port);
        EXPECT_EQ(block.bytes, bytes) << port.name;
        Block room(kInt8Codec, head_dim);
        const KvBlock expanded = port.kernels->rows->expand[codec->id](
            stored, static_cast<std::int32_t>(head_dim), static_cast<std::int32_t>(head_dim), 0,
            writable_block(int8, room.page, 0));
        std::vector<std::int8_t> codes(static_cast<std::size_t>(head_dim));
        for (std::int64_t at = 0; at < kBlockTokens; ++at) {
          kInt8Codec.load_key(int8, expanded, at, codes.data());
          EXPECT_EQ(codes, block.key(at)) << codec->name << ' ' << port.name << " at " << at;
          kInt8Codec.load_value(int8, expanded, at, codes.data());
          EXPECT_EQ(codes, block.value(at)) << codec->name << ' ' << port.name << " at " << at;
        }
      }
    }
  }
}

TEST(FewBits, BlocksThatAreNoneAreFound) {
  Random random(seed_from_test_name());
  for (const auto& [of_blocks, key_bits, value_bits] : kCodecs) {
    const Codec& codec = *of_blocks;
    Block block(codec, 8);  // 16 bytes of the last line are padding, and 8 channels of values
    fill(block, random);
    block.store(scalar_port());
    const WritableBlock at = writable_block(block.layout, block.page, 0);
    const auto damaged = [&](std::int64_t tokens = kBlockTokens) {
      return codec.find_damage(block.layout, block.layout.block(block.page, 0), tokens);
    };
    EXPECT_EQ(damaged(), nullptr);
    EXPECT_EQ(damaged(63), at.key_codes);
    const int most = (1 << key_bits) - 1;
    std::int8_t* const step =
        at.key_codes + (key_bits == 4 ? key_code_bytes<4>(8) : key_code_bytes<2>(8));
    const auto with = [&](std::int8_t& byte, int value) {
      const std::int8_t before = byte;
      byte = static_cast<std::int8_t>(value);
      const void* const found = damaged();
      byte = before;
      return found;
    };
    EXPECT_EQ(with(step[2], 254 / most + 1), step + 2);
    EXPECT_EQ(with(step[8 + 3], 0), step + 8 + 3);
    EXPECT_EQ(with(step[8 + 3], 256 - most * step[3]), step + 8 + 3);
    const std::int64_t padding = block.layout.key_block_bytes - 1;
    EXPECT_EQ(with(at.key_codes[padding], 1), at.key_codes + padding);
    EXPECT_EQ(with(at.key_codes[5], at.key_codes[5] ^ 3), at.key_sum + 1);
    if (value_bits == 2) {
      std::int8_t* const steps = at.value_codes + quarter_code_bytes(16);
      EXPECT_EQ(with(steps[8], 1), steps + 8);  // of a channel that there is not
      EXPECT_EQ(with(steps[16], 1), steps + 16);
      EXPECT_EQ(with(at.value_codes[3 * 64 + 8 * 4 + 3], 64), at.value_codes + 3 * 64 + 8 * 4 + 3);
    }
    at.key_scale[9] = -1;
    EXPECT_EQ(damaged(), at.key_scale + 9);
  }
}

TEST(FewBits, ATokenTakesSoManyBytesBehindItsWindow) {
  for (const auto& [codec, key_bits, value_bits] : kCodecs) {
    serving::Shape shape;
    shape.codec = codec;
    shape.window_blocks = 1;
    shape.head_dim = shape.head_dim_v = 128;
    shape.num_kv_heads = 1;
    const serving::Server server(shape);
    intflash_cache_info info{};
    info.struct_size = sizeof info;
    ASSERT_EQ(intflash_cache_get_info(server.cache(), &info), INTFLASH_OK);
    // Steps and offsets of channels; scales and the key's sum.
    const int beside = 4 + (value_bits == 2 ? 2 : 0) + 12;
    EXPECT_EQ(static_cast<int>(info.bytes_per_token), 16 * (key_bits + value_bits) + beside);
    EXPECT_EQ(info.window_page_bytes, 64u * 268u);
    EXPECT_EQ(info.window_blocks, 1);
    EXPECT_EQ(info.sink_blocks, 0);
    EXPECT_EQ(info.num_window_pages, shape.num_pages);
  }
}

}  // namespace
}  // namespace intflash::internal
