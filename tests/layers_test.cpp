// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Caches of several layers: one table of pages for all of them, and tokens in each.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "serving.h"

namespace intflash::internal::serving {
namespace {

constexpr std::int64_t kLayers = 3;

Shape layered_shape() {
  Shape shape;
  shape.num_layers = kLayers;
  shape.centered = true;
  return shape;
}

// A step through all layers; tokens[l] are those of layer l.
void append_step(Server& server, std::int32_t sequence, const std::vector<Tokens>& tokens,
                 std::int64_t begin, std::int64_t end) {
  for (server.layer = 0; server.layer < server.shape().num_layers; ++server.layer) {
    ASSERT_EQ(server.append(sequence, tokens[static_cast<std::size_t>(server.layer)], begin, end),
              INTFLASH_OK)
        << intflash_last_error();
  }
}

std::vector<Tokens> tokens_of_layers(const Shape& shape, std::int64_t count) {
  std::vector<Tokens> tokens;
  for (std::int64_t l = 0; l < shape.num_layers; ++l)
    tokens.push_back(random_tokens(shape, count, static_cast<std::uint32_t>(10 + l)));
  return tokens;
}

void expect_dense_bits(Server& server, std::int32_t sequence, const std::vector<Tokens>& tokens) {
  for (server.layer = 0; server.layer < server.shape().num_layers; ++server.layer) {
    const Tokens& own = tokens[static_cast<std::size_t>(server.layer)];
    Request request = server.request_of(sequence);
    request.query = own.query.data();
    EXPECT_EQ(server.attend({request})[0], server.attend_dense(own, request))
        << "layer " << server.layer;
  }
}

TEST(Layers, EachGivesTheDenseCallsBitsOfItsTokensAndCentres) {
  Server server(layered_shape());
  const std::vector<Tokens> tokens = tokens_of_layers(server.shape(), 150);
  const std::int32_t sequence = server.create_sequence();
  append_step(server, sequence, tokens, 0, 100);
  append_step(server, sequence, tokens, 100, 150);
  expect_dense_bits(server, sequence, tokens);
}

TEST(Layers, OfForksAreTheirOwnFromThereOn) {
  Server server(layered_shape());
  const std::vector<Tokens> tokens = tokens_of_layers(server.shape(), 150);
  std::vector<Tokens> other = tokens;
  for (Tokens& own : other) {
    const Tokens rest = random_tokens(server.shape(), 50, 77);
    std::copy(rest.key.begin(), rest.key.end(), own.key.end() - 50 * 2 * 32);
    std::copy(rest.value.begin(), rest.value.end(), own.value.end() - 50 * 2 * 32);
  }
  const std::int32_t sequence = server.create_sequence();
  append_step(server, sequence, tokens, 0, 100);
  std::int32_t fork = -1;
  ASSERT_EQ(intflash_sequence_fork(server.cache(), sequence, &fork), INTFLASH_OK);
  append_step(server, fork, other, 100, 150);
  append_step(server, sequence, tokens, 100, 150);
  expect_dense_bits(server, sequence, tokens);
  expect_dense_bits(server, fork, other);
}

TEST(Layers, WhereThePoolIsExhaustedAllAreAsTheyWere) {
  Shape shape = layered_shape();
  shape.num_pages = 2;
  Server server(shape);
  const std::vector<Tokens> tokens = tokens_of_layers(shape, 200);
  const std::int32_t sequence = server.create_sequence();
  append_step(server, sequence, tokens, 0, 100);
  server.layer = 0;
  EXPECT_EQ(server.append(sequence, tokens[0], 100, 129), INTFLASH_POOL_EXHAUSTED);
  EXPECT_EQ(server.free_pages(), 0);
  append_step(server, sequence, tokens, 100, 128);
  std::vector<Tokens> held = tokens;
  for (Tokens& own : held) {
    own.key.resize(128 * 2 * 32);
    own.value.resize(128 * 2 * 32);
  }
  expect_dense_bits(server, sequence, held);
}

TEST(Layers, BehindTheFirstFollowItAndGoNoFurther) {
  Server server(layered_shape());
  const std::vector<Tokens> tokens = tokens_of_layers(server.shape(), 101);
  const std::int32_t sequence = server.create_sequence();
  server.layer = 2;
  EXPECT_EQ(server.append(sequence, tokens[2], 0, 1), INTFLASH_BAD_SHAPE);
  EXPECT_STREQ(intflash_last_error(),
               "sequences[0] = 0: 1 tokens behind the 0 of layer 2: must be at most 0 together, "
               "those of layer 0");
  server.layer = 0;
  ASSERT_EQ(server.append(sequence, tokens[0], 0, 100), INTFLASH_OK);
  server.layer = 2;
  ASSERT_EQ(server.append(sequence, tokens[2], 0, 70), INTFLASH_OK) << intflash_last_error();
  EXPECT_EQ(server.append(sequence, tokens[2], 70, 101), INTFLASH_BAD_SHAPE);
  ASSERT_EQ(server.append(sequence, tokens[2], 70, 100), INTFLASH_OK) << intflash_last_error();
  server.layer = kLayers;
  EXPECT_EQ(server.append(sequence, tokens[2], 0, 0), INTFLASH_INVALID_ARGUMENT);
  EXPECT_STREQ(intflash_last_error(), "layer = 3: must be 0 ... 2");
}

TEST(Layers, WhatOnlySomeHaveIsTruncatedAndNothingElse) {
  Server server(layered_shape());
  const std::vector<Tokens> tokens = tokens_of_layers(server.shape(), 100);
  const std::int32_t sequence = server.create_sequence();
  append_step(server, sequence, tokens, 0, 70);
  server.layer = 0;
  ASSERT_EQ(server.append(sequence, tokens[0], 70, 100), INTFLASH_OK);
  std::int32_t fork = -7;
  EXPECT_EQ(intflash_sequence_fork(server.cache(), sequence, &fork), INTFLASH_BAD_SHAPE);
  EXPECT_STREQ(
      intflash_last_error(),
      "sequence = 0: layer 1 ends at position 70: must have all tokens up to kv_len = 100");
  EXPECT_EQ(fork, -7);
  const auto write = [](void*, const void*, std::size_t count) { return count; };
  EXPECT_EQ(intflash_sequence_save(server.cache(), sequence, write, nullptr), INTFLASH_BAD_SHAPE);
  EXPECT_EQ(intflash_sequence_export(server.cache(), sequence, 0, 71, nullptr, nullptr),
            INTFLASH_BAD_SHAPE);
  EXPECT_EQ(intflash_sequence_drop_before(server.cache(), sequence, 71), INTFLASH_BAD_SHAPE);
  ASSERT_EQ(intflash_sequence_truncate(server.cache(), sequence, 70), INTFLASH_OK);
  append_step(server, sequence, tokens, 70, 100);
  expect_dense_bits(server, sequence, tokens);
  EXPECT_EQ(intflash_sequence_fork(server.cache(), sequence, &fork), INTFLASH_OK);
}

TEST(Layers, AreSavedAndLoadedTogether) {
  Shape shape = layered_shape();
  Server server(shape);
  const std::vector<Tokens> tokens = tokens_of_layers(shape, 100);
  const std::int32_t sequence = server.create_sequence();
  append_step(server, sequence, tokens, 0, 100);
  std::vector<char> file;
  const auto write = [](void* user, const void* bytes, std::size_t count) {
    const char* first = static_cast<const char*>(bytes);
    auto& to = *static_cast<std::vector<char>*>(user);
    to.insert(to.end(), first, first + count);
    return count;
  };
  ASSERT_EQ(intflash_sequence_save(server.cache(), sequence, write, &file), INTFLASH_OK);
  shape.page_size = 256;
  Server other(shape);
  struct Reader {
    const std::vector<char>& file;
    std::size_t used;
  } reader{file, 0};
  const auto read = [](void* user, void* bytes, std::size_t count) {
    Reader& from = *static_cast<Reader*>(user);
    std::memcpy(bytes, from.file.data() + from.used, count);
    from.used += count;
    return count;
  };
  std::int32_t loaded = -1;
  ASSERT_EQ(intflash_sequence_load(other.cache(), read, &reader, &loaded), INTFLASH_OK)
      << intflash_last_error();
  EXPECT_EQ(reader.used, file.size());
  expect_dense_bits(other, loaded, tokens);
}

TEST(Layers, ArePagesOfOneNumberWhenAPageIsCopied) {
  Server server(layered_shape());
  const std::vector<Tokens> tokens = tokens_of_layers(server.shape(), 64);
  for (server.layer = 0; server.layer < kLayers; ++server.layer)
    server.append(tokens[static_cast<std::size_t>(server.layer)], 0, 64, {5});
  ASSERT_EQ(intflash_cache_copy_page(server.cache(), 5, 9), INTFLASH_OK);
  for (server.layer = 0; server.layer < kLayers; ++server.layer) {
    const Tokens& own = tokens[static_cast<std::size_t>(server.layer)];
    Request request;
    request.kv_len = 64;
    request.pages = {9};
    request.query = own.query.data();
    EXPECT_EQ(server.attend({request})[0], server.attend_dense(own, request));
  }
}

TEST(Layers, ExportGivesAllOfThem) {
  Shape shape = layered_shape();
  shape.num_kv_heads = 1;
  shape.centered = false;
  Server server(shape);
  std::vector<Tokens> tokens = tokens_of_layers(shape, 3);
  // Rows whose largest element is 127 have scale 1, and come back as they were.
  for (std::size_t l = 0; l < tokens.size(); ++l) {
    for (std::size_t i = 0; i < tokens[l].key.size(); ++i)
      tokens[l].key[i] = i % 32 == 0 ? 127.0f : static_cast<float>((i * 7 + l) % 100);
  }
  const std::int32_t sequence = server.create_sequence();
  append_step(server, sequence, tokens, 0, 3);
  std::vector<float> found(kLayers * 3 * 32);
  intflash_tensor key = tensor_of(found.data(), 1, 32);
  key.stride_batch = 3 * 32;
  ASSERT_EQ(intflash_sequence_export(server.cache(), sequence, 0, 3, &key, nullptr), INTFLASH_OK)
      << intflash_last_error();
  std::vector<float> expected;
  for (const Tokens& own : tokens) expected.insert(expected.end(), own.key.begin(), own.key.end());
  EXPECT_EQ(found, expected);
}

TEST(Layers, WithHugeKeysFailNoOthers) {
  Server server(layered_shape());
  std::vector<Tokens> tokens = tokens_of_layers(server.shape(), 10);
  tokens[1].key[3] = 0x1p99f;
  for (Tokens& own : tokens) own.query[0] = 0x1p40f;
  const std::int32_t sequence = server.create_sequence();
  append_step(server, sequence, tokens, 0, 10);
  for (server.layer = 0; server.layer < kLayers; ++server.layer) {
    Request request = server.request_of(sequence);
    request.query = tokens[static_cast<std::size_t>(server.layer)].query.data();
    EXPECT_EQ(server.status_of({request}),
              server.layer == 1 ? INTFLASH_SCORE_OVERFLOW : INTFLASH_OK)
        << intflash_last_error();
  }
}

// ---- Arenas ----

struct Arenas {
  explicit Arenas(std::size_t bytes) : bytes(bytes) {
    for (void*& arena : pointers) {
      memory.push_back(aligned_memory(bytes));
      arena = memory.back().get();
      std::memset(arena, 0x5a, bytes);
    }
  }
  bool is_touched(std::size_t layer) const {
    const char* first = static_cast<const char*>(pointers[layer]);
    return std::any_of(first, first + bytes, [](char byte) { return byte != 0x5a; });
  }

