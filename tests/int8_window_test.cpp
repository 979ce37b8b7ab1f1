// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Caches whose last blocks are in INT8, and others in fewer bits: which query sees which, by the
// definition, and that nothing else matters.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "cache/kv_cache.h"
#include "cache/sequence_file.h"
#include "cache_uses.h"
#include "host/host_pages.h"
#include "pages/codec.h"
#include "random.h"
#include "seed.h"
#include "test_ports.h"

namespace intflash::internal::serving {
namespace {

// Those that may have a window.
constexpr const Codec* kCodecs[] = {&kK4v4Codec, &kK8v4Codec, &kK4v2Codec, &kK2v2Codec};

constexpr float kInfinity = std::numeric_limits<float>::infinity();

Shape window_shape(const Codec& codec, std::int64_t window_blocks, std::int64_t sink_blocks) {
  Shape shape;
  shape.codec = &codec;
  shape.window_blocks = window_blocks;
  shape.sink_blocks = sink_blocks;
  return shape;
}

Tokens test_tokens(const Shape& shape, std::int64_t count) {
  return random_tokens(shape, count, static_cast<std::uint32_t>(seed_from_test_name()));
}

// Rows [begin, end) of tokens as the last of a sequence that ends at end.
Request rows_of(const Server& server, std::int32_t sequence, const Tokens& tokens,
                std::int64_t begin) {
  Request request = server.request_of(sequence);
  request.query_len = request.kv_len - begin;
  request.query =
      tokens.query.data() + begin * server.shape().num_query_heads() * server.shape().head_dim;
  return request;
}

// Appends tokens up to each of ends and attends them, piece by piece: out of all of them.
std::vector<float> attended(Server& server, std::int32_t sequence, const Tokens& tokens,
                            const std::vector<std::int64_t>& ends) {
  std::vector<float> out;
  std::int64_t begin = server.request_of(sequence).kv_len;
  for (const std::int64_t end : ends) {
    EXPECT_EQ(server.append(sequence, tokens, begin, end), INTFLASH_OK) << intflash_last_error();
    const Result result = server.attend({rows_of(server, sequence, tokens, begin)}).front();
    out.insert(out.end(), result.out.begin(), result.out.end());
    begin = end;
  }
  return out;
}
std::vector<float> attended(const Shape& shape, const Tokens& tokens,
                            const std::vector<std::int64_t>& ends,
                            intflash_mode mode = INTFLASH_MODE_INT8) {
  Server server(shape);
  server.mode = mode;
  return attended(server, server.create_sequence(), tokens, ends);
}

std::int64_t free_window_pages(const Server& server) {
  intflash_cache_info info{};
  info.struct_size = sizeof info;
  EXPECT_EQ(intflash_cache_get_info(server.cache(), &info), INTFLASH_OK);
  return info.free_window_pages;
}

// ---- What is seen ----

// A token as codes with a scale, of a head.
struct Coded {
  std::vector<std::int8_t> key, value;
  float key_scale, value_scale;
};

// Of a sequence's first tokens in layer 0, as the codec has them or in INT8.
Coded coded_token(const Server& server, std::int32_t sequence, std::int64_t head,
                  std::int64_t position, bool int8) {
  const intflash_cache& cache = *server.cache();
  const HostPages& host = host_pages(cache);
  const PageRun run = cache.sequences[sequence].run(0);
  const std::int64_t first = position / kBlockTokens * kBlockTokens;
  const KvBlock block = int8 ? host.window_block(run, head, first) : host.block(run, head, first);
  const Codec& codec = int8 ? kInt8Codec : *cache.codec;
  const PageLayout& layout = int8 ? cache.window_layout : cache.layout;
  const std::int64_t at = position - first;
  Coded token{std::vector<std::int8_t>(static_cast<std::size_t>(layout.head_dim)),
              std::vector<std::int8_t>(static_cast<std::size_t>(layout.head_dim_v)),
              block.key_scale[at], block.value_scale[at]};
  codec.load_key(layout, block, at, token.key.data());
  codec.load_value(layout, block, at, token.value.data());
  return token;
}

// What a request has beside its keys, of a sequence from position 0 on.
struct Use {
  const char* name;
  intflash_mask mask = INTFLASH_MASK_CAUSAL;
  std::int64_t window_left = 0;
  float score_cap = 0;
  bool has_additive = false;
  bool has_bits = false;
};
constexpr Use kCausal = {"causal"};

// Masks that are data, of count queries and as many keys.
struct Masks {
  explicit Masks(std::int64_t count)
      : count(count),
        words_of_row((count + 63) / 64),
        additive(count * count),
        bits(count * words_of_row) {
    Random random(seed_from_test_name());
    for (float& x : additive)
      x = random.below(3) == 0 ? -kInfinity : static_cast<float>(random.below(100)) * 0.02f;
    for (std::uint64_t& word : bits) word = random.next();
    // Each query sees itself.
    for (std::int64_t i = 0; i < count; ++i) {
      additive[i * count + i] = 0;
      bits[i * words_of_row + i / 64] |= std::uint64_t{1} << i % 64;
    }
  }

