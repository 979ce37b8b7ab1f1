// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Mode int8_qk and codec k8v16: values in f16, by their definition in double, and through all that
// a cache does. Dense calls are among the cases of port_agreement_test.cpp.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "cache_uses.h"
#include "host/host_pages.h"
#include "pages/codec.h"
#include "seed.h"
#include "test_ports.h"

namespace intflash::internal::serving {
namespace {

Shape f16_shape(std::int64_t head_dim_v) {
  Shape shape;
  shape.num_kv_heads = 1;
  shape.head_dim_v = head_dim_v;
  shape.codec = &kK8v16Codec;
  return shape;
}

// To the nearest of 11 bits, no finer than 2^-24, of x / 2^exponent: docs/numerics.md, section 4.
double nearest_f16(double x, int exponent) {
  const double scaled = std::ldexp(x, -exponent);
  const double step = std::max(std::ldexp(1.0, std::ilogb(scaled) - 10), 0x1p-24);
  return std::ldexp(std::nearbyint(scaled / step) * step, exponent);
}

TEST(Int8Qk, ValuesAreThoseOfTheDefinition) {
  for (const std::int64_t dim : {8, 64, 72, 320}) {
    for (const float magnitude : {1.0f, 1e-29f, 3e20f}) {
      const Shape shape = f16_shape(dim);
      Server server(shape);
      Tokens tokens =
          random_tokens(shape, 150, static_cast<std::uint32_t>(seed_from_test_name() + dim));
      // Of each row an element that is far smaller than the others: subnormal once it is scaled.
      for (std::size_t i = 0; i < tokens.value.size(); ++i)
        tokens.value[i] *= i % static_cast<std::size_t>(dim) == 3 ? magnitude * 1e-8f : magnitude;
      const std::int32_t sequence = server.create_sequence();
      append(server, sequence, tokens, 0, tokens.count);
      const std::vector<float> values = exported_values(server, sequence);
      for (std::int64_t token = 0; token < tokens.count; ++token) {
        const float* row = tokens.value.data() + token * dim;
        double largest = 0;
        for (std::int64_t c = 0; c < dim; ++c)
          largest = std::max(largest, std::fabs(static_cast<double>(row[c])));
        for (std::int64_t c = 0; c < dim; ++c) {
          const double expected = nearest_f16(static_cast<double>(row[c]), std::ilogb(largest) - 6);
          ASSERT_EQ(static_cast<double>(values[static_cast<std::size_t>(token * dim + c)]),
                    expected)
              << "dim " << dim << " token " << token << " channel " << c;
        }
      }
    }
  }
}

TEST(Int8Qk, EveryPortGivesTheBitsOfScalarInAllThatACacheDoes) {
  const auto seed = static_cast<std::uint32_t>(seed_from_test_name());
  std::vector<Shape> shapes = cache_shapes();
  for (const std::int64_t group_size : {1, 2, 3, 4, 5, 6, 7}) {
    shapes.emplace_back();
    shapes.back().group_size = group_size;
    shapes.back().head_dim_v = 40 * group_size;
  }
  for (Shape shape : shapes) {
    shape.codec = &kK8v16Codec;
    shape.port = &scalar_port();
    const Outcome expected = outcome_of(shape, seed);
    for (const PortEntry& port : all_test_ports()) {
      shape.port = &port;
      EXPECT_EQ(outcome_of(shape, seed), expected) << port.name << " head_dim " << shape.head_dim;
    }
  }
}

TEST(Int8Qk, TokensAppendedOneByOneOrAtOnceGiveTheSameBytes) {
  expect_same_bytes_however_appended(f16_shape(72),
                                     static_cast<std::uint32_t>(seed_from_test_name()));
}

TEST(Int8Qk, ErrsLessThanInt8) {
  Shape shape;
  shape.head_dim = shape.head_dim_v = 128;
  shape.rotate = true;
  shape.num_pages = 40;
  const Tokens tokens =
      random_tokens(shape, 2000, static_cast<std::uint32_t>(seed_from_test_name()));
  const auto attended = [&](const Codec* codec, bool exact) {
    shape.codec = codec;
    Server server(shape);
    if (exact) server.mode = INTFLASH_MODE_EXACT;
    const std::int32_t sequence = server.create_sequence();
    append(server, sequence, tokens, 0, tokens.count);
    return server.attend({last_rows(server, sequence, tokens, 20)}).front().out;
  };
  const std::vector<float> found = attended(&kK8v16Codec, false);
  const std::vector<float> exact = attended(&kK8v16Codec, true);
  const Request dense_request = [&] {
    Server server(shape);
    const std::int32_t sequence = server.create_sequence();
    append(server, sequence, tokens, 0, tokens.count);
    return last_rows(server, sequence, tokens, 20);
  }();
  const std::vector<float> right =
      Server(shape).attend_dense(tokens, dense_request, 0, INTFLASH_MODE_EXACT).out;
  // Beside exact attention over what the cache holds, over what it was given, and what int8 comes
  // to.
  EXPECT_LT(relative_error(found, exact), 0.009);
  const double error = relative_error(found, right);
  EXPECT_LT(error, 0.010);
  EXPECT_LT(error, 0.75 * relative_error(attended(&kInt8Codec, false), right));
}

// Pages may hold anything where no token has been stored: NaN, too.
TEST(Int8Qk, WhatNoQuerySeesMayBeNan) {
  Shape shape = f16_shape(40);
  shape.num_pages = 8;
  const Tokens tokens =
      random_tokens(shape, 300, static_cast<std::uint32_t>(seed_from_test_name()));
  std::vector<std::int64_t> slots(300);
  for (std::size_t i = 0; i < slots.size(); ++i)
    slots[i] = i < 5 || (i >= 128 && i < 192) ? -1 : static_cast<std::int64_t>(i);
  for (const PortEntry& port : all_test_ports()) {
    shape.port = &port;
    std::vector<Result> results;
    for (const int filler : {0, 0xff}) {
      Server server(shape);
      const HostPages& pages = host_pages(*server.cache());
      std::memset(pages.page(0, 0, 0), filler,
                  static_cast<std::size_t>(shape.num_pages * pages.page_bytes));
      const std::int64_t token_indptr[] = {0, 300};
      intflash_append_args args = server.append_args(tokens, 0);
      args.num_requests = 1;
      args.token_indptr = token_indptr;
      args.slots = slots.data();
      ASSERT_EQ(intflash_cache_append(server.cache(), &args), INTFLASH_OK) << intflash_last_error();
      // A window that begins behind what was left out; and a mask that hides it.
      Request request;
      request.pages = page_range(0, 5);
      request.kv_len = 300;
      request.query_len = 30;
      request.query = tokens.query.data() + 270 * shape.num_query_heads() * shape.head_dim;
      request.mask = INTFLASH_MASK_WINDOW;
      for (const std::int64_t left : {63, 78}) {
        request.window_left = left;
        for (const Result& result : server.attend({request}, left == 63 ? 0.0f : 20.0f))
          results.push_back(result);
      }
      BatchCall call(shape, {request});
      call.desc.mode = INTFLASH_MODE_INT8_QK;
      std::vector<float> mask(30 * 300);
      for (std::size_t i = 0; i < mask.size(); ++i)
        if (slots[i % 300] < 0) mask[i] = -std::numeric_limits<float>::infinity();
      call.requests[0].mask = INTFLASH_MASK_CAUSAL;
      call.additive_masks[0].data = mask.data();
      call.additive_masks[0].dtype = INTFLASH_F32;
      call.additive_masks[0].stride_query = 300;
      ASSERT_EQ(call.make_plan(server.context(), server.cache()), INTFLASH_OK);
      ASSERT_EQ(call.run(server.cache()), INTFLASH_OK) << intflash_last_error();
      results.push_back(call.results()[0]);
    }
    ASSERT_EQ(results.size(), 6u);
    for (std::size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(results[i], results[i + 3]) << port.name << ' ' << i;
      EXPECT_FALSE(std::isnan(results[i + 3].out[0])) << port.name << ' ' << i;
    }
  }
}

TEST(Int8Qk, ADenseCallGivesTheBitsOfABatch) {
  Shape shape;
  shape.codec = &kK8v16Codec;
  shape.rotate = true;
  Server server(shape);
  const Tokens tokens =
      random_tokens(shape, 300, static_cast<std::uint32_t>(seed_from_test_name()));
  const std::int32_t sequence = server.create_sequence();
  append(server, sequence, tokens, 0, tokens.count);
  const Request request = last_rows(server, sequence, tokens, 30);
  EXPECT_EQ(server.attend({request})[0],
            server.attend_dense(tokens, request, 0, INTFLASH_MODE_INT8_QK));
}

// The scale's mantissa goes into the codes, so that what is left of it is a power of two.
TEST(Int8Qk, CodesOfInt8BecomeTheirNumbers) {
  const std::int64_t dim = 24;
  const Shape shape = f16_shape(dim);
  Server server(shape);
  const Tokens tokens = random_tokens(shape, 4, 1);
  std::vector<std::int8_t> codes(static_cast<std::size_t>(4 * dim));
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::int8_t>(i * 37 % 255);
  for (std::int8_t& code : codes) code = std::max<std::int8_t>(code, -127);
  const std::vector<float> scales = {0.3f, 1e-20f, 2.0f, 7e18f};
  const std::int32_t sequence = server.create_sequence();
  append_value_codes(server, sequence, tokens, codes, scales);
  const std::vector<float> stored = exported_values(server, sequence);
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const float scale = scales[i / static_cast<std::size_t>(dim)];
    EXPECT_NEAR(stored[i], static_cast<float>(codes[i]) * scale,
                std::fabs(static_cast<float>(codes[i]) * scale) * 0x1p-11f)
        << i;
  }
  std::int32_t loaded = -1;
  const File saved = save(server, sequence);
  ASSERT_EQ(load(server, saved, loaded), INTFLASH_OK) << intflash_last_error();
  EXPECT_EQ(save(server, loaded), saved);
}

TEST(Int8Qk, ATokenTakesTheBytesThatTheHeaderNames) {
  Shape shape = f16_shape(128);
  shape.head_dim = 128;
  const Server server(shape);
  intflash_cache_info info{};
  info.struct_size = sizeof info;
  ASSERT_EQ(intflash_cache_get_info(server.cache(), &info), INTFLASH_OK);
  EXPECT_EQ(info.bytes_per_token, 128 + 2 * 128 + 12);
}

TEST(Int8Qk, BlocksThatAppendCouldNotHaveWrittenAreFound) {
  constexpr std::int64_t kDim = 8;  // of 16 that there is room for
  const PageLayout layout = page_layout(kK8v16Codec, kDim, kDim, kBlockTokens);
  alignas(64) static char page[8192];
  ASSERT_LE(layout.bytes(), static_cast<std::int64_t>(sizeof page));
  std::fill_n(page, sizeof page, '\0');
  const WritableBlock block = writable_block(layout, page, 0);
  auto* const halves = reinterpret_cast<std::uint16_t*>(block.value_codes);
  const auto damaged = [&](std::int64_t tokens) {
    return kK8v16Codec.find_damage(layout, layout.block(page, 0), tokens);
  };
  EXPECT_EQ(damaged(5), nullptr);
  halves[16] = 0x3c00;  // of token 1, without a scale
  EXPECT_EQ(damaged(5), halves + 16);
  block.value_scale[1] = 0.25f;
  EXPECT_EQ(damaged(5), nullptr);
  EXPECT_EQ(damaged(1), block.value_scale + 1);
  block.value_scale[1] = 0.375f;
  EXPECT_EQ(damaged(5), block.value_scale + 1);
  block.value_scale[1] = 0.25f;
  for (const std::uint16_t bits : {0x5800, 0xd800, 0x8000}) {  // 128, -128, -0
    halves[16] = bits;
    EXPECT_EQ(damaged(5), nullptr) << bits;
  }
  for (const std::uint16_t bits : {0x5801, 0xd801, 0x7c00, 0xfc00, 0x7e00}) {
    halves[16] = bits;
    EXPECT_EQ(damaged(5), halves + 16) << bits;
  }
  halves[16] = 0;
  halves[16 + kDim] = 1;  // of a channel that there is not
  EXPECT_EQ(damaged(5), halves + 16 + kDim);
}

}  // namespace
}  // namespace intflash::internal::serving
