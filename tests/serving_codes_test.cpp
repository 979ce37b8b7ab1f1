// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Rows that come as INT8 codes with scales, appended to a cache and attended there: the bits of the
// dense call over the same codes; and what of them is refused.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "serving.h"
#include "test_ports.h"

namespace intflash::internal::serving {
namespace {

// Rows of one tensor: [tokens][heads][dim], and scales [heads][tokens / scale_block], or one for
// all tokens.
struct Codes {
  std::vector<std::int8_t> codes;
  std::vector<float> scales;
  std::int64_t heads, dim, scale_block, scales_per_head;

  // From a token on, which begins a block of scales.
  intflash_tensor tensor(std::int64_t first = 0) {
    intflash_tensor tensor{};
    tensor.data = codes.data() + first * heads * dim;
    tensor.stride_head = dim;
    tensor.stride_token = heads * dim;
    tensor.scale = scales.data() + (scale_block == 0 ? 0 : first / scale_block);
    tensor.scale_stride_head = scales_per_head;
    tensor.scale_block = scale_block;
    return tensor;
  }
};

Codes random_codes(std::int64_t tokens, std::int64_t heads, std::int64_t dim,
                   std::int64_t scale_block, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> code(-127, 127);
  std::uniform_real_distribution<float> scale(0.001f, 0.03f);
  const std::int64_t scales = scale_block == 0 ? 1 : (tokens + scale_block - 1) / scale_block;
  Codes rows{std::vector<std::int8_t>(static_cast<std::size_t>(tokens * heads * dim)),
             std::vector<float>(static_cast<std::size_t>(heads * scales)),
             heads,
             dim,
             scale_block,
             scales};
  for (std::int8_t& value : rows.codes) value = static_cast<std::int8_t>(code(random));
  for (float& value : rows.scales) value = scale(random);
  if (scale_block == 1) rows.scales.back() = 0x1p-110f;  // counts as zero
  return rows;
}

// A server and the codes of one request: query rows of its last tokens, keys and values of all.
struct CodeServer {
  explicit CodeServer(const Shape& shape, std::int64_t count = 200, std::int64_t scale_block = 1)
      : server(shape),
        count(count),
        query(random_codes(count, shape.num_query_heads(), shape.head_dim, scale_block, 1)),
        key(random_codes(count, shape.num_kv_heads, shape.head_dim, scale_block, 2)),
        value(random_codes(count, shape.num_kv_heads, shape.head_dim_v, scale_block, 3)),
        sequence(server.create_sequence()) {}

  intflash_append_args append_args(std::int64_t begin) {
    intflash_append_args args{};
    args.struct_size = sizeof args;
    args.num_requests = 1;
    args.key_dtype = args.value_dtype = INTFLASH_INT8;
    args.key = key.tensor(begin);
    args.value = value.tensor(begin);
    return args;
  }
  intflash_status append(std::int64_t begin, std::int64_t end) {
    return server.append(sequence, end - begin, append_args(begin));
  }

  Server server;
  std::int64_t count;
  Codes query, key, value;
  std::int32_t sequence;
};

// The sequence's requests, each of some query rows that end at a token.
struct CodeBatch {
  CodeBatch(CodeServer& codes, std::vector<std::int64_t> query_lens)
      : floats(random_tokens(codes.server.shape(), codes.count, 9)) {
    std::vector<Request> requests;
    for (const std::int64_t query_len : query_lens) {
      Request request = codes.server.request_of(codes.sequence);
      request.query_len = query_len;
      request.query = floats.query.data();
      requests.push_back(request);
    }
    call.emplace(codes.server.shape(), requests);
    call->desc.query_dtype = INTFLASH_INT8;
    call->args.query = codes.query.tensor();
  }

