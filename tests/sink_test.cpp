// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Attention sinks: logits that join the denominator and have no value.
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "serving.h"

namespace intflash::internal::serving {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

Shape shape_with(std::vector<float> sinks, bool centered = false) {
  Shape shape;
  shape.sinks = std::move(sinks);
  shape.centered = centered;
  return shape;
}

struct Served {
  Tokens tokens;
  Request request;
};
// The last rows of some tokens that the server holds.
Served serve(Server& server, std::int64_t count, std::int64_t query_len) {
  const Shape& shape = server.shape();
  Served served{random_tokens(shape, count, 41), {}};
  const std::vector<std::int32_t> pages = page_range(0, (count + 63) / 64);
  server.append(served.tokens, 0, count, pages);
  served.request.query_len = query_len;
  served.request.kv_len = count;
  served.request.pages = pages;
  return served;
}
void set_query(const Server& server, Served& served) {
  served.request.query =
      served.tokens.query.data() + (served.request.kv_len - served.request.query_len) *
                                       server.shape().num_query_heads() * server.shape().head_dim;
}

double relative_error(const std::vector<float>& found, const std::vector<float>& exact) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    difference += std::fabs(found[i] - exact[i]);
    size += std::fabs(exact[i]);
  }
  return difference / size;
}

TEST(Sinks, AgreeWithTheDefinitionCentredAndCapped) {
  for (const bool centered : {false, true}) {
    for (const float cap : {0.0f, 4.0f}) {
      Server server(shape_with({-1, 3, 7.5f, 5}, centered));
      Served served = serve(server, 300, 12);
      set_query(server, served);
      const Result found = server.attend({served.request}, cap)[0];
      const Result exact =
          server.attend_dense(served.tokens, served.request, cap, INTFLASH_MODE_EXACT);
      EXPECT_LT(relative_error(found.out, exact.out), 0.03) << centered << ' ' << cap;
      for (std::size_t i = 0; i < exact.lse.size(); ++i)
        EXPECT_NEAR(found.lse[i], exact.lse[i], 0.02) << centered << ' ' << cap;
      EXPECT_EQ(found, server.attend_dense(served.tokens, served.request, cap));
    }
  }
}

TEST(Sinks, OfMinusInfinityChangeNothing) {
  Server with(shape_with({-kInfinity, -kInfinity, -kInfinity, -kInfinity}, true));
  Server without(shape_with({}, true));
  Served served = serve(with, 200, 5);
  serve(without, 200, 5);
  set_query(with, served);
  EXPECT_EQ(with.attend({served.request}), without.attend({served.request}));
}

TEST(Sinks, HugeOnesTakeAllOfTheWeight) {
  Server server(shape_with({1e4f, 1e30f, 300, 60}, true));
  Served served = serve(server, 200, 5);
  set_query(server, served);
  const Result result = server.attend({served.request})[0];
  for (const float x : result.out) EXPECT_LT(std::fabs(x), 1e-6f);
  for (std::size_t i = 0; i < result.lse.size(); ++i) {
    const float sink = server.shape().sinks[i / 5];
    EXPECT_NEAR(result.lse[i] / sink, 1, 1e-5);
  }
}

TEST(Sinks, OfTheLargestFiniteSizeAreToldApartFromInfinity) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  Server server(shape_with({kLargest, -kLargest, 3e38f, 2.4e38f}));
  Served served = serve(server, 200, 5);
  set_query(server, served);
  const Result found = server.attend({served.request})[0];
  const Result exact = server.attend_dense(served.tokens, served.request, 0, INTFLASH_MODE_EXACT);
  EXPECT_LT(relative_error(found.out, exact.out), 0.03);
  for (std::size_t i = 0; i < exact.lse.size(); ++i)
    EXPECT_NEAR(found.lse[i] / exact.lse[i], 1, i / 5 == 1 ? 1e-2 : 1e-6) << i;
}

TEST(Sinks, OfAnySizeAreTheLogSumExpOfARowWithoutKeys) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  const std::vector<float> sinks = {kLargest, -kLargest, -2.5e38f, 1e30f};
  Server server(shape_with(sinks));
  const Tokens tokens = random_tokens(server.shape(), 1, 43);
  Request request;
  request.query = tokens.query.data();
  const Result result = server.attend({request})[0];
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(result.lse[i] / sinks[i], 1, 1e-6);
}

TEST(Sinks, AreAllThatARowWithoutKeysHas) {
  Server server(shape_with({0.5f, -2, 3, 4}, true));
  const Tokens tokens = random_tokens(server.shape(), 1, 43);
  Request request;
  request.query = tokens.query.data();
  const Result result = server.attend({request})[0];
  for (const float x : result.out) EXPECT_EQ(x, 0.0f);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(result.lse[i], server.shape().sinks[i], 1e-5);
}

TEST(Sinks, JoinACutKeyRangeOnce) {
  Shape shape = shape_with({2, 2, 9, -kInfinity});
  shape.num_pages = 200;
  Server one(shape);
  shape.num_threads = 8;
  Server eight(shape);
  Served served = serve(one, 9000, 1);
  serve(eight, 9000, 1);
  set_query(one, served);
  EXPECT_EQ(one.attend({served.request}), eight.attend({served.request}));
}

TEST(Sinks, ThatAreNotNumbersAreRefused) {
  for (const float bad : {NAN, kInfinity}) {
    Server server(shape_with({0, 0, bad, 0}));
    Served served = serve(server, 10, 1);
    set_query(server, served);
    BatchCall call(server.shape(), {served.request});
    ASSERT_EQ(call.make_plan(server.context(), server.cache()), INTFLASH_OK);
    EXPECT_EQ(call.run(server.cache()), INTFLASH_NONFINITE_INPUT);
    EXPECT_NE(std::string(intflash_last_error()).find("sinks[2]"), std::string::npos);
  }
}

}  // namespace
}  // namespace intflash::internal::serving