  std::size_t bytes;
  std::vector<AlignedMemory> memory;
  void* pointers[2];
};

TEST(Layers, LieInArenasOfTheirOwn) {
  Shape shape;
  Server server(shape);  // for its context
  Arenas arenas(4 * 2 * 64 * (32 + 32 + 12));
  intflash_cache_options options{};
  options.struct_size = sizeof options;
  options.num_kv_heads = shape.num_kv_heads;
  options.head_dim = shape.head_dim;
  options.num_pages = 4;
  options.num_layers = 2;
  options.layer_arenas = arenas.pointers;
  options.arena_bytes = arenas.bytes;
  intflash_cache* cache = nullptr;
  ASSERT_EQ(intflash_cache_create(server.context(), &options, &cache), INTFLASH_OK)
      << intflash_last_error();
  std::int32_t sequence = -1;
  ASSERT_EQ(intflash_sequence_create(cache, &sequence), INTFLASH_OK);
  const Tokens tokens = random_tokens(shape, 5, 1);
  const std::int64_t token_indptr[] = {0, 5};
  intflash_append_args append = append_args(shape, tokens, 0);
  append.token_indptr = token_indptr;
  ASSERT_EQ(intflash_sequences_append(cache, &sequence, &append), INTFLASH_OK);
  EXPECT_TRUE(arenas.is_touched(0));
  EXPECT_FALSE(arenas.is_touched(1));
  append.layer = 1;
  ASSERT_EQ(intflash_sequences_append(cache, &sequence, &append), INTFLASH_OK);
  EXPECT_EQ(std::memcmp(arenas.pointers[0], arenas.pointers[1], arenas.bytes), 0);
  intflash_cache_destroy(cache);

  --options.arena_bytes;
  EXPECT_EQ(intflash_cache_create(server.context(), &options, &cache), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(intflash_last_error()).find("layer_arenas[0]"), 0u);
  ++options.arena_bytes;
  arenas.pointers[1] = nullptr;
  EXPECT_EQ(intflash_cache_create(server.context(), &options, &cache), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(intflash_last_error()).find("layer_arenas[1] = "), 0u);
  options.arena = arenas.pointers[0];
  EXPECT_EQ(intflash_cache_create(server.context(), &options, &cache), INTFLASH_INVALID_ARGUMENT);
  EXPECT_NE(std::string(intflash_last_error()).find("at most one of both"), std::string::npos);
  options.layer_arenas = nullptr;
  EXPECT_EQ(intflash_cache_create(server.context(), &options, &cache), INTFLASH_INVALID_ARGUMENT);
  EXPECT_NE(std::string(intflash_last_error()).find("must be 77824 bytes"), std::string::npos)
      << intflash_last_error();
}

// ---- Sequences in place of pages ----

// A batch over two sequences of 100 and 30 tokens.
struct SequenceBatch {
  SequenceBatch() {
    sequences[0] = server.create_sequence();
    sequences[1] = server.create_sequence();
    append_step(server, sequences[0], tokens, 0, 100);
    append_step(server, sequences[1], tokens, 0, 30);
    server.layer = 1;
  }
  std::vector<Request> requests() const {
    std::vector<Request> requests;
    for (const std::int32_t sequence : sequences) {
      requests.push_back(server.request_of(sequence));
      requests.back().query = tokens[1].query.data();
    }
    return requests;
  }
  void take_sequences(BatchCall& batch) const {
    batch.args.layer = server.layer;
    batch.args.sequences = sequences;
    batch.args.pages = {};
    EXPECT_EQ(batch.make_plan(server.context(), server.cache()), INTFLASH_OK);
  }
  void expect_refusal(BatchCall& batch, intflash_status status, const char* part) const {
    EXPECT_EQ(batch.run(server.cache()), status);
    EXPECT_NE(std::string(intflash_last_error()).find(part), std::string::npos)
        << intflash_last_error();
  }

