// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Cache codecs: another one than int8 goes through all that a cache does, on every port; and
// caches, plans and files say theirs.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "cache/kv_cache.h"
#include "negated_codec.h"
#include "seed.h"
#include "serving.h"
#include "serving_input.h"
#include "test_ports.h"

namespace intflash::internal::serving {
namespace {

using File = std::vector<char>;

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

// ---- All that a cache does ----

// What a cache has given back, in the order in which it was asked.
struct Outcome {
  std::vector<Result> attended;
  std::vector<std::vector<float>> exported;

  bool operator==(const Outcome&) const = default;
};

void attend(const Server& server, const std::vector<Request>& requests, Outcome& outcome,
            float score_cap = 0, const std::vector<intflash_shared_prefix>& prefixes = {}) {
  for (Result& result : server.attend(requests, score_cap, prefixes))
    outcome.attended.push_back(std::move(result));
}

// The last rows of a sequence.
Request last_rows(const Server& server, std::int32_t sequence, const Tokens& tokens,
                  std::int64_t query_len) {
  Request request = server.request_of(sequence);
  request.query_len = query_len;
  request.query = tokens.query.data();
  return request;
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

// To all layers, each of which gets other rows.
void append(Server& server, std::int32_t sequence, const Tokens& tokens, std::int64_t begin,
            std::int64_t end) {
  for (server.layer = 0; server.layer < server.shape().num_layers; ++server.layer) {
    const std::int64_t first = server.layer * 5 + begin;
    ASSERT_EQ(server.append(sequence, tokens, first, first + end - begin), INTFLASH_OK)
        << intflash_last_error();
  }
  server.layer = server.shape().num_layers - 1;
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

// Several spans, and tiles that pass over them together.
void use_spans(const Shape& shape, const Tokens& tokens, Outcome& outcome) {
  Server server(shape);
  const std::int32_t sequence = server.create_sequence();
  append(server, sequence, tokens, 0, tokens.count - 8);
  for (const std::int64_t query_len : {1, 6, 90})
    attend(server, {last_rows(server, sequence, tokens, query_len)}, outcome);
}

Outcome outcome_of(const Shape& shape, std::uint32_t seed) {
  Outcome outcome;
  use_sequences(shape, random_tokens(shape, 360, seed), outcome);
  use_pages(shape, random_tokens(shape, 140, seed + 1), outcome);
  return outcome;
}

std::vector<Shape> shapes() {
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

TEST(Codec, OfNegatedCodesGivesTheBitsOfInt8OnEveryPort) {
  const auto seed = static_cast<std::uint32_t>(seed_from_test_name());
  for (Shape shape : shapes()) {
    const Outcome expected = outcome_of(shape, seed);
    for (const PortEntry& port : all_test_ports()) {
      const NegatedPort negated(port);
      shape.port = &negated.entry;
      shape.codec = &kNegatedCodec;
      EXPECT_EQ(outcome_of(shape, seed), expected) << port.name << " head_dim " << shape.head_dim;
    }
  }
}

TEST(Codec, OfNegatedCodesGivesTheBitsOfInt8OverSeveralSpansOnEveryPort) {
  Shape shape;
  shape.num_kv_heads = 1;
  const Tokens tokens = random_tokens(shape, quick_length(3 * 1024 + 200, 2 * 1024 + 200),
                                      static_cast<std::uint32_t>(seed_from_test_name()));
  Outcome expected;
  use_spans(shape, tokens, expected);
  for (const PortEntry& port : all_test_ports()) {
    const NegatedPort negated(port);
    shape.port = &negated.entry;
    shape.codec = &kNegatedCodec;
    Outcome outcome;
    use_spans(shape, tokens, outcome);
    EXPECT_EQ(outcome, expected) << port.name;
  }
}

TEST(Codec, OfTwoDigitsGivesTheBitsOfScalarOnEveryPort) {
  const auto seed = static_cast<std::uint32_t>(seed_from_test_name());
  for (Shape shape : shapes()) {
    shape.codec = &kInt8WideCodec;
    for (const std::int32_t score_digits : {0, 2}) {
      shape.score_digits = score_digits;
      const PortEntry scalar = scalar_port();
      shape.port = &scalar;
      const Outcome expected = outcome_of(shape, seed);
      for (const PortEntry& port : all_test_ports()) {
        shape.port = &port;
        EXPECT_EQ(outcome_of(shape, seed), expected) << port.name << " head_dim " << shape.head_dim;
      }
    }
  }
}

// ---- What says a codec ----

TEST(Codec, OfACacheIsWhatItsInfoAndSupportSay) {
  const NegatedPort negated(scalar_port());
  const auto expect = [](const Shape& shape, std::int32_t id, const char* name) {
    const Server server(shape);
    intflash_cache_info cache{};
    cache.struct_size = sizeof cache;
    ASSERT_EQ(intflash_cache_get_info(server.cache(), &cache), INTFLASH_OK);
    EXPECT_EQ(static_cast<std::int32_t>(cache.codec), id);
    EXPECT_EQ(cache.page_layout_version, 1);
    const BatchCall call(shape, {});
    intflash_plan_info plan{};
    plan.struct_size = sizeof plan;
    ASSERT_EQ(intflash_query_batch_support(server.context(), server.cache(), &call.desc, &plan),
              INTFLASH_OK)
        << intflash_last_error();
    EXPECT_STREQ(plan.codec, name);
  };
  Shape shape;
  expect(shape, INTFLASH_CODEC_INT8, "int8");
  shape.port = &negated.entry;
  shape.codec = &kNegatedCodec;
  expect(shape, kMaxCodecs - 1, "negated");
}

TEST(Codec, ThatIsNotThereIsRefusedWithWhatThereIs) {
  const ServingInput input;
  intflash_cache_options options = input.cache_options();
  intflash_cache* cache = nullptr;
  const auto expect = [&](intflash_status status, const char* message) {
    EXPECT_EQ(intflash_cache_create(input.context, &options, &cache), status);
    EXPECT_STREQ(intflash_last_error(), message);
    EXPECT_EQ(cache, nullptr);
  };
  options.codec = static_cast<intflash_codec>(2);
  expect(INTFLASH_INVALID_ARGUMENT, "codec = 2: must be one of 0 (int8), 1 (int8_wide)");
  options.codec = static_cast<intflash_codec>(-1);
  expect(INTFLASH_INVALID_ARGUMENT, "codec = -1: must be one of 0 (int8), 1 (int8_wide)");
  options.codec = INTFLASH_CODEC_INT8;
  options.page_layout_version = 2;
  expect(INTFLASH_UNSUPPORTED,
         "page_layout_version = 2: pages of codec int8 have version 1, or 0 for the newest");
  options.page_layout_version = INTFLASH_PAGE_LAYOUT_VERSION;
  ASSERT_EQ(intflash_cache_create(input.context, &options, &cache), INTFLASH_OK);
  intflash_cache_destroy(cache);
}

TEST(Codec, ThatAPortDoesNotExpandIsRefused) {
  const ServingInput input;
  intflash_cache* cache = nullptr;
  EXPECT_EQ(create_cache(*input.context, input.cache_options(), kNegatedCodec, cache),
            INTFLASH_UNSUPPORTED);
  EXPECT_EQ(intflash_last_error(), "codec = 7 (negated): port " +
                                       std::string(intflash_context_port(input.context)) +
                                       " does not expand its blocks");
  EXPECT_EQ(cache, nullptr);
  const NegatedPort negated(scalar_port());
  Shape shape;
  shape.port = &negated.entry;
  shape.codec = &kNegatedCodec;
  const Server server(shape);
  const BatchCall call(shape, {});
  EXPECT_EQ(intflash_query_batch_support(input.context, server.cache(), &call.desc, nullptr),
            INTFLASH_UNSUPPORTED);
}

TEST(Codec, OfAFileOrAPlanIsTheCachesOrBothAreNamed) {
  const NegatedPort negated(scalar_port());
  Shape shape;
  const Server int8(shape);
  shape.port = &negated.entry;
  shape.codec = &kNegatedCodec;
  const Server other(shape);
  std::int32_t created = -1;
  std::int32_t sequence = -1;
  ASSERT_EQ(intflash_sequence_create(int8.cache(), &created), INTFLASH_OK);
  EXPECT_EQ(load(other, save(int8, created), sequence), INTFLASH_BAD_FILE);
  EXPECT_STREQ(intflash_last_error(),
               "byte 12: codec = 0 (int8) in the file, 7 (negated) in the cache");
  ASSERT_EQ(intflash_sequence_create(other.cache(), &created), INTFLASH_OK);
  EXPECT_EQ(load(int8, save(other, created), sequence), INTFLASH_BAD_FILE);
  EXPECT_STREQ(intflash_last_error(),
               "byte 12: codec = 7 (unknown) in the file, 0 (int8) in the cache");
  EXPECT_EQ(sequence, -1);

  BatchCall call(shape, {});
  ASSERT_EQ(call.make_plan(other.context(), other.cache()), INTFLASH_OK);
  EXPECT_EQ(call.run(int8.cache()), INTFLASH_BAD_SHAPE);
  const std::string message = intflash_last_error();
  EXPECT_NE(message.find("codec int8: the plan is for "), std::string::npos) << message;
  EXPECT_NE(message.find("codec negated"), std::string::npos) << message;
}

}  // namespace
}  // namespace intflash::internal::serving
