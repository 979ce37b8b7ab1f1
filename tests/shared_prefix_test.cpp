// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Shared prefixes of a batch: declared or not, the same bits.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "random.h"
#include "seed.h"
#include "serving.h"
#include "test_ports.h"

namespace intflash::internal::serving {
namespace {

using Prefixes = std::vector<intflash_shared_prefix>;

// Sequences forked from each other, attended in the order in which they are grown.
class Forest {
 public:
  Forest(const Shape& shape, std::uint64_t seed, std::int64_t most_queries = kMaxQueries)
      : random_(seed),
        server_(shape),
        queries_(random_tokens(shape, most_queries, static_cast<std::uint32_t>(random_.next()))) {}

  static constexpr std::int64_t kMaxQueries = 40;

  Random& random() { return random_; }
  Server& server() { return server_; }
  std::vector<Request>& requests() { return requests_; }
  const Prefixes& prefixes() const { return prefixes_; }

  // Queries and keys are turned by angles of no meaning.
  void rotate_positions(std::int64_t num_positions, std::int64_t rope_dim) {
    for (std::int64_t i = 0; i < num_positions * rope_dim / 2; ++i) {
      const double angle = 6.3 * random_.uniform();
      cos_.push_back(static_cast<float>(std::cos(angle)));
      sin_.push_back(static_cast<float>(std::sin(angle)));
    }
    server_.rope = {cos_.data(), sin_.data(), num_positions, rope_dim, INTFLASH_ROPE_HALVES};
  }

  // A sequence of so many tokens, or one that has so many more than another.
  std::int32_t plant(std::int64_t count) { return grow(server_.create_sequence(), count); }
  std::int32_t branch(std::int32_t sequence, std::int64_t count) {
    std::int32_t fork = -1;
    EXPECT_EQ(intflash_sequence_fork(server_.cache(), sequence, &fork), INTFLASH_OK);
    return grow(fork, count);
  }
  Request& attend_last(std::int32_t sequence, std::int64_t query_len) {
    Request& request = requests_.emplace_back(server_.request_of(sequence));
    request.query_len = query_len;
    request.query = queries_.query.data();
    return request;
  }
  std::int64_t length(std::int32_t sequence) const { return server_.request_of(sequence).kv_len; }
  std::int64_t num_requests() const { return static_cast<std::int64_t>(requests_.size()); }

  // What is attended until the declaration is closed shares prefix_len tokens.
  std::size_t open_prefix(std::int64_t prefix_len) {
    prefixes_.push_back({num_requests(), 0, prefix_len});
    return prefixes_.size() - 1;
  }
  void close_prefix(std::size_t index) {
    prefixes_[index].num_requests = num_requests() - prefixes_[index].first_request;
  }

  void expect_the_bits_of_the_flat_batch(float score_cap = 0) {
    const std::vector<Result> flat = server_.attend(requests_, score_cap);
    EXPECT_EQ(server_.attend(requests_, score_cap, prefixes_), flat);
    EXPECT_EQ(server_.attend_by_tasks(requests_, 3, score_cap, prefixes_), flat);
  }
  // A run that is cancelled when it asks for the last time before the end, or earlier.
  void expect_all_usable_after_cancelling() {
    BatchCall call(server_.shape(), requests_);
    call.share(prefixes_);
    ASSERT_EQ(call.make_plan(server_.context(), server_.cache()), INTFLASH_OK);
    std::atomic<std::int64_t> left = INT64_MAX;
    call.args.should_cancel = [](void* user) {
      return --*static_cast<std::atomic<std::int64_t>*>(user) == 0 ? 1 : 0;
    };
    call.args.cancel_user = &left;
    ASSERT_EQ(call.run(server_.cache()), INTFLASH_OK);
    const std::int64_t asked = INT64_MAX - left;
    std::int64_t tasks = 0;
    for (std::int32_t phase = 0; phase < intflash_plan_num_phases(call.plan); ++phase)
      tasks += intflash_plan_num_tasks(call.plan, phase);
    EXPECT_GE(asked, tasks + 20);
    const std::vector<Result> expected = call.results();
    for (const std::int64_t last : {asked / 4, asked / 2, asked - asked / 8, asked - 1}) {
      left = last;
      EXPECT_EQ(call.run(server_.cache()), INTFLASH_CANCELLED) << last << " of " << asked;
      std::fill(call.out.begin(), call.out.end(), -1.0f);
      left = INT64_MAX;
      ASSERT_EQ(call.run(server_.cache()), INTFLASH_OK);
      EXPECT_EQ(call.results(), expected);
    }
  }

