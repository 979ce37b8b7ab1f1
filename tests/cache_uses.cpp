// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "cache_uses.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <utility>

#include <gtest/gtest.h>

namespace intflash::internal::serving {
namespace {

void attend(const Server& server, const std::vector<Request>& requests, Outcome& outcome,
            float score_cap = 0, const std::vector<intflash_shared_prefix>& prefixes = {}) {
  for (Result& result : server.attend(requests, score_cap, prefixes))
    outcome.attended.push_back(std::move(result));
}

void export_all(const Server& server, std::int32_t sequence, Outcome& outcome) {
  const Shape& shape = server.shape();
  const std::int64_t count = server.request_of(sequence).kv_len;
  const std::int64_t heads = shape.num_layers * shape.num_kv_heads;
  std::vector<float> key(static_cast<std::size_t>(heads * count * shape.head_dim));
  std::vector<float> value(static_cast<std::size_t>(heads * count * shape.head_dim_v));
  intflash_tensor to_key = tensor_of(key.data(), shape.num_kv_heads, shape.head_dim);
  intflash_tensor to_value = tensor_of(value.data(), shape.num_kv_heads, shape.head_dim_v);
  to_key.stride_batch = shape.num_kv_heads * count * shape.head_dim;
  to_value.stride_batch = shape.num_kv_heads * count * shape.head_dim_v;
  EXPECT_EQ(intflash_sequence_export(server.cache(), sequence, 0, count, &to_key, &to_value),
            INTFLASH_OK)
      << intflash_last_error();
  outcome.exported.push_back(std::move(key));
  outcome.exported.push_back(std::move(value));
}

void use_sequences(const Shape& shape, const Tokens& tokens, Outcome& outcome) {
  Server server(shape);
  const std::int32_t sequence = server.create_sequence();
  // Single tokens, whole blocks, and parts of blocks.
  const std::int64_t ends[] = {0, 1, 64, 192, 200, 330};
  for (std::size_t i = 1; i < std::size(ends); ++i)
    append(server, sequence, tokens, ends[i - 1], ends[i]);
  attend(server, {last_rows(server, sequence, tokens, 1)}, outcome);
  attend(server, {last_rows(server, sequence, tokens, 70)}, outcome);
  attend(server, {last_rows(server, sequence, tokens, 3)}, outcome, 30.0f);
  std::int32_t fork = -1;
  ASSERT_EQ(intflash_sequence_fork(server.cache(), sequence, &fork), INTFLASH_OK);
  append(server, fork, tokens, 330, 350);
  attend(server, {last_rows(server, sequence, tokens, 2), last_rows(server, fork, tokens, 4)},
         outcome, 0, {{0, 2, 256}});
  ASSERT_EQ(intflash_sequence_truncate(server.cache(), fork, 100), INTFLASH_OK);
  const File file = save(server, fork);
  outcome.saved.push_back(file);
  append(server, fork, tokens, 100, 131);
  attend(server, {last_rows(server, fork, tokens, 5)}, outcome);
  export_all(server, fork, outcome);

  Shape coarse = shape;
  coarse.page_size = 128;
  Server other(coarse);
  other.layer = server.layer;
  std::int32_t loaded = -1;
  ASSERT_EQ(load(other, file, loaded), INTFLASH_OK) << intflash_last_error();
  EXPECT_EQ(save(other, loaded), file);
  attend(other, {last_rows(other, loaded, tokens, 7)}, outcome);
  export_all(other, loaded, outcome);
}

void use_pages(const Shape& shape, const Tokens& tokens, Outcome& outcome) {
  Server server(shape);
  Request request;
  request.query_len = 2;
  request.query = tokens.query.data();
  // A page of its own for one of two that go on.
  server.append(tokens, 0, 90, {3, 4});
  ASSERT_EQ(intflash_cache_copy_page(server.cache(), 4, 9), INTFLASH_OK);
  server.append(tokens, 90, 140, {3, 4, 5});
  request.kv_len = 90;
  request.pages = {3, 9};
  attend(server, {request}, outcome);
  request.kv_len = 140;
  request.pages = {3, 4, 5};
  attend(server, {request}, outcome);
  // By slots: page 20 whole, and half of page 21 backwards.
  std::vector<std::int64_t> slots;
  for (std::int64_t i = 0; i < 64; ++i) slots.push_back(20 * 64 + i);
  for (std::int64_t i = 31; i >= 0; --i) slots.push_back(21 * 64 + i);
  const std::int64_t token_indptr[] = {0, 96};
  intflash_append_args args = server.append_args(tokens, 0);
  args.token_indptr = token_indptr;
  args.slots = slots.data();
  ASSERT_EQ(intflash_cache_append(server.cache(), &args), INTFLASH_OK) << intflash_last_error();
  request.kv_len = 96;
  request.pages = {20, 21};
  attend(server, {request}, outcome);
}

}  // namespace

std::vector<Shape> cache_shapes() {
  Shape layered;
  layered.num_layers = 2;
  layered.centered = true;
  layered.num_threads = 2;
  Shape uneven;
  uneven.head_dim = 40;
  uneven.head_dim_v = 72;
  Shape rotated;
  rotated.head_dim = rotated.head_dim_v = 64;
  rotated.rotate = true;
  return {layered, uneven, rotated};
}

Outcome outcome_of(const Shape& shape, std::uint32_t seed) {
  Outcome outcome;
  use_sequences(shape, random_tokens(shape, 360, seed), outcome);
  use_pages(shape, random_tokens(shape, 140, seed + 1), outcome);
  return outcome;
}

File save(const Server& server, std::int32_t sequence) {
  File file;
  const auto write = [](void* user, const void* bytes, std::size_t count) {
    const char* first = static_cast<const char*>(bytes);
    static_cast<File*>(user)->insert(static_cast<File*>(user)->end(), first, first + count);
    return count;
  };
  EXPECT_EQ(intflash_sequence_save(server.cache(), sequence, write, &file), INTFLASH_OK)
      << intflash_last_error();
  return file;
}

intflash_status load(const Server& server, const File& file, std::int32_t& sequence) {
  struct Reader {
    const File& file;
    std::size_t used;
  } reader{file, 0};
  const auto read = [](void* user, void* bytes, std::size_t count) {
    Reader& from = *static_cast<Reader*>(user);
    std::memcpy(bytes, from.file.data() + from.used, count);
    from.used += count;
    return count;
  };
  return intflash_sequence_load(server.cache(), read, &reader, &sequence);
}

void append(Server& server, std::int32_t sequence, const Tokens& tokens, std::int64_t begin,
            std::int64_t end) {
  for (server.layer = 0; server.layer < server.shape().num_layers; ++server.layer) {
    const std::int64_t first = server.layer * 5 + begin;
    ASSERT_EQ(server.append(sequence, tokens, first, first + end - begin), INTFLASH_OK)
        << intflash_last_error();
  }
  server.layer = server.shape().num_layers - 1;
}

void append_value_codes(Server& server, std::int32_t sequence, const Tokens& tokens,
                        std::vector<std::int8_t> codes, const std::vector<float>& scales) {
  const auto count = static_cast<std::int64_t>(scales.size());
  const std::int64_t dim = server.shape().head_dim_v;
  ASSERT_EQ(static_cast<std::int64_t>(codes.size()), count * dim);
  const std::int64_t token_indptr[] = {0, count};
  intflash_append_args args = server.append_args(tokens, 0);
  args.token_indptr = token_indptr;
  args.value_dtype = INTFLASH_INT8;
  args.value = {};
  args.value.data = codes.data();
  args.value.stride_head = count * dim;
  args.value.stride_token = dim;
  args.value.scale = scales.data();
  args.value.scale_block = 1;
  ASSERT_EQ(server.append(sequence, count, args), INTFLASH_OK) << intflash_last_error();
}

std::vector<float> exported_values(const Server& server, std::int32_t sequence) {
  const Shape& shape = server.shape();
  const std::int64_t count = server.request_of(sequence).kv_len;
  std::vector<float> values(
      static_cast<std::size_t>(shape.num_kv_heads * count * shape.head_dim_v));
  const intflash_tensor to = tensor_of(values.data(), shape.num_kv_heads, shape.head_dim_v);
  EXPECT_EQ(intflash_sequence_export(server.cache(), sequence, 0, count, nullptr, &to),
            INTFLASH_OK);
  return values;
}

void expect_same_bytes_however_appended(const Shape& shape, std::uint32_t seed) {
  Server server(shape);
  const Tokens tokens = random_tokens(shape, 150, seed);
  const std::int32_t whole = server.create_sequence();
  append(server, whole, tokens, 0, tokens.count);
  const std::int32_t pieces = server.create_sequence();
  for (std::int64_t t = 0; t < tokens.count; ++t) append(server, pieces, tokens, t, t + 1);
  EXPECT_EQ(save(server, pieces), save(server, whole));
  // What is cut off and appended anew leaves nothing of what was there.
  ASSERT_EQ(intflash_sequence_truncate(server.cache(), pieces, 101), INTFLASH_OK);
  append(server, pieces, random_tokens(shape, 150, seed + 1), 101, 140);
  ASSERT_EQ(intflash_sequence_truncate(server.cache(), pieces, 101), INTFLASH_OK);
  append(server, pieces, tokens, 101, tokens.count);
  EXPECT_EQ(save(server, pieces), save(server, whole));
}

double relative_error(const std::vector<float>& found, const std::vector<float>& exact) {
  double difference = 0, magnitude = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    difference += static_cast<double>(std::fabs(found[i] - exact[i]));
    magnitude += static_cast<double>(std::fabs(exact[i]));
  }
  return difference / magnitude;
}

Request last_rows(const Server& server, std::int32_t sequence, const Tokens& tokens,
                  std::int64_t query_len) {
  Request request = server.request_of(sequence);
  request.query_len = query_len;
  request.query = tokens.query.data();
  return request;
}

}  // namespace intflash::internal::serving