  Server server{layered_shape()};
  const std::vector<Tokens> tokens = tokens_of_layers(server.shape(), 130);
  std::int32_t sequences[2];
};

TEST(SequenceBatches, GiveTheBitsOfTheirPageTables) {
  SequenceBatch batches;
  BatchCall batch(batches.server.shape(), batches.requests());
  batches.take_sequences(batch);
  ASSERT_EQ(batch.run(batches.server.cache()), INTFLASH_OK) << intflash_last_error();
  EXPECT_EQ(batch.results(), batches.server.attend(batches.requests()));
}

TEST(SequenceBatches, ShareThePagesOfForks) {
  SequenceBatch batches;
  ASSERT_EQ(intflash_sequence_free(batches.server.cache(), batches.sequences[1]), INTFLASH_OK);
  append_step(batches.server, batches.sequences[0], batches.tokens, 100, 130);
  ASSERT_EQ(
      intflash_sequence_fork(batches.server.cache(), batches.sequences[0], &batches.sequences[1]),
      INTFLASH_OK);
  batches.server.layer = 2;
  BatchCall batch(batches.server.shape(), batches.requests());
  batch.share({{0, 2, 128}});
  batches.take_sequences(batch);
  ASSERT_EQ(batch.run(batches.server.cache()), INTFLASH_OK) << intflash_last_error();
  EXPECT_EQ(batch.results(), batches.server.attend(batches.requests()));
}

TEST(SequenceBatches, AreRefusedByNameValueAndRule) {
  SequenceBatch batches;
  BatchCall batch(batches.server.shape(), batches.requests());
  batches.take_sequences(batch);
  batch.args.pages = {batch.page_indptr.data(), batch.page_ids.data()};
  batches.expect_refusal(batch, INTFLASH_INVALID_ARGUMENT, "exactly one of both");
  batch.args.sequences = nullptr;
  batch.args.pages = {};
  batches.expect_refusal(batch, INTFLASH_INVALID_ARGUMENT, "page_indptr = NULL");
  batch.args.sequences = batches.sequences;
  batch.args.layer = 3;
  batches.expect_refusal(batch, INTFLASH_INVALID_ARGUMENT, "layer = 3: must be 0 ... 2");
  batch.args.layer = 1;
  std::swap(batches.sequences[0], batches.sequences[1]);
  batches.expect_refusal(batch, INTFLASH_BAD_SHAPE,
                         "sequences[0] = 1: positions 0 ... 30 in layer 1: the plan's request has "
                         "0 ... 100");
  batches.sequences[0] = 7;
  batches.expect_refusal(batch, INTFLASH_INVALID_ARGUMENT, "sequence = 7: names no sequence");
}

TEST(SequenceBatches, WantTheTokensInTheirLayer) {
  SequenceBatch batches;
  batches.server.layer = 0;
  ASSERT_EQ(batches.server.append(batches.sequences[0], batches.tokens[0], 100, 101), INTFLASH_OK);
  BatchCall batch(batches.server.shape(), batches.requests());
  batches.take_sequences(batch);
  EXPECT_EQ(batch.run(batches.server.cache()), INTFLASH_OK) << intflash_last_error();
  batch.args.layer = 1;
  batches.expect_refusal(batch, INTFLASH_BAD_SHAPE, "positions 0 ... 100 in layer 1");
}

}  // namespace
}  // namespace intflash::internal::serving