 private:
  std::int32_t grow(std::int32_t sequence, std::int64_t count) {
    const Tokens tokens =
        random_tokens(server_.shape(), count, static_cast<std::uint32_t>(random_.next()));
    EXPECT_EQ(server_.append(sequence, tokens, 0, count), INTFLASH_OK) << intflash_last_error();
    return sequence;
  }

  Random random_;
  Server server_;
  Tokens queries_;
  std::vector<float> cos_, sin_;
  std::vector<Request> requests_;
  Prefixes prefixes_;
};

Shape shape_of(std::int64_t page_size, std::int32_t num_threads, std::int64_t num_tokens) {
  Shape shape;
  shape.page_size = page_size;
  shape.num_pages = num_tokens / page_size;
  shape.num_threads = num_threads;
  return shape;
}

TEST(SharedPrefix, ACancelledRunLeavesAllUsable) {
  Forest forest(shape_of(64, 3, 1 << 15), seed_from_test_name());
  const std::int32_t root = forest.plant(5000);
  const std::size_t prefix = forest.open_prefix(5000);
  for (const std::int64_t own : {1, 70, 3000}) forest.attend_last(forest.branch(root, own), 30);
  forest.close_prefix(prefix);
  forest.attend_last(forest.plant(6000), 1);
  forest.expect_all_usable_after_cancelling();
}

// Rows of one tile then have masks of several requests, each with its own keys and dtype.
TEST(SharedPrefix, RequestsKeepTheirOwnMasksThatAreData) {
  for (const bool with_slopes : {false, true}) {
    Shape shape = shape_of(64, 2, 1 << 13);
    if (with_slopes) shape.slopes = {0.1f, 0, 0.02f, 0.5f};
    Forest forest(shape, seed_from_test_name());
    const std::int32_t root = forest.plant(1500);
    std::vector<std::vector<float>> f32;
    std::vector<std::vector<std::uint16_t>> f16;
    std::vector<std::vector<std::uint64_t>> bits;
    forest.open_prefix(1500);
    for (const std::int64_t own : {1, 70, 300, 0, 900}) {
      Request& request = forest.attend_last(forest.branch(root, own), 3);
      const auto count = static_cast<std::size_t>(3 * request.kv_len);
      f32.emplace_back(count);
      f16.emplace_back(count);
      for (float& x : f32.back())
        x = forest.random().below(4) == 0 ? -INFINITY : forest.random().normal();
      for (std::uint16_t& x : f16.back()) x = forest.random().below(3) == 0 ? 0xfc00 : 0x3c00;
      bits.emplace_back(static_cast<std::size_t>(3 * ((request.kv_len + 63) / 64)),
                        0xf0f0'5555'0123'4567u);
      if (own == 70 || own == 900)
        request.additive = {f32.back().data(), INTFLASH_F32, 0, 0, request.kv_len, nullptr};
      if (own == 300)
        request.additive = {f16.back().data(), INTFLASH_F16, 0, 0, request.kv_len, nullptr};
      if (own == 0) request.bits = {bits.back().data(), request.kv_len};
    }
    forest.close_prefix(0);
    forest.expect_the_bits_of_the_flat_batch();
    forest.expect_the_bits_of_the_flat_batch(5);
  }
}

// Of few cases each length is in one, and so are each page size and number of threads.
TEST(SharedPrefix, EndsAnywhere) {
  int count = 0;
  for (const std::int64_t page_size : {64, 128, 256}) {
    for (const std::int32_t threads : {1, 3}) {
      for (const std::int64_t length :
           {0, 1, 127, 128, 129, 192, 256, 1000, 1023, 1024, 1025, 1152, 2047, 2048, 2200}) {
        if (quick_tests() && count++ % 4 != 0) continue;
        SCOPED_TRACE(testing::Message() << "page_size " << page_size << " threads " << threads
                                        << " prefix_len " << length);
        Forest forest(shape_of(page_size, threads, 1 << 13), seed_from_test_name());
        const std::int32_t root = forest.plant(length);
        forest.open_prefix(length);
        for (const std::int64_t own : {1, 70, 900})
          forest.attend_last(forest.branch(root, own), 1 + own % 3);
        forest.close_prefix(0);
        forest.expect_the_bits_of_the_flat_batch();
      }
    }
  }
}

// Every level ends where the one around it, or a multiple of 1024 keys, does or does not.
TEST(SharedPrefix, LevelsLieInEachOther) {
  int count = 0;
  for (const std::int32_t threads : {1, 2, 4}) {
    for (const std::int64_t second : {1, 128, 400, 1024 - 300, 1100, 2100}) {
      for (const std::int64_t third : {1, 130, 1024, 1500}) {
        if (quick_tests() && count++ % 5 != 0) continue;
        SCOPED_TRACE(testing::Message()
                     << "threads " << threads << " lengths " << second << ", " << third);
        Forest forest(shape_of(64, threads, 1 << 13), seed_from_test_name());
        const std::int32_t root = forest.plant(300);
        const std::size_t outer = forest.open_prefix(300);
        const std::int32_t middle = forest.branch(root, second);
        const std::size_t within = forest.open_prefix(forest.length(middle));
        forest.attend_last(forest.branch(middle, 5), 1);
        const std::int32_t inner = forest.branch(middle, third);
        const std::size_t innermost = forest.open_prefix(forest.length(inner));
        for (const std::int64_t own : {1, 200, 1030})
          forest.attend_last(forest.branch(inner, own), 1);
        forest.close_prefix(innermost);
        forest.close_prefix(within);
        forest.attend_last(forest.branch(root, 77), 3);
        forest.close_prefix(outer);
        forest.attend_last(forest.plant(50), 2);
        forest.expect_the_bits_of_the_flat_batch();
      }
    }
  }
}

TEST(SharedPrefix, AsLongAsItsRequestsLeavesThemNoKeys) {
  for (const std::int64_t length : {128, 640, 1024, 1100}) {
    SCOPED_TRACE(length);
    Forest forest(shape_of(64, 2, 4096), seed_from_test_name());
    const std::int32_t root = forest.plant(length);
    forest.open_prefix(length);
    forest.attend_last(root, 1);
    forest.attend_last(root, 30);
    forest.attend_last(root, 0);
    forest.close_prefix(0);
    forest.expect_the_bits_of_the_flat_batch();
  }
}

TEST(SharedPrefix, OfRequestsWithoutQueriesIsNotRead) {
  Forest forest(shape_of(64, 2, 4096), seed_from_test_name());
  const std::int32_t root = forest.plant(700);
  forest.open_prefix(700);
  forest.attend_last(forest.branch(root, 10), 0);
  forest.attend_last(forest.branch(root, 20), 0);
  forest.close_prefix(0);
  forest.attend_last(root, 5);
  forest.expect_the_bits_of_the_flat_batch();
}

TEST(SharedPrefix, IsSeenAsFarAsEachRequestsMaskGoes) {
  for (const std::int32_t threads : {1, 4}) {
    Forest forest(shape_of(64, threads, 1 << 15), seed_from_test_name());
    const std::int32_t root = forest.plant(5000);
    forest.open_prefix(5000);
    // From windows that end before the shared keys do, over some of them, to all of them; and
    // between the second and the third, keys that nobody sees.
    for (const std::int64_t window : {10, 300, 4900}) {
      Request& request = forest.attend_last(forest.branch(root, 200), 3);
      request.mask = INTFLASH_MASK_WINDOW;
      request.window_left = window;
      request.window_right = window == 4900 ? -1 : 0;
    }
    Request& early = forest.attend_last(root, Forest::kMaxQueries);
    early.mask = INTFLASH_MASK_PREFIX;
    early.prefix_len = 4990;
    forest.attend_last(root, 7).mask = INTFLASH_MASK_NONE;
    forest.close_prefix(0);
    forest.expect_the_bits_of_the_flat_batch();
  }
}

// The last queries of a request stand behind the first ones of the next in a tile: between the keys
// in their windows lie blocks that none of the tile's rows sees.
TEST(SharedPrefix, IsSeenInDistantPiecesByRowsOfOneTile) {
  Shape shape = shape_of(64, 1, 1 << 13);
  shape.group_size = 1;
  Forest forest(shape, seed_from_test_name(), 1500);
  const std::int32_t root = forest.plant(2048);
  forest.open_prefix(2048);
  for (int r = 0; r < 3; ++r) {
    Request& request = forest.attend_last(root, 1500);
    request.mask = INTFLASH_MASK_WINDOW;
    request.window_left = 100;
  }
  forest.close_prefix(0);
  forest.expect_the_bits_of_the_flat_batch();
}

TEST(SharedPrefix, LongAndOfFewRowsIsCutBetweenWorkers) {
  for (const std::int32_t threads : {2, 3, 4}) {
    Shape shape = shape_of(64, threads, 1 << 15);
    shape.num_kv_heads = 1;
    Forest forest(shape, seed_from_test_name());
    const std::int32_t root = forest.plant(9000);
    const std::size_t outer = forest.open_prefix(9000);
    const std::int32_t inner = forest.branch(root, 7000);
    const std::size_t within = forest.open_prefix(16000);
    forest.attend_last(forest.branch(inner, 6000), 2);
    forest.attend_last(forest.branch(inner, 1), 1);
    forest.close_prefix(within);
    forest.attend_last(forest.branch(root, 60), 1);
    forest.close_prefix(outer);
    forest.expect_the_bits_of_the_flat_batch();
    BatchCall batch(shape, forest.requests());
    batch.share(forest.prefixes());
    ASSERT_EQ(batch.make_plan(forest.server().context(), forest.server().cache()), INTFLASH_OK);
    // Scan; of either prefix, and of each request alone: items, merges.
    ASSERT_EQ(intflash_plan_num_phases(batch.plan), 7);
    for (const std::int32_t merges : {2, 4, 6})
      EXPECT_GT(intflash_plan_num_tasks(batch.plan, merges), 0) << "phase " << merges;
  }
}

TEST(SharedPrefix, StandsBehindPagesThatAreGone) {
  for (const std::int64_t dropped : {64, 128, 1088}) {
    Forest forest(shape_of(64, 2, 1 << 14), seed_from_test_name());
    const std::int32_t root = forest.plant(2000);
    ASSERT_EQ(intflash_sequence_drop_before(forest.server().cache(), root, dropped), INTFLASH_OK);
    forest.open_prefix(2000);
    for (const std::int64_t own : {1, 300}) forest.attend_last(forest.branch(root, own), 1);
    forest.close_prefix(0);
    forest.expect_the_bits_of_the_flat_batch();
  }
}

// Requests that append to a page which is not full have copies of it, and may append other keys.
TEST(SharedPrefix, IsReadInWholePages) {
  Forest forest(shape_of(256, 1, 1 << 13), seed_from_test_name());
  const std::int32_t root = forest.plant(1024);
  forest.open_prefix(1152);
  for (const std::int64_t own : {200, 300}) forest.attend_last(forest.branch(root, own), 1);
  forest.close_prefix(0);
  forest.expect_the_bits_of_the_flat_batch();
}

TEST(SharedPrefix, WithoutAWholeBlockOfSeveralRequestsIsLeftOut) {
  Forest forest(shape_of(64, 1, 1 << 13), seed_from_test_name());
  const std::int32_t root = forest.plant(500);
  forest.attend_last(root, 1);
  forest.attend_last(root, 1);
  ASSERT_EQ(intflash_sequence_drop_before(forest.server().cache(), root, 384), INTFLASH_OK);
  forest.attend_last(root, 1);
  forest.attend_last(root, 1);
  const auto num_phases = [&](const intflash_shared_prefix& prefix) {
    BatchCall batch(forest.server().shape(), forest.requests());
    batch.share({prefix});
    EXPECT_EQ(batch.make_plan(forest.server().context(), forest.server().cache()), INTFLASH_OK);
    return intflash_plan_num_phases(batch.plan);
  };
  EXPECT_EQ(num_phases({0, 2, 127}), 3);
  EXPECT_EQ(num_phases({0, 2, 128}), 5);
  EXPECT_EQ(num_phases({0, 1, 500}), 3);
  EXPECT_EQ(num_phases({2, 2, 384}), 3);
  EXPECT_EQ(num_phases({2, 2, 500}), 3);
}

TEST(SharedPrefix, IsAttendedOnceByEveryPort) {
  for (const PortEntry& port : ports_under_test()) {
    Shape shape = shape_of(64, 1, 1 << 13);
    shape.port = &port;
    shape.group_size = 5;
    Forest forest(shape, seed_from_test_name());
    const std::int32_t root = forest.plant(1500);
    forest.open_prefix(1500);
    for (int r = 0; r < 12; ++r) forest.attend_last(forest.branch(root, 1 + r), 1);
    forest.close_prefix(0);
    SCOPED_TRACE(port.name);
    forest.expect_the_bits_of_the_flat_batch();
  }
}

// ---- Random trees ----

Shape random_shape(Random& random) {
  Shape shape =
      shape_of(64 << random.below(3), 1 + static_cast<std::int32_t>(random.below(4)), 1 << 16);
  shape.num_kv_heads = 1 + random.below(2);
  shape.group_size = 1 + random.below(5);
  shape.head_dim = 32 << random.below(2);
  shape.head_dim_v = 8 * (1 + random.below(8));
  shape.rotate = random.below(3) == 0;
  shape.centered = random.below(2) == 0;
  for (std::int64_t head = 0; random.below(2) == 0 && head < shape.num_query_heads(); ++head)
    shape.sinks.push_back(random.normal());
  if (static_cast<std::int64_t>(shape.sinks.size()) < shape.num_query_heads()) shape.sinks.clear();
  return shape;
}

std::int64_t random_length(Random& random) {
  const std::int64_t lengths[] = {1, 60, 64, 100, 128, 500, 1024, 1300};
  return lengths[random.below(8)] + (random.below(2) == 0 ? 0 : random.below(60));
}

void attend_randomly(Forest& forest, std::int32_t sequence) {
  Random& random = forest.random();
  const std::int64_t most = std::min(forest.length(sequence), Forest::kMaxQueries);
  const std::int64_t query_len = random.below(3) > 0 ? 1 : random.below(most + 1);
  Request& request = forest.attend_last(sequence, query_len);
  const intflash_mask masks[] = {INTFLASH_MASK_CAUSAL, INTFLASH_MASK_CAUSAL, INTFLASH_MASK_NONE,
                                 INTFLASH_MASK_WINDOW, INTFLASH_MASK_PREFIX};
  request.mask = masks[random.below(5)];
  request.window_left = random.below(4) - 1 + random.below(2) * random.below(2500);
  request.window_right = random.below(4) - 1;
  request.prefix_len = random.below(request.kv_len + 1);
  request.softmax_scale = random.below(2) == 0 ? 0.0f : 0.1f + static_cast<float>(random.uniform());
}

// Requests below a sequence, that share prefixes of levels levels at most, all longer than longer.
void grow_randomly(Forest& forest, std::int32_t sequence, std::int64_t levels,
                   std::int64_t longer) {
  Random& random = forest.random();
  const std::int64_t length = forest.length(sequence);
  const std::int64_t declared = std::max(longer + 1, length - random.below(70));
  const bool is_declared = levels > 0 && declared <= length;
  const std::size_t prefix = is_declared ? forest.open_prefix(declared) : 0;
  const std::int64_t branches = levels > 0 ? 1 + random.below(3) : 1;
  for (std::int64_t i = 0; i < branches; ++i) {
    if (levels > 0 && random.below(4) > 0) {
      const std::int32_t branch = forest.branch(sequence, random_length(random));
      grow_randomly(forest, branch, levels - 1, is_declared ? declared : longer);
    } else {
      attend_randomly(forest, forest.branch(sequence, 1 + random.below(300)));
    }
  }
  if (is_declared && random.below(3) == 0) attend_randomly(forest, sequence);
  if (is_declared) forest.close_prefix(prefix);
}

TEST(SharedPrefix, OfRandomTreesChangesNoBit) {
  const int num_trees = quick_tests() ? 15 : 300;
  for (int i = 0; i < num_trees; ++i) {
    const std::uint64_t seed = seed_from_test_name() + static_cast<std::uint64_t>(i);
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    const Shape shape = random_shape(random);
    Forest forest(shape, random.next());
    if (random.below(2) == 0) forest.rotate_positions(8192, 16);
    for (std::int64_t tree = random.below(2); tree >= 0; --tree)
      grow_randomly(forest, forest.plant(random_length(random)), 1 + random.below(3), -1);
    forest.expect_the_bits_of_the_flat_batch(random.below(3) == 0 ? 2.5f : 0.0f);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace intflash::internal::serving