  // A request's whose rows begin at a position.
  void give(const Use& use, std::int64_t position, Request& request) const {
    request.mask = use.mask;
    request.window_left = use.window_left;
    if (use.has_additive) {
      request.additive.data = additive.data() + position * count;
      request.additive.dtype = INTFLASH_F32;
      request.additive.stride_query = count;
    }
    if (use.has_bits) request.bits = {bits.data() + position * words_of_row, request.kv_len};
  }

  std::int64_t count, words_of_row;
  std::vector<float> additive;
  std::vector<std::uint64_t> bits;
};

// The query at a position over an INT8 cache that has each key as the rule says that it is seen.
std::vector<float> by_the_rule(const Server& server, std::int32_t sequence, const Tokens& tokens,
                               std::int64_t position, const Use& use = kCausal,
                               const Masks& masks = Masks(0)) {
  Shape shape = server.shape();
  const std::int64_t block = position / 64;
  const std::int64_t first_in_window = block - shape.window_blocks + 1;
  const std::int64_t sinks = shape.sink_blocks;
  shape.codec = nullptr;
  shape.window_blocks = shape.sink_blocks = 0;
  Server plain(shape);
  const std::int64_t count = position + 1;
  const auto heads = static_cast<std::size_t>(shape.num_kv_heads);
  std::vector<std::int8_t> key, value;
  std::vector<float> key_scale(heads * static_cast<std::size_t>(count)), value_scale(key_scale);
  for (std::int64_t p = 0; p < count; ++p) {
    for (std::size_t h = 0; h < heads; ++h) {
      const bool int8 = p / 64 < sinks || p / 64 >= first_in_window;
      const Coded token = coded_token(server, sequence, static_cast<std::int64_t>(h), p, int8);
      key.insert(key.end(), token.key.begin(), token.key.end());
      value.insert(value.end(), token.value.begin(), token.value.end());
      key_scale[h * static_cast<std::size_t>(count) + static_cast<std::size_t>(p)] =
          token.key_scale;
      value_scale[h * static_cast<std::size_t>(count) + static_cast<std::size_t>(p)] =
          token.value_scale;
    }
  }
  const auto tensor = [&](const std::vector<std::int8_t>& codes, const std::vector<float>& scale,
                          std::int64_t dim) {
    intflash_tensor t = tensor_of(nullptr, shape.num_kv_heads, dim);
    t.data = const_cast<std::int8_t*>(codes.data());
    t.scale = scale.data();
    t.scale_stride_head = count;
    t.scale_block = 1;
    return t;
  };
  intflash_append_args args = plain.append_args(tokens, 0);
  args.key_dtype = args.value_dtype = INTFLASH_INT8;
  args.key = tensor(key, key_scale, shape.head_dim);
  args.value = tensor(value, value_scale, shape.head_dim_v);
  const std::int32_t copy = plain.create_sequence();
  EXPECT_EQ(plain.append(copy, count, args), INTFLASH_OK) << intflash_last_error();
  Request request = rows_of(plain, copy, tokens, position);
  masks.give(use, position, request);
  return plain.attend({request}, use.score_cap).front().out;
}

TEST(Int8Window, EachQuerySeesEachBlockAsTheRuleSays) {
  constexpr std::int64_t kCount = 64 * 9 + 7;
  for (const Codec* codec : kCodecs) {
    for (const std::int64_t window_blocks : {1, 2, 5}) {
      // Each pair of the three once or twice.
      const bool is_odd = (static_cast<std::int64_t>(codec->id) + window_blocks) % 2 == 1;
      for (const std::int64_t sink_blocks : {is_odd ? 0 : 2}) {
        const Shape shape = window_shape(*codec, window_blocks, sink_blocks);
        const Tokens tokens = test_tokens(shape, kCount);
        Server server(shape);
        const std::int32_t sequence = server.create_sequence();
        const std::vector<float> out = attended(server, sequence, tokens, {kCount});
        const auto row = static_cast<std::size_t>(shape.num_query_heads() * shape.head_dim_v);
        for (std::int64_t block = 0; block < 10; ++block) {
          // Where the form changes within a score block of 128 this is attended as two.
          const std::int64_t changed = std::max<std::int64_t>(block - window_blocks + 1, 0);
          if (changed % 2 == 1 && changed > sink_blocks) continue;
          for (const std::int64_t position : {64 * block, 64 * block + 6}) {
            const std::vector<float> expected = by_the_rule(server, sequence, tokens, position);
            const auto first =
                out.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(position) * row);
            EXPECT_TRUE(std::equal(expected.begin(), expected.end(), first))
                << codec->name << " window " << window_blocks << " sinks " << sink_blocks
                << " position " << position;
          }
        }
      }
    }
  }
}

TEST(Int8Window, UnderEveryMaskEachQuerySeesEachBlockAsTheRuleSays) {
  constexpr std::int64_t kCount = 64 * 7 + 9;
  constexpr Use kUses[] = {
      kCausal,
      {.name = "window", .mask = INTFLASH_MASK_WINDOW, .window_left = 200},
      {.name = "capped", .score_cap = 3},
      {.name = "additive", .has_additive = true},
      {.name = "bits", .has_bits = true},
      {.name = "all",
       .mask = INTFLASH_MASK_WINDOW,
       .window_left = 300,
       .score_cap = 5,
       .has_additive = true,
       .has_bits = true},
  };
  const Masks masks(kCount);
  for (const Codec* codec : kCodecs) {
    for (const bool is_biased : {false, true}) {
      Shape shape = window_shape(*codec, 2, 2);
      if (is_biased) {
        shape.sinks = {3, -kInfinity, 7.5f, -1};
        shape.slopes = {0.1f, 0, 0.02f, 0.5f};
      }
      const Tokens tokens = test_tokens(shape, kCount);
      for (const Use& use : kUses) {
        if (quick_tests() && !(is_biased && use.has_bits && use.has_additive)) continue;
        SCOPED_TRACE(std::string(codec->name) + ", " + use.name + (is_biased ? ", biased" : ""));
        std::vector<float> expected;
        for (const PortEntry& port : all_test_ports()) {
          shape.port = &port;
          shape.num_threads = 3 - shape.num_threads;
          Server server(shape);
          const std::int32_t sequence = server.create_sequence();
          append(server, sequence, tokens, 0, kCount);
          Request request = rows_of(server, sequence, tokens, 0);
          masks.give(use, 0, request);
          const std::vector<float> out = server.attend({request}, use.score_cap).front().out;
          if (!expected.empty()) {
            EXPECT_EQ(out, expected) << port.name;
            continue;
          }
          expected = out;
          const auto row = static_cast<std::size_t>(shape.num_query_heads() * shape.head_dim_v);
          // In blocks for which the form changes where a score block of 128 ends.
          for (const std::int64_t position : {100, 64 * 3 + 5, 64 * 5 + 63, 64 * 7 + 8}) {
            const std::vector<float> alone =
                by_the_rule(server, sequence, tokens, position, use, masks);
            EXPECT_TRUE(std::equal(alone.begin(), alone.end(),
                                   out.begin() + position * static_cast<std::ptrdiff_t>(row)))
                << port.name << " position " << position;
          }
        }
      }
    }
  }
}

TEST(Int8Window, AllOfItIsInt8) {
  for (const Codec* codec : kCodecs) {
    const Shape shape = window_shape(*codec, 6, 0);
    const Tokens tokens = test_tokens(shape, 64 * 6);
    const std::vector<float> out = attended(shape, tokens, {100, 384});
    EXPECT_EQ(out, attended(Shape{}, tokens, {100, 384}));
    // The same by the first blocks.
    EXPECT_EQ(out, attended(window_shape(*codec, 1, 6), tokens, {100, 384}));
    EXPECT_EQ(out, attended(window_shape(*codec, 5, 1), tokens, {100, 384}));
    EXPECT_NE(out, attended(window_shape(*codec, 5, 0), tokens, {100, 384}));
  }
}

TEST(Int8Window, WhatIsSeenIsCloseToTheDefinition) {
  for (const Codec* codec : kCodecs) {
    const Shape shape = window_shape(*codec, 2, codec->id % 2);
    const Tokens tokens = test_tokens(shape, 500);
    const std::vector<float> out = attended(shape, tokens, {330, 331, 500});
    const std::vector<float> exact = attended(shape, tokens, {330, 331, 500}, INTFLASH_MODE_EXACT);
    double error = 0, magnitude = 0;
    for (std::size_t i = 0; i < out.size(); ++i) {
      error += static_cast<double>(std::fabs(out[i] - exact[i]));
      magnitude += static_cast<double>(std::fabs(exact[i]));
    }
    EXPECT_LT(error / magnitude, 0.02) << codec->name;
  }
}

// ---- What does not matter ----

TEST(Int8Window, ChunksPagesThreadsAndPortsAreOfNoAccount) {
  constexpr std::int64_t kCount = 1100;
  constexpr std::int64_t kPortCount = 333;
  std::vector<std::int64_t> one_by_one{1060};
  while (one_by_one.back() < kCount) one_by_one.push_back(one_by_one.back() + 1);
  for (const std::int64_t group_size : {1, 5, 6}) {
    for (const Codec* codec : kCodecs) {
      Shape shape = window_shape(*codec, 3, 1);
      shape.group_size = group_size;
      shape.num_kv_heads = 1;
      shape.rotate = true;
      shape.head_dim = 64;
      shape.head_dim_v = group_size == 5 ? 72 : 32;
      shape.port = &scalar_port();
      const Tokens tokens = test_tokens(shape, kCount);
      const std::vector<float> expected = attended(shape, tokens, {kPortCount});
      for (const PortEntry& port : all_test_ports()) {
        shape.port = &port;
        shape.page_size = shape.page_size == 64 ? 256 : 64;
        shape.num_threads = 3 - shape.num_threads;
        EXPECT_EQ(attended(shape, tokens, {64, 65, 192, 300, kPortCount}), expected)
            << port.name << ' ' << codec->name << " group " << group_size;
      }
      // Beyond a span, and row by row: where it is quick that is asked for, once.
      if (quick_tests() ? codec != &kK4v4Codec || group_size != 5
                        : codec == &kK8v4Codec || group_size == 1)
        continue;
      shape.port = nullptr;
      const std::vector<float> whole = attended(shape, tokens, {kCount});
      EXPECT_TRUE(std::equal(expected.begin(), expected.end(), whole.begin()));
      const std::vector<float> pieces = attended(shape, tokens, one_by_one);
      EXPECT_EQ(pieces, whole) << codec->name << " group " << group_size;
    }
  }
}

TEST(Int8Window, HistoryIsOfNoAccount) {
  Random random(seed_from_test_name());
  for (int script = 0; script < (quick_tests() ? 12 : 200); ++script) {
    const std::int64_t window = 1 + random.below(4);
    Shape shape = window_shape(*kCodecs[random.below(4)], window, random.below(3));
    shape.page_size = 64 << random.below(3);
    shape.num_layers = 1 + random.below(2);
    shape.num_kv_heads = 1;
    const Tokens tokens = test_tokens(shape, 1024);
    Server server(shape);
    std::vector<std::int32_t> sequences{server.create_sequence()};
    for (int step = 0; step < 25; ++step) {
      const std::size_t which =
          static_cast<std::size_t>(random.below(static_cast<std::int64_t>(sequences.size())));
      const std::int32_t sequence = sequences[which];
      const std::int64_t kv_len = server.request_of(sequence).kv_len;
      const std::int64_t choice = random.below(8);
      if (choice == 0 && sequences.size() < 3) {
        sequences.push_back(-1);
        ASSERT_EQ(intflash_sequence_fork(server.cache(), sequence, &sequences.back()), INTFLASH_OK);
      } else if (choice == 1) {
        const std::int64_t first = server.request_of(sequence).first_key_position;
        const std::int64_t end = std::max(kv_len - random.below(300), first);
        const intflash_status status = intflash_sequence_truncate(server.cache(), sequence, end);
        ASSERT_TRUE(status == INTFLASH_OK || status == INTFLASH_UNSUPPORTED);
        ASSERT_EQ(server.request_of(sequence).kv_len, status == INTFLASH_OK ? end : kv_len);
      } else if (choice == 2) {
        ASSERT_EQ(
            intflash_sequence_drop_before(server.cache(), sequence, random.below(1 + kv_len / 2)),
            INTFLASH_OK);
      } else if (choice == 3) {
        const File file = save(server, sequence);
        ASSERT_EQ(intflash_sequence_free(server.cache(), sequence), INTFLASH_OK);
        ASSERT_EQ(load(server, file, sequences[which]), INTFLASH_OK) << intflash_last_error();
        ASSERT_EQ(save(server, sequences[which]), file);
      } else {
        const std::int64_t count = std::min(1 + random.below(180), 900 - kv_len);
        append(server, sequence, tokens, kv_len, kv_len + count);
      }
    }
    for (const std::int32_t sequence : sequences) {
      const std::int64_t kv_len = server.request_of(sequence).kv_len;
      append(server, sequence, tokens, kv_len, kv_len + 20);
      Server fresh(shape);
      const std::int32_t whole = fresh.create_sequence();
      append(fresh, whole, tokens, 0, kv_len + 20);
      ASSERT_EQ(intflash_sequence_drop_before(fresh.cache(), whole,
                                              server.request_of(sequence).first_key_position),
                INTFLASH_OK);
      EXPECT_EQ(server.attend({rows_of(server, sequence, tokens, kv_len)}),
                fresh.attend({rows_of(fresh, whole, tokens, kv_len)}))
          << "script " << script << " window " << window;
      EXPECT_EQ(save(server, sequence), save(fresh, whole)) << "script " << script;
    }
    for (const std::int32_t sequence : sequences) intflash_sequence_free(server.cache(), sequence);
    EXPECT_EQ(server.free_pages(), shape.num_pages);
    EXPECT_EQ(free_window_pages(server), shape.num_pages);
  }
}

// ---- Pages ----

TEST(Int8Window, BlocksBehindItGiveTheirPagesBack) {
  Shape shape = window_shape(kK4v4Codec, 4, 1);
  shape.num_window_pages = 8;
  const Tokens tokens = test_tokens(shape, 3000);
  Server server(shape);
  const std::int32_t sequence = server.create_sequence();
  for (std::int64_t begin = 0; begin < 3000; begin += 60) {
    ASSERT_EQ(server.append(sequence, tokens, begin, begin + 60), INTFLASH_OK)
        << intflash_last_error();
    // Those of the window of the first new token, the first block, and what is new.
    EXPECT_GE(free_window_pages(server), 2);
  }
  EXPECT_EQ(server.append(sequence, tokens, 0, 400), INTFLASH_POOL_EXHAUSTED);
  EXPECT_NE(std::string(intflash_last_error()).find("for its windows"), std::string::npos)
      << intflash_last_error();
  EXPECT_EQ(server.request_of(sequence).kv_len, 3000);
  EXPECT_EQ(server.append(sequence, tokens, 0, 100), INTFLASH_OK) << intflash_last_error();
}

TEST(Int8Window, ForksGiveBackTogetherWhatNeitherWants) {
  Shape shape = window_shape(kK4v4Codec, 1, 0);
  shape.num_window_pages = 5;
  const Tokens tokens = test_tokens(shape, 330);
  Server server(shape);
  const std::int32_t sequence = server.create_sequence();
  append(server, sequence, tokens, 0, 320);
  std::int32_t fork = -1;
  ASSERT_EQ(intflash_sequence_fork(server.cache(), sequence, &fork), INTFLASH_OK);
  EXPECT_EQ(free_window_pages(server), 0);
  // One of them alone cannot: the other holds them all.
  EXPECT_EQ(server.append(sequence, tokens, 320, 321), INTFLASH_POOL_EXHAUSTED);
  ASSERT_EQ(server.append({sequence, fork}, tokens, {0, 1, 2}), INTFLASH_OK)
      << intflash_last_error();
  EXPECT_EQ(free_window_pages(server), 3);
  // No tokens, and nothing is given back.
  ASSERT_EQ(server.append({sequence, fork}, tokens, {0, 70, 70}), INTFLASH_OK);
  ASSERT_EQ(server.append({sequence, fork}, tokens, {0, 0, 0}), INTFLASH_OK);
  EXPECT_EQ(intflash_sequence_truncate(server.cache(), sequence, 321), INTFLASH_OK);
}

// A layer that gets its tokens late sees the same of them as one that gets them at once.
TEST(Int8Window, ALayerThatIsBehindSeesItsWindow) {
  for (const Codec* codec : kCodecs) {
    Shape shape = window_shape(*codec, 2, 1);
    shape.num_layers = 2;
    const Tokens tokens = test_tokens(shape, 700);
    const std::vector<std::int64_t> ends = {130, 300, 301, 700};
    // Layer 0 has all steps before layer 1 has its first.
    Server late(shape);
    const std::int32_t sequence = late.create_sequence();
    for (std::int64_t begin = 0; const std::int64_t end : ends)
      ASSERT_EQ(late.append(sequence, tokens, std::exchange(begin, end), end), INTFLASH_OK);
    Server together(shape);
    const std::int32_t other = together.create_sequence();
    late.layer = 1;
    for (std::int64_t begin = 0; const std::int64_t end : ends) {
      for (together.layer = 0; together.layer < 2; ++together.layer)
        ASSERT_EQ(together.append(other, tokens, begin, end), INTFLASH_OK);
      together.layer = 1;
      ASSERT_EQ(late.append(sequence, tokens, begin, end), INTFLASH_OK) << intflash_last_error();
      Request request = rows_of(together, other, tokens, begin);
      const Result expected = together.attend({request}).front();
      EXPECT_EQ(late.attend({request}).front(), expected) << codec->name << ' ' << end;
      begin = end;
    }
    EXPECT_EQ(save(late, sequence), save(together, other)) << codec->name;
  }
}

// ---- What is refused ----

void expect_error(intflash_status found, intflash_status expected, const char* words) {
  EXPECT_STREQ(intflash_status_name(found), intflash_status_name(expected));
  EXPECT_NE(std::string(intflash_last_error()).find(words), std::string::npos)
      << intflash_last_error();
}

TEST(Int8Window, WhatIsNoLongerInInt8IsRefused) {
  const Shape shape = window_shape(kK4v4Codec, 2, 1);
  const Tokens tokens = test_tokens(shape, 700);
  Server server(shape);
  const std::int32_t sequence = server.create_sequence();
  append(server, sequence, tokens, 0, 500);
  append(server, sequence, tokens, 500, 600);
  // Position 500 is of block 7, whose window begins with block 6.
  expect_error(intflash_sequence_truncate(server.cache(), sequence, 447), INTFLASH_UNSUPPORTED,
               "kv_len = 447: keys of its window at 320 ... 383 are no longer in INT8: must be at "
               "least 448");
  expect_error(server.status_of({rows_of(server, sequence, tokens, 447)}), INTFLASH_UNSUPPORTED,
               "requests[0]: first query = 447");
  EXPECT_EQ(server.request_of(sequence).kv_len, 600);
  EXPECT_EQ(server.status_of({rows_of(server, sequence, tokens, 448)}), INTFLASH_OK);
  EXPECT_EQ(intflash_sequence_truncate(server.cache(), sequence, 448), INTFLASH_OK);
  // The first block is in INT8 whatever comes behind it.
  EXPECT_EQ(intflash_sequence_truncate(server.cache(), sequence, 64), INTFLASH_OK);
  append(server, sequence, tokens, 64, 300);
  Server other(shape);
  const std::int32_t whole = other.create_sequence();
  append(other, whole, tokens, 0, 300);
  EXPECT_EQ(save(server, sequence), save(other, whole));
}

TEST(Int8Window, WhatWasDroppedIsMissedByNoWindow) {
  const Shape shape = window_shape(kK4v4Codec, 4, 1);
  const Tokens tokens = test_tokens(shape, 1100);
  Server server(shape);
  const std::int32_t sequence = server.create_sequence();
  append(server, sequence, tokens, 0, 960);
  append(server, sequence, tokens, 960, 1000);
  // The window of position 800 begins at 576, and tokens before 768 are no longer in INT8.
  expect_error(intflash_sequence_truncate(server.cache(), sequence, 800), INTFLASH_UNSUPPORTED,
               "keys of its window at 576 ... 767 are no longer in INT8: must be at least 960");
  ASSERT_EQ(intflash_sequence_drop_before(server.cache(), sequence, 768), INTFLASH_OK);
  EXPECT_EQ(server.status_of({rows_of(server, sequence, tokens, 800)}), INTFLASH_OK);
  ASSERT_EQ(intflash_sequence_truncate(server.cache(), sequence, 800), INTFLASH_OK);
  append(server, sequence, tokens, 800, 1000);

  const auto attended = [&](Server& by, std::int32_t held) {
    return by.attend({rows_of(by, held, tokens, 900)}).front().out;
  };
  Server other(shape);
  const std::int32_t whole = other.create_sequence();
  append(other, whole, tokens, 0, 800);
  append(other, whole, tokens, 800, 1000);
  ASSERT_EQ(intflash_sequence_drop_before(other.cache(), whole, 768), INTFLASH_OK);
  EXPECT_EQ(attended(server, sequence), attended(other, whole));
  EXPECT_EQ(save(server, sequence), save(other, whole));

  // All of it can go, wherever it begins.
  ASSERT_EQ(intflash_sequence_drop_before(server.cache(), sequence, 832), INTFLASH_OK);
  append(server, sequence, tokens, 1000, 1100);
  ASSERT_EQ(intflash_sequence_truncate(server.cache(), sequence, 832), INTFLASH_OK);
  append(server, sequence, tokens, 832, 900);
  EXPECT_EQ(server.status_of({rows_of(server, sequence, tokens, 832)}), INTFLASH_OK);
}

TEST(Int8Window, PagesAreTheSequencesAlone) {
  const Shape shape = window_shape(kK4v4Codec, 2, 1);
  const Tokens tokens = test_tokens(shape, 100);
  Server server(shape);
  const std::int32_t sequence = server.create_sequence();
  append(server, sequence, tokens, 0, 100);
  const char* const rule = "its pages are its sequences'";
  const std::int64_t token_indptr[] = {0, 1}, page_indptr[] = {0, 1}, kv_len = 0;
  const std::int32_t page = 7;
  intflash_append_args args = server.append_args(tokens, 0);
  args.token_indptr = token_indptr;
  args.kv_lens = &kv_len;
  args.pages = {page_indptr, &page};
  expect_error(intflash_cache_append(server.cache(), &args), INTFLASH_UNSUPPORTED, rule);
  expect_error(intflash_cache_copy_page(server.cache(), 0, 9), INTFLASH_UNSUPPORTED, rule);
  expect_error(intflash_cache_export(server.cache(), &page, 0, 1, nullptr, nullptr),
               INTFLASH_UNSUPPORTED, rule);
  const Request request = rows_of(server, sequence, tokens, 99);
  BatchCall by_pages(shape, {request});
  ASSERT_EQ(by_pages.make_plan(server.context(), server.cache()), INTFLASH_OK);
  by_pages.args.sequences = nullptr;
  const std::int32_t ids[] = {0, 1};
  const std::int64_t indptr[] = {0, 2};
  by_pages.args.pages = {indptr, ids};
  expect_error(by_pages.run(server.cache()), INTFLASH_UNSUPPORTED, rule);
  BatchCall shared(shape, {request, request});
  shared.share({{0, 2, 64}});
  expect_error(shared.make_plan(server.context(), server.cache()), INTFLASH_UNSUPPORTED,
               "num_shared_prefixes = 1 over a cache with window_blocks = 2");
}

TEST(Int8Window, RulesOfCodecsAndWindows) {
  intflash_context_options context_options{};
  context_options.struct_size = sizeof context_options;
  intflash_context* context = nullptr;
  ASSERT_EQ(intflash_context_create(&context_options, &context), INTFLASH_OK);
  const auto create = [&](auto change) {
    intflash_cache_options options{};
    options.struct_size = sizeof options;
    options.num_kv_heads = 1;
    options.head_dim = 64;
    options.num_pages = 4;
    options.codec = INTFLASH_CODEC_K4V4;
    options.window_blocks = 1;
    change(options);
    intflash_cache* cache = nullptr;
    const intflash_status status = intflash_cache_create(context, &options, &cache);
    intflash_cache_destroy(cache);
    return status;
  };
  using Options = intflash_cache_options;
  EXPECT_EQ(create([](Options&) {}), INTFLASH_OK);
  expect_error(create([](Options& o) { o.window_blocks = 0; }), INTFLASH_UNSUPPORTED,
               "window_blocks = 0 with codec k4v4: must be at least 1");
  expect_error(create([](Options& o) { o.codec = INTFLASH_CODEC_INT8; }), INTFLASH_UNSUPPORTED,
               "window_blocks = 1 with codec int8: must be 0");
  expect_error(create([](Options& o) { o.window_blocks = -1; }), INTFLASH_BAD_SHAPE,
               "window_blocks = -1");
  expect_error(create([](Options& o) { o.sink_blocks = -3; }), INTFLASH_BAD_SHAPE,
               "sink_blocks = -3");
  expect_error(create([](Options& o) { o.numa = INTFLASH_NUMA_BY_NODE; }), INTFLASH_UNSUPPORTED,
               "numa = BY_NODE");
  expect_error(create([](Options& o) {
                 o.codec = INTFLASH_CODEC_K8V4;
                 o.window_blocks = 0;
                 o.sink_blocks = 1;
               }),
               INTFLASH_INVALID_ARGUMENT, "must be 0 without window_blocks");
  intflash_context_destroy(context);
}

// ---- Files ----

TEST(Int8Window, FilesKeepTheWindowAndWantTheSame) {
  const Shape shape = window_shape(kK4v4Codec, 2, 1);
  const Tokens tokens = test_tokens(shape, 600);
  Server server(shape);
  const std::int32_t sequence = server.create_sequence();
  append(server, sequence, tokens, 0, 500);
  const File file = save(server, sequence);
  Shape coarse = shape;
  coarse.page_size = 256;
  coarse.num_pages = 4;
  Server other(coarse);
  std::int32_t loaded = -1;
  ASSERT_EQ(load(other, file, loaded), INTFLASH_OK) << intflash_last_error();
  EXPECT_EQ(attended(other, loaded, tokens, {501, 600}),
            attended(server, sequence, tokens, {501, 600}));
  Shape wider = shape;
  wider.window_blocks = 3;
  expect_error(load(Server(wider), file, loaded), INTFLASH_BAD_FILE,
               "byte 80: a window of 2 and 1 blocks in the file, 3 and 1 in the cache");
  Shape none = shape;
  none.codec = &kK8v4Codec;
  none.window_blocks = none.sink_blocks = 0;
  const File without = [&] {
    Server of_none(none);
    const std::int32_t short_one = of_none.create_sequence();
    append(of_none, short_one, tokens, 0, 10);
    return save(of_none, short_one);
  }();
  Shape windowed = none;
  windowed.window_blocks = 2;
  expect_error(load(Server(windowed), without, loaded), INTFLASH_BAD_FILE,
               "byte 22: a window of 0 and 0 blocks in the file, 2 and 0 in the cache");

  // A record of no window is none that is ever saved.
  File with_record = without;
  with_record[22] = kWindow;
  const auto seal = [&](std::size_t begin, std::size_t end) {
    const std::uint64_t checksum =
        record_checksum(with_record.data() + begin, end - begin, static_cast<std::int64_t>(begin));
    std::memcpy(with_record.data() + end, &checksum, sizeof checksum);
  };
  with_record.insert(with_record.begin() + 80, sizeof(FileWindow) + 8, 0);
  seal(0, 72);
  seal(80, 80 + sizeof(FileWindow));
  expect_error(load(Server(none), with_record, loaded), INTFLASH_BAD_FILE,
               "byte 80: a window of 0 and 0 blocks in the file, 0 and 0 in the cache");
}

}  // namespace
}  // namespace intflash::internal::serving
