// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Codec k8v4: values in four bits, by their definition in double, and through all that a cache
// does.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "cache_uses.h"
#include "pages/codec.h"
#include "pages/page.h"
#include "seed.h"
#include "test_ports.h"

namespace intflash::internal::serving {
namespace {

Shape k8v4_shape(std::int64_t head_dim_v) {
  Shape shape;
  shape.num_kv_heads = 1;
  shape.head_dim_v = head_dim_v;
  shape.codec = &kK8v4Codec;
  return shape;
}

// What a row of values becomes, from the page: docs/numerics.md, section 8.
std::vector<double> defined_row(const float* row, std::int64_t dim) {
  static const double kLevels[] = {-123, -91, -71, -54, -39, -25, -13, 0,
                                   11,   23,  34,  47,  61,  77,  97,  127};
  double largest = 0;
  for (std::int64_t c = 0; c < dim; ++c)
    largest = std::max(largest, std::fabs(static_cast<double>(row[c])));
  const double scale = std::exp2(std::ceil(64 * std::log2(largest / 127)) / 64);
  std::vector<double> best;
  double best_product = 0, best_square = 1;
  for (const double step : {1.0, 115.0 / 128, 104.0 / 128}) {
    std::vector<double> levels;
    double product = 0, square = 0;
    for (std::int64_t c = 0; c < dim; ++c) {
      const double code = std::nearbyint(static_cast<double>(row[c]) / scale);
      double nearest = std::numeric_limits<double>::infinity();
      for (const double level : kLevels) {
        if (std::fabs(code - step * level) < std::fabs(code - step * nearest)) nearest = level;
      }
      levels.push_back(nearest);
      product += code * nearest;
      square += nearest * nearest;
    }
    if (product * product * best_square <= best_product * best_product * square) continue;
    best = levels;
    best_product = product;
    best_square = square;
  }
  const double fitted = scale * best_product / best_square;
  const double on_grid = std::exp2(std::nearbyint(64 * std::log2(fitted)) / 64);
  for (double& level : best) level *= on_grid;
  return best;
}

TEST(K8v4, ValuesAreThoseOfTheDefinition) {
  for (const std::int64_t dim : {8, 64, 72, 128, 320}) {
    const Shape shape = k8v4_shape(dim);
    Server server(shape);
    const Tokens tokens =
        random_tokens(shape, 200, static_cast<std::uint32_t>(seed_from_test_name() + dim));
    const std::int32_t sequence = server.create_sequence();
    append(server, sequence, tokens, 0, tokens.count);
    const std::vector<float> values = exported_values(server, sequence);
    for (std::int64_t token = 0; token < tokens.count; ++token) {
      const std::vector<double> row = defined_row(tokens.value.data() + token * dim, dim);
      for (std::int64_t c = 0; c < dim; ++c) {
        const double found = static_cast<double>(values[static_cast<std::size_t>(token * dim + c)]);
        ASSERT_NEAR(found, row[static_cast<std::size_t>(c)], 1e-6 * std::fabs(found))
            << "dim " << dim << " token " << token << " channel " << c;
      }
    }
  }
}

TEST(K8v4, EveryPortGivesTheBitsOfScalarInAllThatACacheDoes) {
  const auto seed = static_cast<std::uint32_t>(seed_from_test_name());
  std::vector<Shape> shapes = cache_shapes();
  // As many rows a kv head as ports multiply at once.
  for (const std::int64_t group_size : {1, 3, 5, 6}) {
    shapes.emplace_back();
    shapes.back().group_size = group_size;
    shapes.back().head_dim_v = 16 * group_size;
  }
  for (Shape shape : shapes) {
    shape.codec = &kK8v4Codec;
    shape.port = &scalar_port();
    const Outcome expected = outcome_of(shape, seed);
    for (const PortEntry& port : all_test_ports()) {
      shape.port = &port;
      EXPECT_EQ(outcome_of(shape, seed), expected) << port.name << " head_dim " << shape.head_dim;
    }
  }
}

TEST(K8v4, TokensAppendedOneByOneOrAtOnceGiveTheSameBytes) {
  expect_same_bytes_however_appended(k8v4_shape(72),
                                     static_cast<std::uint32_t>(seed_from_test_name()));
}

TEST(K8v4, AttentionIsThatOfWhatTheCacheHolds) {
  Shape shape;
  shape.head_dim = shape.head_dim_v = 64;
  shape.rotate = true;
  const Tokens tokens =
      random_tokens(shape, 700, static_cast<std::uint32_t>(seed_from_test_name()));
  const auto attended = [&](const Codec* codec, intflash_mode mode) {
    shape.codec = codec;
    Server server(shape);
    server.mode = mode;
    const std::int32_t sequence = server.create_sequence();
    append(server, sequence, tokens, 0, tokens.count);
    return server.attend({last_rows(server, sequence, tokens, 20)}).front().out;
  };
  const std::vector<float> out = attended(&kK8v4Codec, INTFLASH_MODE_INT8);
  // In double over what the cache holds, and over all that an INT8 cache holds.
  EXPECT_LT(relative_error(out, attended(&kK8v4Codec, INTFLASH_MODE_EXACT)), 0.015);
  const double of_four_bits = relative_error(out, attended(&kInt8Codec, INTFLASH_MODE_EXACT));
  EXPECT_LT(of_four_bits, 0.10);
  EXPECT_GT(of_four_bits, 0.03);
}

TEST(K8v4, ZeroRowsStayZeroAndSmallCodesAreStretched) {
  const Shape shape = k8v4_shape(32);
  Server server(shape);
  Tokens tokens = random_tokens(shape, 70, static_cast<std::uint32_t>(seed_from_test_name()));
  std::fill_n(tokens.value.begin() + 3 * 32, 32, 0.0f);
  std::fill_n(tokens.value.begin() + 66 * 32, 32, 0.0f);
  const std::int32_t sequence = server.create_sequence();
  append(server, sequence, tokens, 0, tokens.count);
  const std::vector<float> values = exported_values(server, sequence);
  for (const std::size_t token : {3, 66}) {
    for (std::size_t c = 0; c < 32; ++c) EXPECT_EQ(values[token * 32 + c], 0.0f);
  }

  std::vector<std::int8_t> codes(32);
  for (std::size_t c = 0; c < 32; ++c) codes[c] = static_cast<std::int8_t>(c % 7) - 3;
  const float scale = 0.25f;
  const std::int32_t of_codes = server.create_sequence();
  append_value_codes(server, of_codes, tokens, codes, {scale});
  const std::vector<float> stored = exported_values(server, of_codes);
  for (std::size_t c = 0; c < 32; ++c)
    EXPECT_NEAR(stored[c], static_cast<float>(codes[c]) * scale, 0.09f) << c;
}

// What a row has fitted to its levels, or stretched to them, may be smaller than any row's scale.
TEST(K8v4, TheSmallestRowsAreSavedAndLoaded) {
  const std::int64_t dim = 32;
  const Shape shape = k8v4_shape(dim);
  Server server(shape);
  Tokens tokens = random_tokens(shape, 64, static_cast<std::uint32_t>(seed_from_test_name()));
  for (std::int64_t t = 0; t < tokens.count; ++t) {
    float* row = tokens.value.data() + t * dim;
    for (std::int64_t c = 0; c < dim; ++c)
      row[c] = std::ldexp(std::fmod(std::fabs(row[c]), 1.0f), -100);
    row[t % dim] = std::ldexp(1.0f + static_cast<float>(t) / 256, -100);
  }
  const std::int32_t sequence = server.create_sequence();
  append(server, sequence, tokens, 0, tokens.count);

  std::vector<std::int8_t> codes(static_cast<std::size_t>(dim));
  for (std::size_t c = 0; c < codes.size(); ++c) codes[c] = static_cast<std::int8_t>(c % 3) - 1;
  append_value_codes(server, sequence, tokens, codes, {0x1p-100f / 127});

  const File saved = save(server, sequence);
  std::int32_t loaded = -1;
  ASSERT_EQ(load(server, saved, loaded), INTFLASH_OK) << intflash_last_error();
  EXPECT_EQ(save(server, loaded), saved);
}

TEST(K8v4, ATokenTakesThreeQuartersOfInt8s) {
  Shape shape = k8v4_shape(128);
  shape.head_dim = 128;
  const Server server(shape);
  intflash_cache_info info{};
  info.struct_size = sizeof info;
  ASSERT_EQ(intflash_cache_get_info(server.cache(), &info), INTFLASH_OK);
  EXPECT_EQ(info.codec, INTFLASH_CODEC_K8V4);
  EXPECT_EQ(info.bytes_per_token, 128u + 64u + 12u);
}

TEST(K8v4, BlocksThatAppendCouldNotHaveWrittenAreFound) {
  constexpr std::int64_t kDim = 8;  // of 16 that there is room for
  const PageLayout layout = page_layout(kK8v4Codec, kDim, kDim, kBlockTokens);
  alignas(64) static char page[4096];
  ASSERT_LE(layout.bytes(), static_cast<std::int64_t>(sizeof page));
  std::fill_n(page, sizeof page, '\0');
  const WritableBlock block = writable_block(layout, page, 0);
  const auto damaged = [&](std::int64_t tokens) {
    return kK8v4Codec.find_damage(layout, layout.block(page, 0), tokens);
  };
  EXPECT_EQ(damaged(5), nullptr);
  block.value_codes[0] = 0x0f;  // of token 0, channel 0
  EXPECT_EQ(damaged(5), nullptr);
  EXPECT_EQ(damaged(0), block.value_codes);
  block.value_codes[0] = static_cast<std::int8_t>(0xf0);  // of token 32
  EXPECT_EQ(damaged(5), block.value_codes);
  EXPECT_EQ(damaged(33), nullptr);
  block.value_codes[0] = 0;
  block.value_codes[kDim * 4] = 1;  // of token 0, channel 8
  EXPECT_EQ(damaged(5), block.value_codes);
}

}  // namespace
}  // namespace intflash::internal::serving
