// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Cache codecs: another one than int8 goes through all that a cache does, on every port; and
// caches, plans and files say theirs.
#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "cache/kv_cache.h"
#include "cache_uses.h"
#include "negated_codec.h"
#include "seed.h"
#include "serving_input.h"
#include "test_ports.h"

namespace intflash::internal::serving {
namespace {

// ---- All that a cache does ----

// Several spans, and tiles that pass over them together.
std::vector<Result> use_spans(const Shape& shape, const Tokens& tokens) {
  Server server(shape);
  const std::int32_t sequence = server.create_sequence();
  append(server, sequence, tokens, 0, tokens.count - 8);
  std::vector<Result> attended;
  for (const std::int64_t query_len : {1, 6, 90})
    attended.push_back(server.attend({last_rows(server, sequence, tokens, query_len)}).front());
  return attended;
}

// What does not depend on what bytes mean.
Outcome results_of(const Shape& shape, std::uint32_t seed) {
  Outcome outcome = outcome_of(shape, seed);
  outcome.saved.clear();
  return outcome;
}

TEST(Codec, OfNegatedCodesGivesTheBitsOfInt8OnEveryPort) {
  const auto seed = static_cast<std::uint32_t>(seed_from_test_name());
  for (Shape shape : cache_shapes()) {
    const Outcome expected = results_of(shape, seed);
    for (const PortEntry& port : all_test_ports()) {
      const NegatedPort negated(port);
      shape.port = &negated.entry;
      shape.codec = &kNegatedCodec;
      EXPECT_EQ(results_of(shape, seed), expected) << port.name << " head_dim " << shape.head_dim;
    }
  }
}

TEST(Codec, OfNegatedCodesGivesTheBitsOfInt8OverSeveralSpansOnEveryPort) {
  Shape shape;
  shape.num_kv_heads = 1;
  const Tokens tokens = random_tokens(shape, quick_length(3 * 1024 + 200, 2 * 1024 + 200),
                                      static_cast<std::uint32_t>(seed_from_test_name()));
  const std::vector<Result> expected = use_spans(shape, tokens);
  for (const PortEntry& port : all_test_ports()) {
    const NegatedPort negated(port);
    shape.port = &negated.entry;
    shape.codec = &kNegatedCodec;
    EXPECT_EQ(use_spans(shape, tokens), expected) << port.name;
  }
}

TEST(Codec, OfTwoDigitsGivesTheBitsOfScalarOnEveryPort) {
  const auto seed = static_cast<std::uint32_t>(seed_from_test_name());
  for (Shape shape : cache_shapes()) {
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
  options.codec = static_cast<intflash_codec>(7);
  expect(INTFLASH_INVALID_ARGUMENT,
         "codec = 7: must be one of 0 (int8), 1 (int8_wide), 2 (k8v4), 3 (k4v4), 4 (k4v2), 5 "
         "(k2v2), 6 (k8v16)");
  options.codec = static_cast<intflash_codec>(-1);
  expect(INTFLASH_INVALID_ARGUMENT,
         "codec = -1: must be one of 0 (int8), 1 (int8_wide), 2 (k8v4), 3 (k4v4), 4 (k4v2), 5 "
         "(k2v2), 6 (k8v16)");
  options.codec = INTFLASH_CODEC_INT8;
  options.page_layout_version = 2;
  expect(INTFLASH_UNSUPPORTED,
         "page_layout_version = 2: pages of codec int8 have version 1, or 0 for the newest");
  options.page_layout_version = INTFLASH_PAGE_LAYOUT_VERSION;
  ASSERT_EQ(intflash_cache_create(input.context, &options, &cache), INTFLASH_OK);
  intflash_cache_destroy(cache);
}

TEST(Codec, BlocksAreExpandedOnceForTheRowsOfAKvHead) {
  constexpr std::int64_t kNumBlocks = 20;
  for (const PortEntry& port : all_test_ports()) {
    const NegatedPort negated(port);
    Shape shape;
    shape.codec = &kNegatedCodec;
    shape.port = &negated.entry;
    shape.group_size = 8;
    Server server(shape);
    const Tokens tokens = random_tokens(shape, kNumBlocks * kBlockTokens, seed_from_test_name());
    const std::int32_t sequence = server.create_sequence();
    append(server, sequence, tokens, 0, tokens.count);
    for (const std::int64_t query_len : {1, 4, 12}) {
      num_expanded_blocks = 0;
      server.attend({last_rows(server, sequence, tokens, query_len)});
      EXPECT_EQ(num_expanded_blocks, shape.num_kv_heads * kNumBlocks)
          << port.name << ", " << query_len << " queries";
    }
  }
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
  EXPECT_NE(message.find("codec int8, window_blocks 0 and sink_blocks 0: the plan is for "),
            std::string::npos)
      << message;
  EXPECT_NE(message.find("codec negated"), std::string::npos) << message;
}

}  // namespace
}  // namespace intflash::internal::serving
