// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Rotary position embedding inside append and attention: the bits of rows that were turned before.
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "serving.h"
#include "test_ports.h"
#include "tile/widen.h"

namespace intflash::internal::serving {
namespace {

struct Tables {
  std::vector<float> cos, sin;
  std::int64_t num_positions;
  std::int64_t rope_dim;
  intflash_rope_pairing pairing;

  intflash_rope view() const { return {cos.data(), sin.data(), num_positions, rope_dim, pairing}; }
};

Tables make_tables(std::int64_t num_positions, std::int64_t rope_dim,
                   intflash_rope_pairing pairing) {
  Tables tables{{}, {}, num_positions, rope_dim, pairing};
  for (std::int64_t p = 0; p < num_positions; ++p) {
    for (std::int64_t i = 0; i < rope_dim / 2; ++i) {
      const double angle =
          static_cast<double>(p) *
          std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(rope_dim));
      tables.cos.push_back(static_cast<float>(std::cos(angle)));
      tables.sin.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  return tables;
}

// Rounded to f32 alone, whatever the compiler likes to fuse: the product is exact in double.
float product(float a, float b) {
  return static_cast<float>(static_cast<double>(a) * static_cast<double>(b));
}

// rows [tokens][heads][dim] from position 0 on.
void turn(const Tables& tables, std::vector<float>& rows, std::int64_t heads, std::int64_t dim) {
  const std::int64_t pairs = tables.rope_dim / 2;
  const bool halves = tables.pairing == INTFLASH_ROPE_HALVES;
  for (std::size_t row = 0; row < rows.size() / static_cast<std::size_t>(dim); ++row) {
    float* channels = rows.data() + row * static_cast<std::size_t>(dim);
    const std::size_t position = row / static_cast<std::size_t>(heads);
    for (std::int64_t i = 0; i < pairs; ++i) {
      const std::size_t at =
          position * static_cast<std::size_t>(pairs) + static_cast<std::size_t>(i);
      const float cos = tables.cos[at];
      const float sin = tables.sin[at];
      float& x = channels[halves ? i : 2 * i];
      float& y = channels[halves ? i + pairs : 2 * i + 1];
      const float turned = product(x, cos) - product(y, sin);
      y = product(x, sin) + product(y, cos);
      x = turned;
    }
  }
}

Tokens turned(const Tables& tables, const Shape& shape, Tokens tokens) {
  turn(tables, tokens.key, shape.num_kv_heads, shape.head_dim);
  turn(tables, tokens.query, shape.num_query_heads(), shape.head_dim);
  return tokens;
}

struct Variant {
  const char* name;
  Shape shape;
  std::int64_t rope_dim;
};
std::vector<Variant> variants() {
  Shape plain;
  Shape centered = plain;
  centered.centered = centered.rotate = true;
  Shape uneven = plain;
  uneven.head_dim = 40;
  uneven.group_size = 3;
  uneven.centered = true;
  return {{"plain", plain, 32}, {"centered and rotated", centered, 32}, {"partial", uneven, 22}};
}

Request last_rows(const Server& server, std::int32_t sequence, const Tokens& tokens,
                  std::int64_t query_len) {
  Request request = server.request_of(sequence);
  request.query_len = query_len;
  request.query = tokens.query.data() + (tokens.count - query_len) *
                                            server.shape().num_query_heads() *
                                            server.shape().head_dim;
  return request;
}

TEST(Rope, GivesTheBitsOfRowsThatWereTurnedBeforeOnEveryPort) {
  constexpr std::int64_t kTokens = 200;
  for (const PortEntry& port : all_test_ports()) {
    for (Variant& variant : variants()) {
      for (const intflash_rope_pairing pairing : {INTFLASH_ROPE_ADJACENT, INTFLASH_ROPE_HALVES}) {
        SCOPED_TRACE(testing::Message() << port.name << " " << variant.name << " " << pairing);
        variant.shape.port = &port;
        const Tables tables = make_tables(kTokens, variant.rope_dim, pairing);
        const Tokens tokens = random_tokens(variant.shape, kTokens, 6);
        const Tokens before = turned(tables, variant.shape, tokens);
        Server plain(variant.shape);
        const std::int32_t expected = plain.create_sequence();
        ASSERT_EQ(plain.append(expected, before, 0, kTokens), INTFLASH_OK);
        Server roping(variant.shape);
        roping.rope = tables.view();
        const std::int32_t sequence = roping.create_sequence();
        for (const auto& [begin, end] : {std::pair{0, 5}, {5, 70}, {70, 71}, {71, 200}}) {
          ASSERT_EQ(roping.append(sequence, tokens, begin, end), INTFLASH_OK)
              << intflash_last_error();
        }
        for (const float score_cap : {0.0f, 5.0f}) {
          EXPECT_EQ(roping.attend({last_rows(roping, sequence, tokens, 50),
                                   last_rows(roping, sequence, tokens, 1)},
                                  score_cap),
                    plain.attend({last_rows(plain, expected, before, 50),
                                  last_rows(plain, expected, before, 1)},
                                 score_cap));
        }
        // Tables of another pairing are another result.
        const Tables other = make_tables(
            kTokens, variant.rope_dim,
            pairing == INTFLASH_ROPE_HALVES ? INTFLASH_ROPE_ADJACENT : INTFLASH_ROPE_HALVES);
        roping.rope = other.view();
        EXPECT_NE(roping.attend({last_rows(roping, sequence, tokens, 1)}),
                  plain.attend({last_rows(plain, expected, before, 1)}));
      }
    }
  }
}

TEST(Rope, HalvesAreWidenedAndThenTurned) {
  const Shape shape;
  const Tables tables = make_tables(100, shape.head_dim, INTFLASH_ROPE_HALVES);
  Tokens tokens = random_tokens(shape, 100, 6);
  std::vector<std::uint16_t> key;
  for (float& x : tokens.key) {
    key.push_back(narrow_f16(x));
    x = widen_f16(key.back());
  }
  const Tokens before = turned(tables, shape, tokens);
  Server server(shape);
  const std::int32_t expected = server.create_sequence();
  const std::int32_t sequence = server.create_sequence();
  ASSERT_EQ(server.append(expected, before, 0, 100), INTFLASH_OK);
  intflash_append_args args = server.append_args(tokens, 0);
  args.key_dtype = INTFLASH_F16;
  args.key.data = key.data();
  args.rope = tables.view();
  ASSERT_EQ(server.append(sequence, 100, args), INTFLASH_OK) << intflash_last_error();
  EXPECT_EQ(server.attend({last_rows(server, sequence, tokens, 3)}),
            server.attend({last_rows(server, expected, tokens, 3)}));
}

TEST(Rope, TablesThatCannotServeAreRefusedAndNothingIsAppended) {
  const Shape shape;
  const Tokens tokens = random_tokens(shape, 70, 6);
  Tables tables = make_tables(70, 32, INTFLASH_ROPE_HALVES);
  Server server(shape);
  const std::int32_t sequence = server.create_sequence();
  const auto refused = [&](const intflash_rope& rope, intflash_status status,
                           const std::string& part) {
    server.rope = rope;
    EXPECT_EQ(server.append(sequence, tokens, 0, 70), status);
    EXPECT_NE(std::string(intflash_last_error()).find(part), std::string::npos)
        << intflash_last_error() << " lacks: " << part;
    EXPECT_EQ(server.free_pages(), shape.num_pages);
  };
  intflash_rope rope = tables.view();
  rope.sin = nullptr;
  refused(rope, INTFLASH_INVALID_ARGUMENT, "rope.sin = NULL");
  for (const std::int64_t bad : {-2, 0, 31, 34}) {
    rope = tables.view();
    rope.rope_dim = bad;
    refused(rope, INTFLASH_BAD_SHAPE, "rope.rope_dim = " + std::to_string(bad));
  }
  rope = tables.view();
  rope.pairing = static_cast<intflash_rope_pairing>(2);
  refused(rope, INTFLASH_INVALID_ARGUMENT, "rope.pairing = 2");
  rope = tables.view();
  rope.num_positions = 69;
  refused(rope, INTFLASH_BAD_SHAPE,
          "request 0: rows at positions 0 ... 69: rope has positions 0 ... 68");
  for (const float bad : {NAN, 17.0f, -INFINITY}) {
    Tables damaged = tables;
    damaged.sin[69 * 16 + 3] = bad;
    refused(damaged.view(), INTFLASH_NONFINITE_INPUT, "at position 69, pair 3");
  }
}

TEST(Rope, QueriesWithoutAPositionInTheTablesAreRefused) {
  const Shape shape;
  const Tokens tokens = random_tokens(shape, 70, 6);
  const Tables tables = make_tables(80, 32, INTFLASH_ROPE_HALVES);
  Server server(shape);
  server.rope = tables.view();
  const std::int32_t sequence = server.create_sequence();
  ASSERT_EQ(server.append(sequence, tokens, 0, 70), INTFLASH_OK);
  Request request = last_rows(server, sequence, tokens, 70);
  EXPECT_EQ(server.status_of({request}), INTFLASH_OK) << intflash_last_error();
  server.rope.num_positions = 69;
  EXPECT_EQ(server.status_of({request}), INTFLASH_BAD_SHAPE);
  server.rope = tables.view();
  // More queries than keys: the first would stand at position -10.
  request.kv_len = 60;
  EXPECT_EQ(server.status_of({request}), INTFLASH_BAD_SHAPE);
  EXPECT_NE(std::string(intflash_last_error()).find("positions -10 ... 59"), std::string::npos)
      << intflash_last_error();
}

}  // namespace
}  // namespace intflash::internal::serving
