// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Tokens appended by slot, in any order and with gaps: the bytes of those appended by position.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "serving.h"

namespace intflash::internal::serving {
namespace {

// An append of rows to slots.
intflash_status append_to_slots(Server& server, const Tokens& tokens,
                                const std::vector<std::int64_t>& slots,
                                const intflash_rope& rope = {},
                                const std::int64_t* positions = nullptr) {
  const std::int64_t token_indptr[] = {0, static_cast<std::int64_t>(slots.size())};
  intflash_append_args args = server.append_args(tokens, 0);
  args.token_indptr = token_indptr;
  args.slots = slots.data();
  args.rope = rope;
  args.positions = positions;
  return intflash_cache_append(server.cache(), &args);
}

// Where the tokens of a request with these pages lie.
std::vector<std::int64_t> slots_of(const Shape& shape, const std::vector<std::int32_t>& pages,
                                   std::int64_t begin, std::int64_t end) {
  std::vector<std::int64_t> slots;
  for (std::int64_t i = begin; i < end; ++i)
    slots.push_back(pages[static_cast<std::size_t>(i / shape.page_size)] * shape.page_size +
                    i % shape.page_size);
  return slots;
}

void expect_dense_bits(const Server& server, const Tokens& tokens,
                       const std::vector<std::int32_t>& pages) {
  Request request;
  request.kv_len = tokens.count;
  request.pages = pages;
  request.query = tokens.query.data();
  EXPECT_EQ(server.attend({request})[0], server.attend_dense(tokens, request));
}

// Rows of tokens in another order, and where they go.
struct Shuffled {
  Tokens tokens;
  std::vector<std::int64_t> slots;
};
Shuffled shuffled(const Shape& shape, const Tokens& tokens,
                  const std::vector<std::int64_t>& slots) {
  std::vector<std::size_t> order(slots.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), std::mt19937(7));
  Shuffled result{tokens, {}};
  const auto key_row = static_cast<std::size_t>(shape.num_kv_heads * shape.head_dim);
  const auto value_row = static_cast<std::size_t>(shape.num_kv_heads * shape.head_dim_v);
  for (std::size_t i = 0; i < order.size(); ++i) {
    result.slots.push_back(slots[order[i]]);
    std::copy_n(tokens.key.data() + order[i] * key_row, key_row,
                result.tokens.key.data() + i * key_row);
    std::copy_n(tokens.value.data() + order[i] * value_row, value_row,
                result.tokens.value.data() + i * value_row);
  }
  return result;
}

TEST(Slots, InOrderAndShuffledGiveTheDenseCallsBits) {
  for (const std::int64_t page_size : {64, 128}) {
    Shape shape;
    shape.page_size = page_size;
    shape.num_threads = 2;
    Server server(shape);
    const Tokens tokens = random_tokens(shape, 330, 1);
    const std::vector<std::int32_t> in_order = {9, 2, 7, 1, 12, 4};
    const std::vector<std::int64_t> slots = slots_of(shape, in_order, 0, 330);
    ASSERT_EQ(append_to_slots(server, tokens, slots), INTFLASH_OK) << intflash_last_error();
    expect_dense_bits(server, tokens, in_order);
    const std::vector<std::int32_t> elsewhere = {20, 21, 22, 23, 24, 25};
    const Shuffled other = shuffled(shape, tokens, slots_of(shape, elsewhere, 0, 330));
    ASSERT_EQ(append_to_slots(server, other.tokens, other.slots), INTFLASH_OK);
    expect_dense_bits(server, tokens, elsewhere);
  }
}

TEST(Slots, BeginAndContinuePagesOfBothKindsOfAppend) {
  const Shape shape;
  Server server(shape);
  const Tokens tokens = random_tokens(shape, 100, 1);
  const std::vector<std::int32_t> pages = {3, 8};
  server.append(random_tokens(shape, 128, 5), 0, 128, pages);  // is gone
  server.append(tokens, 0, 40, pages);
  Tokens rest = tokens;
  rest.key.erase(rest.key.begin(), rest.key.begin() + 40 * 64);
  rest.value.erase(rest.value.begin(), rest.value.begin() + 40 * 64);
  ASSERT_EQ(append_to_slots(server, rest, slots_of(shape, pages, 40, 90)), INTFLASH_OK);
  server.append(tokens, 90, 100, pages);
  expect_dense_bits(server, tokens, pages);
}

// The page of a cache in an arena that held other things, after 3 tokens.
std::vector<char> page_after(const Server& server, int arena_byte, bool by_slot) {
  const Shape& shape = server.shape();
  const std::size_t bytes = 2 * 64 * (32 + 32 + 12);
  const AlignedMemory arena = aligned_memory(bytes);
  std::memset(arena.get(), arena_byte, bytes);
  intflash_cache_options options{};
  options.struct_size = sizeof options;
  options.num_kv_heads = shape.num_kv_heads;
  options.head_dim = shape.head_dim;
  options.num_pages = 1;
  options.arena = arena.get();
  options.arena_bytes = bytes;
  intflash_cache* cache = nullptr;
  EXPECT_EQ(intflash_cache_create(server.context(), &options, &cache), INTFLASH_OK)
      << intflash_last_error();
  const Tokens tokens = random_tokens(shape, 3, 1);
  const std::int64_t token_indptr[] = {0, 3};
  const std::int64_t slots[] = {0, 1, 2};
  const std::int64_t kv_len = 0;
  const std::int64_t page_indptr[] = {0, 1};
  const std::int32_t page = 0;
  intflash_append_args args = append_args(shape, tokens, 0);
  args.token_indptr = token_indptr;
  if (by_slot) {
    args.slots = slots;
  } else {
    args.kv_lens = &kv_len;
    args.pages = {page_indptr, &page};
  }
  EXPECT_EQ(intflash_cache_append(cache, &args), INTFLASH_OK) << intflash_last_error();
  intflash_cache_destroy(cache);
  const char* first = static_cast<const char*>(arena.get());
  return {first, first + bytes};
}

TEST(Slots, LeaveTheBytesOfAnAppendByPosition) {
  const Server server{Shape{}};
  EXPECT_EQ(page_after(server, 0xff, true), page_after(server, 0x5a, false));
}

TEST(Slots, BelowZeroAreNeitherReadNorStored) {
  const Shape shape;
  Server server(shape);
  Tokens tokens = random_tokens(shape, 10, 1);
  Tokens padded = tokens;
  std::vector<std::int64_t> slots = slots_of(shape, {6}, 0, 10);
  slots.insert(slots.begin() + 4, {-1, -1});
  slots.push_back(-1);
  padded.key.insert(padded.key.begin() + 4 * 64, 2 * 64, NAN);
  padded.value.insert(padded.value.begin() + 4 * 64, 2 * 64, NAN);
  padded.key.insert(padded.key.end(), 64, INFINITY);
  padded.value.insert(padded.value.end(), 64, 0x1p100f);
  ASSERT_EQ(append_to_slots(server, padded, slots), INTFLASH_OK) << intflash_last_error();
  expect_dense_bits(server, tokens, {6});
  padded.key[6 * 64 + 3] = NAN;
  EXPECT_EQ(append_to_slots(server, padded, slots), INTFLASH_NONFINITE_INPUT);
  EXPECT_EQ(std::string(intflash_last_error()).find("key[request 0][token 6][head 0][3]"), 0u)
      << intflash_last_error();
}

// Cosines and sines of any kind: what they do to a row is another test's.
std::vector<float> random_turns(std::int64_t num_positions, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> turn(-1.0f, 1.0f);
  std::vector<float> turns(static_cast<std::size_t>(num_positions * 16));
  for (float& x : turns) x = turn(random);
  return turns;
}

TEST(Slots, TurnKeysAsAnAppendByPositionDoes) {
  Shape shape;
  shape.num_pages = 12;
  Server server(shape);
  const std::vector<float> cos = random_turns(330, 1);
  const std::vector<float> sin = random_turns(330, 2);
  server.rope = {cos.data(), sin.data(), 330, 32, INTFLASH_ROPE_HALVES};
  const Tokens tokens = random_tokens(shape, 330, 3);
  const std::vector<std::int32_t> pages = {9, 2, 7, 1, 11, 4};
  const std::vector<std::int32_t> elsewhere = {3, 0, 5, 10, 6, 8};
  server.append(tokens, 0, 330, pages);
  std::vector<std::int64_t> positions(330);
  for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<std::int64_t>(i);
  const auto exported = [&](const std::vector<std::int32_t>& from) {
    std::vector<float> key(330 * 64);
    const intflash_tensor tensor = tensor_of(key.data(), 2, 32);
    EXPECT_EQ(intflash_cache_export(server.cache(), from.data(), 0, 330, &tensor, nullptr),
              INTFLASH_OK)
        << intflash_last_error();
    return key;
  };
  const std::vector<std::int64_t> slots = slots_of(shape, elsewhere, 0, 330);
  ASSERT_EQ(append_to_slots(server, tokens, slots, server.rope, positions.data()), INTFLASH_OK)
      << intflash_last_error();
  EXPECT_EQ(exported(elsewhere), exported(pages));
  const Shuffled other = shuffled(shape, tokens, slots);
  positions.clear();
  for (const std::int64_t slot : other.slots)
    positions.push_back(std::find(slots.begin(), slots.end(), slot) - slots.begin());
  ASSERT_EQ(append_to_slots(server, other.tokens, other.slots, server.rope, positions.data()),
            INTFLASH_OK);
  EXPECT_EQ(exported(elsewhere), exported(pages));
}

TEST(Slots, NeedNotFollowOneAnotherAsPositionsDo) {
  const Shape shape;
  Server server(shape);
  const std::vector<float> cos = random_turns(40, 1);
  const std::vector<float> sin = random_turns(40, 2);
  const intflash_rope rope = {cos.data(), sin.data(), 40, 32, INTFLASH_ROPE_ADJACENT};
  const Tokens tokens = random_tokens(shape, 3, 3);
  // The middle one is not read.
  const std::int64_t positions[] = {39, INT64_MIN, 17};
  ASSERT_EQ(append_to_slots(server, tokens, {64, -1, 65}, rope, positions), INTFLASH_OK)
      << intflash_last_error();
  for (const std::int64_t token : {0, 2}) {
    server.rope = rope;
    server.rope.cos += positions[token] * 16;
    server.rope.sin += positions[token] * 16;
    server.rope.num_positions = 1;
    Tokens alone = tokens;
    alone.key.erase(alone.key.begin(), alone.key.begin() + token * 64);
    alone.value.erase(alone.value.begin(), alone.value.begin() + token * 64);
    server.append(alone, 0, 1, {7});
    std::vector<float> key(2 * 64);
    const std::int32_t pages[] = {1, 7};
    const intflash_tensor of_slot = tensor_of(key.data(), 2, 32);
    const intflash_tensor of_position = tensor_of(key.data() + 64, 2, 32);
    const std::int64_t place = token / 2;
    ASSERT_EQ(intflash_cache_export(server.cache(), pages, place, place + 1, &of_slot, nullptr),
              INTFLASH_OK);
    ASSERT_EQ(intflash_cache_export(server.cache(), pages + 1, 0, 1, &of_position, nullptr),
              INTFLASH_OK);
    EXPECT_TRUE(std::equal(key.begin(), key.begin() + 64, key.begin() + 64)) << token;
  }
}

TEST(Slots, HugeKeysAreForgottenWithTheirPage) {
  const Shape shape;
  Server server(shape);
  Tokens tokens = random_tokens(shape, 10, 1);
  tokens.key[0] = 0x1p99f;
  tokens.query[0] = 0x1p40f;
  const std::vector<std::int64_t> slots = slots_of(shape, {6}, 0, 10);
  ASSERT_EQ(append_to_slots(server, tokens, slots), INTFLASH_OK);
  Request request;
  request.kv_len = 10;
  request.pages = {6};
  request.query = tokens.query.data();
  EXPECT_EQ(server.status_of({request}), INTFLASH_SCORE_OVERFLOW);
  tokens.key[0] = 1;
  ASSERT_EQ(append_to_slots(server, tokens, slots), INTFLASH_OK);
  EXPECT_EQ(server.status_of({request}), INTFLASH_OK) << intflash_last_error();
}

TEST(Slots, AreRefusedByNameValueAndRule) {
  Shape shape;
  shape.num_pages = 8;
  Server server(shape);
  const Tokens tokens = random_tokens(shape, 3, 1);
  const auto refuse = [&](intflash_status found, intflash_status status, const std::string& part) {
    EXPECT_EQ(found, status);
    EXPECT_NE(std::string(intflash_last_error()).find(part), std::string::npos)
        << intflash_last_error();
  };
  refuse(append_to_slots(server, tokens, {5, 512, 7}), INTFLASH_INVALID_ARGUMENT,
         "slots[1] = 512: must be -1 ... 511");
  refuse(append_to_slots(server, tokens, {5, 6, -2}), INTFLASH_INVALID_ARGUMENT,
         "slots[2] = -2: must be -1 ... 511");
  refuse(append_to_slots(server, tokens, {5, 6, 5}), INTFLASH_INVALID_ARGUMENT,
         "slots[2] = 5: a token before it goes there");
  const std::vector<float> turns(64 * 16, 1.0f);
  const intflash_rope rope{turns.data(), turns.data(), 64, 32, INTFLASH_ROPE_HALVES};
  refuse(append_to_slots(server, tokens, {5, 6, 7}, rope), INTFLASH_INVALID_ARGUMENT,
         "positions = NULL");
  const std::int64_t behind[] = {63, 64, 0};
  refuse(append_to_slots(server, tokens, {5, 6, 7}, rope, behind), INTFLASH_BAD_SHAPE,
         "positions[1] = 64: rope has positions 0 ... 63");
  const std::int64_t before[] = {63, 0, -1};
  refuse(append_to_slots(server, tokens, {5, 6, 7}, rope, before), INTFLASH_BAD_SHAPE,
         "positions[2] = -1: rope has positions 0 ... 63");
  const std::int64_t slots[] = {5, 6, 7};
  const std::int64_t token_indptr[] = {0, 3};
  intflash_append_args args = server.append_args(tokens, 0);
  args.token_indptr = args.kv_lens = token_indptr;
  args.slots = slots;
  refuse(intflash_cache_append(server.cache(), &args), INTFLASH_INVALID_ARGUMENT,
         "must be NULL beside it");
  intflash_append_args unplaced = args;
  unplaced.slots = nullptr;
  unplaced.positions = slots;
  refuse(intflash_cache_append(server.cache(), &unplaced), INTFLASH_INVALID_ARGUMENT,
         "must be NULL without slots");
  const std::int32_t sequence = server.create_sequence();
  refuse(server.append(sequence, 3, args), INTFLASH_INVALID_ARGUMENT, "slots = ");
}

}  // namespace
}  // namespace intflash::internal::serving
