// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Caches whose last blocks are in INT8, and others in fewer bits: which query sees which, by the
// definition, and that nothing else matters.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "cache/kv_cache.h"
#include "cache_uses.h"
#include "host/host_pages.h"
#include "pages/codec.h"
#include "random.h"
#include "seed.h"
#include "test_ports.h"
#include "window_uses.h"

namespace intflash::internal::serving {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

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
  for (const Codec* codec : kWindowCodecs) {
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
  for (const Codec* codec : kWindowCodecs) {
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
  for (const Codec* codec : kWindowCodecs) {
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
  for (const Codec* codec : kWindowCodecs) {
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
    for (const Codec* codec : kWindowCodecs) {
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
    Shape shape = window_shape(*kWindowCodecs[random.below(4)], window, random.below(3));
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

// A layer that gets its tokens late sees the same of them as one that gets them at once.
TEST(Int8Window, ALayerThatIsBehindSeesItsWindow) {
  for (const Codec* codec : kWindowCodecs) {
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

}  // namespace
}  // namespace intflash::internal::serving