  Tokens floats;
  std::optional<BatchCall> call;
};

Result attend_dense(CodeServer& codes, std::int64_t first_query, std::int64_t query_len) {
  const Shape& shape = codes.server.shape();
  intflash_attend_desc desc{};
  desc.struct_size = sizeof desc;
  desc.batch = 1;
  desc.num_query_heads = shape.num_query_heads();
  desc.num_kv_heads = shape.num_kv_heads;
  desc.query_len = query_len;
  desc.kv_len = codes.count;
  desc.head_dim = shape.head_dim;
  desc.head_dim_v = shape.head_dim_v;
  desc.query_dtype = desc.key_dtype = desc.value_dtype = INTFLASH_INT8;
  desc.out_dtype = INTFLASH_F32;
  desc.mask = INTFLASH_MASK_CAUSAL;
  const auto rows = static_cast<std::size_t>(query_len * shape.num_query_heads());
  Result result{std::vector<float>(rows * static_cast<std::size_t>(shape.head_dim_v)),
                std::vector<float>(rows)};
  intflash_attend_args args{};
  args.struct_size = sizeof args;
  args.query = codes.query.tensor(first_query);
  args.key = codes.key.tensor();
  args.value = codes.value.tensor();
  args.out = tensor_of(result.out.data(), shape.num_query_heads(), shape.head_dim_v);
  args.lse = result.lse.data();
  EXPECT_EQ(intflash_attend(codes.server.context(), &desc, &args), INTFLASH_OK)
      << intflash_last_error();
  return result;
}

TEST(ServingCodes, GiveTheDenseCallsBitsOnEveryPort) {
  for (const PortEntry& port : all_test_ports()) {
    SCOPED_TRACE(port.name);
    Shape shape;
    shape.head_dim_v = 24;
    shape.port = &port;
    CodeServer codes(shape);
    for (const std::int64_t end : {64, 70, 71, 200}) {
      const std::int64_t begin = codes.server.request_of(codes.sequence).kv_len;
      ASSERT_EQ(codes.append(begin, end), INTFLASH_OK) << intflash_last_error();
    }
    CodeBatch batch(codes, {40, 1});
    ASSERT_EQ(batch.call->make_plan(codes.server.context(), codes.server.cache()), INTFLASH_OK)
        << intflash_last_error();
    ASSERT_EQ(batch.call->run(codes.server.cache()), INTFLASH_OK) << intflash_last_error();
    const std::vector<Result> results = batch.call->results();
    EXPECT_EQ(results[0], attend_dense(codes, 0, 40));
    EXPECT_EQ(results[1], attend_dense(codes, 40, 1));
  }
}

TEST(ServingCodes, MayShareAScaleByBlockOrAltogether) {
  for (const std::int64_t scale_block : {7, 0}) {
    CodeServer codes(Shape{}, 150, scale_block);
    ASSERT_EQ(codes.append(0, 150), INTFLASH_OK) << intflash_last_error();
    CodeBatch batch(codes, {14, 5});
    ASSERT_EQ(batch.call->make_plan(codes.server.context(), codes.server.cache()), INTFLASH_OK);
    ASSERT_EQ(batch.call->run(codes.server.cache()), INTFLASH_OK) << intflash_last_error();
    const std::vector<Result> results = batch.call->results();
    EXPECT_EQ(results[0], attend_dense(codes, 0, 14));
    EXPECT_EQ(results[1], attend_dense(codes, 14, 5));
  }
}

TEST(ServingCodes, AreExportedAsCodeTimesScale) {
  CodeServer codes{Shape{}};
  ASSERT_EQ(codes.append(0, 200), INTFLASH_OK) << intflash_last_error();
  std::vector<float> key(codes.key.codes.size());
  const intflash_tensor tensor = tensor_of(key.data(), 2, 32);
  ASSERT_EQ(
      intflash_sequence_export(codes.server.cache(), codes.sequence, 0, 200, &tensor, nullptr),
      INTFLASH_OK);
  for (std::size_t i = 0; i < key.size() - 32; ++i) {
    const float scale = codes.key.scales[i / 32 % 2 * 200 + i / 64];
    ASSERT_EQ(key[i], static_cast<float>(codes.key.codes[i]) * scale) << i;
  }
  EXPECT_EQ(key.back(), 0.0f);  // of the scale that counts as zero
}

TEST(ServingCodes, OfZeroMayHaveTheScaleZero) {
  CodeServer codes{Shape{}};
  for (Codes* rows : {&codes.key, &codes.value}) {
    std::fill_n(rows->codes.begin() + 7 * 2 * 32, 32, std::int8_t{0});
    rows->scales[7] = 0;
  }
  EXPECT_EQ(codes.append(0, 200), INTFLASH_OK) << intflash_last_error();
}

// ---- What is refused ----

void expect_refusal(intflash_status found, intflash_status status, const std::string& message) {
  EXPECT_STREQ(intflash_status_name(found), intflash_status_name(status));
  EXPECT_EQ(std::string(intflash_last_error()).find(message), 0u) << intflash_last_error();
}

TEST(ServingCodes, ThatCannotBeStoredAreNamedByRequestTokenAndHead) {
  const auto refuse = [](auto spoil, intflash_status status, const std::string& message) {
    CodeServer codes{Shape{}};
    spoil(codes);
    expect_refusal(codes.append(0, 200), status, message);
    EXPECT_EQ(codes.server.request_of(codes.sequence).kv_len, 0);
  };
  refuse([](CodeServer& c) { c.key.codes[(3 * 2 + 1) * 32 + 5] = -128; }, INTFLASH_INVALID_ARGUMENT,
         "key[request 0][token 3][head 1][5] = -128: codes must be -127 ... 127");
  refuse([](CodeServer& c) { c.value.codes[190 * 2 * 32] = -128; }, INTFLASH_INVALID_ARGUMENT,
         "value[request 0][token 190][head 0][0] = -128");
  refuse([](CodeServer& c) { c.key.scales[200 + 7] = 0; }, INTFLASH_BAD_SCALE,
         "key.scale[request 0][token 7][head 1] = 0: must be finite, > 0");
  refuse([](CodeServer& c) { c.key.scales[7] = NAN; }, INTFLASH_BAD_SCALE,
         "key.scale[request 0][token 7][head 0] = nan");
  refuse([](CodeServer& c) { c.value.scales[7] = -1; }, INTFLASH_BAD_SCALE,
         "value.scale[request 0][token 7][head 0] = -1");
  refuse([](CodeServer& c) { c.key.scales[7] = 0x1p94f; }, INTFLASH_SCORE_OVERFLOW,
         "key.scale[request 0][token 7][head 0]");
}

TEST(ServingCodes, OfTokensWithoutASlotAreNotRead) {
  CodeServer codes(Shape{}, 3);
  codes.key.scales[1] = NAN;
  codes.value.codes[2 * 32] = -128;
  const std::int64_t token_indptr[] = {0, 3};
  const std::int64_t slots[] = {64, -1, 65};
  intflash_append_args args = codes.append_args(0);
  args.token_indptr = token_indptr;
  args.slots = slots;
  EXPECT_EQ(intflash_cache_append(codes.server.cache(), &args), INTFLASH_OK)
      << intflash_last_error();
}

TEST(ServingCodes, ThatWouldHaveToChangeAreUnsupported) {
  const std::vector<float> turns(200 * 16, 1.0f);
  const intflash_rope rope{turns.data(), turns.data(), 200, 32, INTFLASH_ROPE_HALVES};
  CodeServer codes{Shape{}};
  intflash_append_args args = codes.append_args(0);
  args.rope = rope;
  expect_refusal(codes.server.append(codes.sequence, 200, args), INTFLASH_UNSUPPORTED,
                 "key_dtype = INT8 with rope");
  ASSERT_EQ(codes.append(0, 200), INTFLASH_OK);
  CodeBatch batch(codes, {1});
  batch.call->args.rope = rope;
  ASSERT_EQ(batch.call->make_plan(codes.server.context(), codes.server.cache()), INTFLASH_OK);
  expect_refusal(batch.call->run(codes.server.cache()), INTFLASH_UNSUPPORTED,
                 "rope with a query in INT8");

  Shape rotated;
  rotated.rotate = true;
  CodeServer turned(rotated);
  expect_refusal(turned.append(0, 200), INTFLASH_UNSUPPORTED,
                 "key_dtype = INT8 with a cache that rotates keys");
  CodeBatch of_turned(turned, {0});
  expect_refusal(of_turned.call->make_plan(turned.server.context(), turned.server.cache()),
                 INTFLASH_UNSUPPORTED, "query_dtype = INT8 over a cache that rotates keys");

  Shape centered;
  centered.centered = true;
  CodeServer shifted(centered);
  expect_refusal(shifted.append(0, 200), INTFLASH_UNSUPPORTED,
                 "key_dtype = INT8 with a cache with key_center");
  args = shifted.append_args(0);
  args.key_dtype = INTFLASH_F32;
  const std::vector<float> key(200 * 64);
  args.key = tensor_of(key.data(), 2, 32);
  expect_refusal(shifted.server.append(shifted.sequence, 200, args), INTFLASH_UNSUPPORTED,
                 "value_dtype = INT8 with a cache with value_center");
}

TEST(ServingCodes, OfAQueryAreCheckedAsDenseCallsCheckThem) {
  CodeServer codes{Shape{}};
  ASSERT_EQ(codes.append(0, 200), INTFLASH_OK);
  CodeBatch batch(codes, {3, 2});
  ASSERT_EQ(batch.call->make_plan(codes.server.context(), codes.server.cache()), INTFLASH_OK);
  codes.query.codes[(4 * 4 + 2) * 32 + 1] = -128;
  expect_refusal(batch.call->run(codes.server.cache()), INTFLASH_INVALID_ARGUMENT,
                 "query[batch 0][head 2][token 4][1] = -128: codes must be -127 ... 127");
  codes.query.scales[200 + 4] = 0;
  expect_refusal(batch.call->run(codes.server.cache()), INTFLASH_BAD_SCALE,
                 "query.scale[batch 0][head 1][4] = 0");
  batch.call->args.query.scale = nullptr;
  expect_refusal(batch.call->run(codes.server.cache()), INTFLASH_INVALID_ARGUMENT,
                 "query.scale = NULL");
}

TEST(ServingCodes, WithHugeScalesAreCountedByTheRangeOfScores) {
  CodeServer codes{Shape{}};
  codes.key.scales[0] = 0x1p90f;
  ASSERT_EQ(codes.append(0, 200), INTFLASH_OK) << intflash_last_error();
  CodeBatch batch(codes, {1});
  ASSERT_EQ(batch.call->make_plan(codes.server.context(), codes.server.cache()), INTFLASH_OK);
  EXPECT_EQ(batch.call->run(codes.server.cache()), INTFLASH_OK) << intflash_last_error();
  codes.query.scales[0] = 0x1p40f;
  expect_refusal(batch.call->run(codes.server.cache()), INTFLASH_SCORE_OVERFLOW, "query and key");
}

}  // namespace
}  // namespace intflash::internal::serving
