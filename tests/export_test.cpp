// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Tokens read back, and pages copied.
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "random.h"
#include "seed.h"
#include "serving.h"

namespace intflash::internal::serving {
namespace {

intflash_tensor token_major(std::vector<float>& data, std::int64_t heads, std::int64_t dim) {
  intflash_tensor tensor{};
  tensor.data = data.data();
  tensor.stride_head = dim;
  tensor.stride_token = heads * dim;
  return tensor;
}

struct Exported {
  std::vector<float> key, value;  // [tokens][heads][dim]
};

// Positions [begin, end) of a sequence.
Exported export_sequence(const Server& server, std::int32_t sequence, std::int64_t begin,
                         std::int64_t end) {
  const Shape& shape = server.shape();
  const auto rows = static_cast<std::size_t>((end - begin) * shape.num_kv_heads);
  Exported out;
  out.key.resize(rows * static_cast<std::size_t>(shape.head_dim));
  out.value.resize(rows * static_cast<std::size_t>(shape.head_dim_v));
  const intflash_tensor key = token_major(out.key, shape.num_kv_heads, shape.head_dim);
  const intflash_tensor value = token_major(out.value, shape.num_kv_heads, shape.head_dim_v);
  EXPECT_EQ(intflash_sequence_export(server.cache(), sequence, begin, end, &key, &value),
            INTFLASH_OK)
      << intflash_last_error();
  return out;
}

// A code is off by half a step at most, and a step is 1/127 of the largest centred element; a
// rotation leaves the length of an error as it is.
void expect_close(const std::vector<float>& found, const float* given,
                  const std::vector<float>& center, std::int64_t dim) {
  for (std::size_t row = 0; row < found.size() / static_cast<std::size_t>(dim); ++row) {
    double error = 0;
    double size = 0;
    for (std::int64_t c = 0; c < dim; ++c) {
      const std::size_t i = row * static_cast<std::size_t>(dim) + static_cast<std::size_t>(c);
      const double mean = center.empty() ? 0.0 : static_cast<double>(center[i % center.size()]);
      error += std::pow(static_cast<double>(found[i]) - static_cast<double>(given[i]), 2);
      size += std::pow(static_cast<double>(given[i]) - mean, 2);
    }
    const double step = std::sqrt(size) / 127;
    EXPECT_LE(std::sqrt(error), 0.51 * step * std::sqrt(static_cast<double>(dim))) << "row " << row;
    EXPECT_GT(error, 0.0) << "row " << row;
  }
}

TEST(Export, TokensComeBackWithinHalfAStep) {
  for (const bool centered : {false, true}) {
    for (const bool rotate : {false, true}) {
      Shape shape;
      shape.head_dim = 48;
      shape.head_dim_v = 40;
      shape.page_size = 128;
      shape.centered = centered;
      shape.rotate = rotate;
      Server server(shape);
      const Tokens tokens = random_tokens(shape, 200, 5);
      const std::int32_t sequence = server.create_sequence();
      ASSERT_EQ(server.append(sequence, tokens, 0, 200), INTFLASH_OK) << intflash_last_error();
      const std::int64_t begin = 61;
      const Exported out = export_sequence(server, sequence, begin, 200);
      SCOPED_TRACE(testing::Message() << "centered " << centered << " rotate " << rotate);
      expect_close(out.key, tokens.key.data() + begin * shape.num_kv_heads * shape.head_dim,
                   server.key_center(), shape.head_dim);
      expect_close(out.value, tokens.value.data() + begin * shape.num_kv_heads * shape.head_dim_v,
                   server.value_center(), shape.head_dim_v);
    }
  }
}

// Rows whose largest element is 127 have scale 1.
TEST(Export, IntegersUpTo127ComeBackAsTheyWere) {
  Shape shape;
  shape.num_pages = 3;
  Server server(shape);
  Random random(seed_from_test_name());
  Tokens tokens = random_tokens(shape, 130, 1);
  for (std::vector<float>* all : {&tokens.key, &tokens.value}) {
    for (std::size_t i = 0; i < all->size(); ++i)
      (*all)[i] = i % 32 == 7 ? -127.0f : static_cast<float>(random.below(255) - 127);
  }
  const std::int32_t sequence = server.create_sequence();
  ASSERT_EQ(server.append(sequence, tokens, 0, 130), INTFLASH_OK) << intflash_last_error();
  const Exported all = export_sequence(server, sequence, 0, 130);
  EXPECT_EQ(all.key, tokens.key);
  EXPECT_EQ(all.value, tokens.value);

  // Of the pages, as a caller's own table names them, heads apart, and keys alone.
  const std::vector<std::int32_t> pages = server.request_of(sequence).pages;
  std::vector<float> head_major(static_cast<std::size_t>(2 * 70 * shape.head_dim));
  intflash_tensor key{};
  key.data = head_major.data();
  key.stride_token = shape.head_dim;
  key.stride_head = 70 * shape.head_dim;
  ASSERT_EQ(intflash_cache_export(server.cache(), pages.data() + 1, 0, 66, &key, nullptr),
            INTFLASH_OK)
      << intflash_last_error();
  for (std::int64_t h = 0; h < 2; ++h) {
    for (std::int64_t t = 0; t < 66; ++t) {
      for (std::int64_t c = 0; c < shape.head_dim; ++c) {
        EXPECT_EQ(head_major[static_cast<std::size_t>((h * 70 + t) * shape.head_dim + c)],
                  tokens.key[static_cast<std::size_t>(((64 + t) * 2 + h) * shape.head_dim + c)]);
      }
    }
  }
}

TEST(Export, GivesTheSameBitsWhateverTheNumberOfThreads) {
  std::vector<Exported> found;
  for (const std::int32_t threads : {1, 3}) {
    Shape shape;
    shape.centered = shape.rotate = true;
    shape.num_threads = threads;
    Server server(shape);
    const std::int32_t sequence = server.create_sequence();
    ASSERT_EQ(server.append(sequence, random_tokens(shape, 1000, 5), 0, 1000), INTFLASH_OK);
    found.push_back(export_sequence(server, sequence, 70, 983));
  }
  EXPECT_EQ(found[0].key, found[1].key);
  EXPECT_EQ(found[0].value, found[1].value);
}

TEST(Export, WhatASequenceDoesNotHoldIsRefused) {
  Shape shape;
  Server server(shape);
  const Tokens tokens = random_tokens(shape, 150, 1);
  const std::int32_t sequence = server.create_sequence();
  ASSERT_EQ(server.append(sequence, tokens, 0, 150), INTFLASH_OK);
  ASSERT_EQ(intflash_sequence_drop_before(server.cache(), sequence, 70), INTFLASH_OK);
  std::vector<float> data(100000);
  intflash_tensor key = token_major(data, shape.num_kv_heads, shape.head_dim);
  const auto refused = [&](std::int64_t begin, std::int64_t end, intflash_status status) {
    EXPECT_EQ(intflash_sequence_export(server.cache(), sequence, begin, end, &key, nullptr), status)
        << begin << " ... " << end;
  };
  refused(63, 100, INTFLASH_BAD_SHAPE);
  refused(100, 151, INTFLASH_BAD_SHAPE);
  refused(100, 99, INTFLASH_BAD_SHAPE);
  refused(64, 150, INTFLASH_OK);
  refused(80, 80, INTFLASH_OK);
  key.stride_head = shape.head_dim - 1;
  refused(64, 150, INTFLASH_BAD_STRIDE);
  const std::int32_t pages[] = {0, 64};
  EXPECT_EQ(intflash_cache_export(server.cache(), pages, 0, 65, nullptr, nullptr),
            INTFLASH_INVALID_ARGUMENT);
  EXPECT_NE(std::string(intflash_last_error()).find("page_ids[1] = 64"), std::string::npos)
      << intflash_last_error();
}

TEST(CopyPage, ACopyIsAttendedLikeThePageAndWrittenApartFromIt) {
  Shape shape;
  Server server(shape);
  const Tokens tokens = random_tokens(shape, 120, 1);
  server.append(tokens, 0, 100, {0, 1});
  ASSERT_EQ(intflash_cache_copy_page(server.cache(), 1, 5), INTFLASH_OK) << intflash_last_error();
  const auto over = [&](std::int64_t kv_len, std::vector<std::int32_t> pages) {
    Request request;
    request.kv_len = kv_len;
    request.pages = std::move(pages);
    request.query = tokens.query.data();
    return request;
  };
  const std::vector<Result> before = server.attend({over(100, {0, 1})});
  EXPECT_EQ(server.attend({over(100, {0, 5})}), before);
  server.append(tokens, 100, 120, {0, 5});
  EXPECT_EQ(server.attend({over(100, {0, 1})}), before);
  EXPECT_EQ(server.attend({over(120, {0, 5})})[0], server.attend_dense(tokens, over(120, {0, 5})));
}

TEST(CopyPage, NeitherUnknownPagesNorAPageOfASequenceAreWritten) {
  Shape shape;
  shape.num_pages = 4;
  Server server(shape);
  const std::int32_t sequence = server.create_sequence();
  ASSERT_EQ(server.append(sequence, random_tokens(shape, 3, 1), 0, 3), INTFLASH_OK);
  const std::int32_t held = server.request_of(sequence).pages[0];
  EXPECT_EQ(intflash_cache_copy_page(server.cache(), held, held + 1), INTFLASH_OK);
  EXPECT_EQ(intflash_cache_copy_page(server.cache(), held + 1, held), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(intflash_cache_copy_page(server.cache(), 4, 1), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(intflash_cache_copy_page(server.cache(), 1, -1), INTFLASH_INVALID_ARGUMENT);
}

}  // namespace
}  // namespace intflash::internal::serving
