// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// States that callers merge: however keys are divided, and whoever attends them, the bits of the
// undivided run.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "counting_allocator.h"
#include "random.h"
#include "seed.h"
#include "serving.h"
#include "state_calls.h"
#include "test_ports.h"

namespace intflash::internal::serving {
namespace {

constexpr std::int64_t kSpan = 1024;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// One case: tokens in a cache, and requests for some of their last rows.
struct Case {
  const char* name;
  Shape shape;
  std::int64_t num_tokens = 5000;
  std::int64_t query_len = 1;
  intflash_mask mask = INTFLASH_MASK_CAUSAL;
  std::int64_t window_left = 0;
  std::int64_t prefix_len = 0;
  float score_cap = 0;
  intflash_dtype out_dtype = INTFLASH_F32;
  bool has_biases = false;  // on all keys, and bits on the last ones
  bool has_rope = false;
};

std::vector<Case> cases() {
  Shape plain;
  plain.num_pages = 120;
  Shape centered = plain;
  centered.centered = true;
  centered.sinks = {3, -kInfinity, 7.5f, -1};
  Shape rotated = centered;
  rotated.rotate = true;
  Shape uneven = plain;
  uneven.head_dim = 40;
  uneven.head_dim_v = 72;
  uneven.group_size = 3;
  Shape alone = plain;  // as many kv heads as query heads
  alone.num_kv_heads = 4;
  alone.group_size = 1;
  Shape sloped = centered;
  sloped.slopes = {0.1f, 0, 0.02f, 0.5f};
  return {
      {"decode", plain},
      {"decode of eight heads to a kv head",
       [&] {
         Shape shape = plain;
         shape.group_size = 8;
         return shape;
       }()},
      {"decode, centred, sinks", centered, 7168},
      {"decode, one head to a kv head", alone, 6000, 1, INTFLASH_MASK_NONE},
      {"prefill", uneven, 5100, 40},
      {"prefill, rotated", rotated, 4097, 130},
      {"prefill in a window", centered, 5000, 70, INTFLASH_MASK_WINDOW, 900},
      {"decode in a window", plain, 5200, 1, INTFLASH_MASK_WINDOW, 1500},
      {"prefill with a prefix", plain, 3500, quick_length(2000, 200), INTFLASH_MASK_PREFIX, 0,
       2500},
      {"more queries than a span", alone, 2600, quick_length(2600, 1100)},
      {"capped, in bf16", centered, 5000, 6, INTFLASH_MASK_CAUSAL, 0, 0, 5, INTFLASH_BF16},
      {"sloped, in f16", sloped, 5000, 3, INTFLASH_MASK_CAUSAL, 0, 0, 0, INTFLASH_F16},
      {"biased", centered, 4500, 7, INTFLASH_MASK_CAUSAL, 0, 0, 0, INTFLASH_F32, true},
      {"turned", centered, 3500, 2, INTFLASH_MASK_NONE, 0, 0, 0, INTFLASH_F32, false, true},
  };
}

// out as bits, in the case's dtype, and log-sum-exp.
struct Finished {
  std::vector<std::byte> out;
  std::vector<float> lse;

  bool operator==(const Finished&) const = default;
};

// One caller, with a context and a cache of its own.
class Rank {
 public:
  Rank(const Case& c, const PortEntry* port, std::int32_t num_threads) : case_(c) {
    case_.shape.port = port;
    case_.shape.num_threads = num_threads;
    server_ = std::make_unique<Server>(case_.shape);
    Random random(1);
    if (c.has_biases) {
      biases_.resize(static_cast<std::size_t>(c.query_len * c.num_tokens));
      for (float& bias : biases_) bias = random.below(5) == 0 ? -kInfinity : random.normal();
      bits_.assign(static_cast<std::size_t>(c.query_len * 32), 0xf0f0'5555'0123'4567u);
    }
    if (c.has_rope) {
      angles_.resize(static_cast<std::size_t>(c.num_tokens * c.shape.head_dim / 2));
      for (float& angle : angles_) angle = static_cast<float>(random.uniform());
      server_->rope = {angles_.data(), angles_.data(), c.num_tokens, c.shape.head_dim,
                       INTFLASH_ROPE_HALVES};
    }
    tokens_ = random_tokens(case_.shape, c.num_tokens, 7);
    server_->append(tokens_, 0, c.num_tokens, page_range(0, (c.num_tokens + 63) / 64));
  }

  Server& server() { return *server_; }

  Request request() const {
    Request request;
    request.query_len = case_.query_len;
    request.kv_len = case_.num_tokens;
    request.pages = page_range(0, (case_.num_tokens + 63) / 64);
    request.mask = case_.mask;
    request.window_left = case_.window_left;
    request.prefix_len = case_.prefix_len;
    if (case_.has_biases) {
      request.additive = {biases_.data(), INTFLASH_F32, 0, 0, case_.num_tokens, nullptr};
      request.bits = {bits_.data(), 2048};
    }
    request.query = tokens_.query.data() + (case_.num_tokens - case_.query_len) *
                                               case_.shape.num_query_heads() * case_.shape.head_dim;
    return request;
  }
  // Pages that hold none of the keys are of no cache.
  Request request(std::int64_t key_begin, std::int64_t key_end) const {
    Request part = request();
    part.key_begin = key_begin;
    part.key_end = key_end;
    part.pages.resize(static_cast<std::size_t>((key_end + 63) / 64));
    std::fill_n(part.pages.begin(), key_begin / 64, -1);
    return part;
  }

  Finished attend() {
    BatchCall batch(case_.shape, {request()}, case_.score_cap);
    batch.args.rope = server_->rope;
    batch.desc.out_dtype = case_.out_dtype;
    Finished result = untouched();
    batch.args.out.data = result.out.data();
    batch.args.lse = result.lse.data();
    EXPECT_EQ(batch.make_plan(server_->context(), server_->cache()), INTFLASH_OK);
    EXPECT_EQ(batch.run(server_->cache()), INTFLASH_OK) << intflash_last_error();
    return result;
  }

  States attend_part(const Request& part) { return attend_parts({part})[0]; }
  // By request.
  std::vector<States> attend_parts(const std::vector<Request>& parts,
                                   const std::vector<intflash_shared_prefix>& prefixes = {}) {
    BatchCall batch(case_.shape, parts, case_.score_cap);
    batch.share(prefixes);
    EXPECT_EQ(batch.make_plan(server_->context(), server_->cache()), INTFLASH_OK)
        << intflash_last_error();
    batch.args.rope = server_->rope;
    batch.args.out = {};
    batch.args.lse = nullptr;
    std::vector<States> left;
    std::vector<intflash_state> all;
    for (std::size_t r = 0; r < parts.size(); ++r) {
      left.push_back(states_of(batch, static_cast<std::int64_t>(r)));
      for (OwnState& state : left.back()) all.push_back(state.view());
    }
    const intflash_state none{};
    batch.args.states = all.empty() ? &none : all.data();
    EXPECT_EQ(batch.run(server_->cache()), INTFLASH_OK) << intflash_last_error();
    return left;
  }

  Finished finish(States states) {
    const Shape& shape = case_.shape;
    const std::vector<intflash_state> all = views(states);
    const intflash_state_set set = set_of(shape, case_.query_len, all);
    Finished result = untouched();
    intflash_finish_args args{};
    args.struct_size = sizeof args;
    args.out_dtype = case_.out_dtype;
    args.out = tensor_of(nullptr, shape.num_query_heads(), shape.head_dim_v);
    args.out.data = result.out.data();
    args.lse = result.lse.data();
    args.sinks = shape.sinks.empty() ? nullptr : shape.sinks.data();
    args.num_kv_heads = shape.num_kv_heads;
    args.value_center = shape.centered ? server_->value_center().data() : nullptr;
    EXPECT_EQ(intflash_finish_states(server_->context(), &set, &args), INTFLASH_OK)
        << intflash_last_error();
    return result;
  }

  // Into one that has num_keys keys from first_key on; in place of the first.
  OwnState join(States states, std::int64_t first_key, std::int64_t num_keys) {
    const std::vector<intflash_state> all = views(states);
    const intflash_state_set set = set_of(case_.shape, case_.query_len, all);
    intflash_state joined = all[0];
    joined.first_key = states[0].first_key = first_key;
    joined.num_keys = states[0].num_keys = num_keys;
    EXPECT_EQ(intflash_join_states(server_->context(), &set, &joined), INTFLASH_OK)
        << intflash_last_error();
    return states[0];
  }

 private:
  Finished untouched() const {
    const auto rows = static_cast<std::size_t>(case_.query_len * case_.shape.num_query_heads());
    const std::size_t bytes = case_.out_dtype == INTFLASH_F32 ? 4 : 2;
    return {std::vector<std::byte>(rows * static_cast<std::size_t>(case_.shape.head_dim_v) * bytes),
            std::vector<float>(rows)};
  }

  Case case_;
  std::unique_ptr<Server> server_;
  Tokens tokens_;
  std::vector<float> biases_;  // [query_len][num_tokens]
  std::vector<std::uint64_t> bits_;
  std::vector<float> angles_;  // of no meaning: cosines as well as sines
};

// From 0 to num_tokens, at spans.
std::vector<std::int64_t> random_cuts(Random& random, std::int64_t num_tokens) {
  std::vector<std::int64_t> cuts = {0, num_tokens};
  const std::int64_t spans = (num_tokens - 1) / kSpan;
  for (std::int64_t i = 1 + random.below(4); i > 0; --i)
    cuts.push_back(kSpan * (1 + random.below(spans)));
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  return cuts;
}

void append(States& to, const States& states) { to.insert(to.end(), states.begin(), states.end()); }

// Two states that are halves of one, joined, until there are none.
States joined_in_pairs(Rank& rank, States states) {
  for (std::size_t i = 0; i + 1 < states.size();) {
    const OwnState& left = states[i];
    const OwnState& right = states[i + 1];
    const std::int64_t num_keys = 2 * left.num_keys;
    if (right.num_keys != left.num_keys || left.first_key % num_keys != 0 ||
        right.first_key != left.first_key + left.num_keys) {
      ++i;
      continue;
    }
    states[i] = rank.join({left, right}, left.first_key, num_keys);
    states.erase(states.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    i = i > 0 ? i - 1 : 0;
  }
  return states;
}

TEST(States, OfAnyDivisionOfTheKeysFinishAsTheUndividedRun) {
  Random random(seed_from_test_name());
  for (const Case& c : cases()) {
    const Finished whole = Rank(c, nullptr, 1).attend();
    Rank ranks[] = {{c, nullptr, 1}, {c, nullptr, 3}, {c, nullptr, 8}};
    for (int round = 0; round < (quick_tests() ? 2 : 8); ++round) {
      const std::vector<std::int64_t> cuts = random_cuts(random, c.num_tokens);
      SCOPED_TRACE(testing::Message()
                   << c.name << ", ranges end at " << testing::PrintToString(cuts));
      States states;
      for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
        Rank& rank = ranks[random.below(3)];
        append(states, rank.attend_part(rank.request(cuts[i], cuts[i + 1])));
      }
      EXPECT_EQ(ranks[0].finish(states), whole);
      EXPECT_EQ(ranks[1].finish(joined_in_pairs(ranks[0], states)), whole);
    }
  }
}

TEST(States, JoinedInPairsAreThoseThatOneCallerLeaves) {
  for (const Case& c : cases()) {
    if (c.num_tokens * c.query_len > quick_length(10'000'000, 210'000)) continue;
    SCOPED_TRACE(c.name);
    Rank rank(c, nullptr, 2);
    States states;
    for (std::int64_t begin = 0; begin < c.num_tokens; begin += kSpan)
      append(states, rank.attend_part(rank.request(begin, std::min(begin + kSpan, c.num_tokens))));
    const States whole = rank.attend_part(rank.request());
    EXPECT_EQ(joined_in_pairs(rank, states), whole);
  }
}

TEST(States, AreTheSameOnEveryPort) {
  for (const Case& c : cases()) {
    if (c.num_tokens * c.query_len > quick_length(1'000'000, 210'000)) continue;
    const auto left_by = [&](const PortEntry& port, std::int32_t num_threads) {
      Rank rank(c, &port, num_threads);
      States states = rank.attend_part(rank.request(0, 3 * kSpan));
      append(states, rank.attend_part(rank.request(3 * kSpan, c.num_tokens)));
      return std::pair(states, rank.finish(states));
    };
    const auto expected = left_by(scalar_port(), 1);
    EXPECT_EQ(expected.second, Rank(c, &scalar_port(), 1).attend()) << c.name;
    for (const PortEntry& port : ports_under_test())
      EXPECT_EQ(left_by(port, 3), expected) << port.name << " " << c.name;
  }
}

TEST(States, OfCachesThatHoldAPartOfTheKeysFinishAsTheUndividedRun) {
  const Case c = {"decode", cases()[2].shape, 5000, 3};
  Rank rank(c, nullptr, 2);
  const Finished whole = rank.attend();
  States states;
  for (const auto& [begin, end] : {std::pair{0, 2048}, {2048, 3072}, {3072, 5000}}) {
    Request part = rank.request();
    part.first_key_position = part.key_begin = begin;
    part.key_end = end;
    part.pages = page_range(begin / 64, (end - begin + 63) / 64);
    append(states, rank.attend_part(part));
  }
  EXPECT_EQ(rank.finish(states), whole);
}

TEST(States, OfABatchWithASharedPrefixAreThoseOfTheRequestsAlone) {
  const Case c = {"decode", cases()[2].shape, 5000, 2};
  for (const std::int32_t threads : {1, 4}) {
    Rank rank(c, nullptr, threads);
    const Request some = rank.request(0, 4096);
    Request other = rank.request();
    other.softmax_scale = 0.4f;
    const std::vector<Request> batch = {rank.request(), some, other};
    const std::vector<States> together = rank.attend_parts(batch, {{0, 3, 4000}});
    for (std::size_t r = 0; r < batch.size(); ++r)
      EXPECT_EQ(together[r], rank.attend_part(batch[r])) << "request " << r;
    EXPECT_EQ(rank.finish(together[0]), rank.attend());
  }
}

TEST(States, OfKeysThatNoRowSeesAreEmpty) {
  Case c = cases()[7];  // a window of the last 1500 keys
  Rank rank(c, nullptr, 1);
  const States states = rank.attend_part(rank.request(0, 2048));
  ASSERT_EQ(states.size(), 1u);
  for (const float reference : states[0].reference) EXPECT_EQ(reference, -kInfinity);
  for (const float sum : states[0].row_sum) EXPECT_EQ(sum, 0);
  for (const float value : states[0].accumulators) EXPECT_EQ(value, 0);
  EXPECT_EQ(rank.attend_part(rank.request(5200, 5200)), States{});
  // None at all are rows that saw no key.
  const Finished nothing = rank.finish({});
  for (const float lse : nothing.lse) EXPECT_EQ(lse, -kInfinity);
  for (const std::byte byte : nothing.out) EXPECT_EQ(byte, std::byte{0});
}

TEST(States, AreLeftAndMergedWithoutAllocation) {
  for (const std::int32_t threads : {1, 3}) {
    const Case c = {"prefill", cases()[2].shape, 5000, 40};
    Rank rank(c, nullptr, threads);
    Server& server = rank.server();
    BatchCall batch(c.shape, {rank.request()});
    ASSERT_EQ(batch.make_plan(server.context(), server.cache()), INTFLASH_OK);
    States states = states_of(batch, 0);
    const std::vector<intflash_state> all = views(states);
    batch.args.states = all.data();
    const intflash_state_set set = set_of(c.shape, c.query_len, all);
    intflash_finish_args args{};
    args.struct_size = sizeof args;
    args.out_dtype = INTFLASH_F32;
    args.out = batch.args.out;
    intflash_state joined = all[0];
    joined.num_keys = 8192;
    const long before = num_allocations();
    const intflash_status left = batch.run(server.cache());
    const intflash_status finished = intflash_finish_states(server.context(), &set, &args);
    const intflash_status merged = intflash_join_states(server.context(), &set, &joined);
    EXPECT_EQ(num_allocations() - before, 0) << threads << " threads";
    EXPECT_EQ(left, INTFLASH_OK);
    EXPECT_EQ(finished, INTFLASH_OK);
    EXPECT_EQ(merged, INTFLASH_OK);
  }
}

TEST(States, AreTheFewestAlignedRunsOfTheKeys) {
  const Case c = {"decode", cases()[0].shape, 7168};
  Rank rank(c, nullptr, 1);
  const auto runs = [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::pair<std::int64_t, std::int64_t>> found;
    for (const OwnState& state : rank.attend_part(rank.request(begin * kSpan, end * kSpan)))
      found.emplace_back(state.first_key / kSpan, state.num_keys / kSpan);
    return found;
  };
  using Runs = std::vector<std::pair<std::int64_t, std::int64_t>>;
  EXPECT_EQ(runs(0, 7), (Runs{{0, 4}, {4, 2}, {6, 1}}));
  EXPECT_EQ(runs(1, 7), (Runs{{1, 1}, {2, 2}, {4, 2}, {6, 1}}));
  EXPECT_EQ(runs(3, 6), (Runs{{3, 1}, {4, 2}}));
  EXPECT_EQ(runs(2, 4), (Runs{{2, 2}}));
}

TEST(States, ThatAreNotWhatThePlanSaysAreRefused) {
  const Case c = {"decode", cases()[0].shape, 5000};
  Rank rank(c, nullptr, 1);
  BatchCall batch(c.shape, {rank.request()});
  ASSERT_EQ(batch.make_plan(rank.server().context(), rank.server().cache()), INTFLASH_OK);
  States states = states_of(batch, 0);
  const std::vector<intflash_state> good = views(states);
  ASSERT_EQ(good.size(), 2u);
  const auto expect_refused = [&](std::vector<intflash_state> bad, std::uint32_t size,
                                  intflash_status status, const char* word) {
    batch.args.states = bad.data();
    batch.args.state_size = size;
    EXPECT_EQ(batch.run(rank.server().cache()), status) << word;
    EXPECT_NE(std::string(intflash_last_error()).find(word), std::string::npos)
        << intflash_last_error();
    EXPECT_TRUE(std::isnan(states[0].row_sum[0]));
  };
  std::vector<intflash_state> bad = good;
  bad[1].first_key = 5120;
  expect_refused(bad, sizeof bad[0], INTFLASH_BAD_SHAPE, "states[1]: 1024 keys from 5120");
  bad = good;
  bad[0].accumulators = nullptr;
  expect_refused(bad, sizeof bad[0], INTFLASH_INVALID_ARGUMENT, "states[0]");
  bad[0].accumulators = misplaced(good[0].accumulators);
  expect_refused(bad, sizeof bad[0], INTFLASH_INVALID_ARGUMENT, "states[0].accumulators");
  expect_refused(good, 0, INTFLASH_INVALID_ARGUMENT, "states: elements of 0");
  std::int64_t first_key = 0, num_keys = 0;
  EXPECT_EQ(intflash_plan_num_states(batch.plan, 0), 2);
  EXPECT_EQ(intflash_plan_num_states(batch.plan, 1), 0);
  EXPECT_EQ(intflash_plan_num_states(nullptr, 0), 0);
  for (const auto& [request, index] : {std::pair{0, 2}, {0, -1}, {1, 0}, {-1, 0}})
    EXPECT_EQ(intflash_plan_get_state_keys(batch.plan, request, index, &first_key, &num_keys),
              INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(intflash_plan_get_state_keys(batch.plan, 0, 0, &first_key, nullptr),
            INTFLASH_INVALID_ARGUMENT);
}

// ---- Some of the keys ----

TEST(KeyRanges, EndAtSpansOrWhereTheRequestsKeysDo) {
  const Case c = {"decode", cases()[0].shape, 5000};
  Rank rank(c, nullptr, 1);
  const auto status_of = [&](std::int64_t first, std::int64_t begin, std::int64_t end) {
    Request request = rank.request();
    request.first_key_position = first;
    request.key_begin = begin;
    request.key_end = end;
    BatchCall batch(c.shape, {request});
    return batch.make_plan(rank.server().context(), rank.server().cache());
  };
  for (const auto& [first, begin, end] :
       {std::array{0, 0, 0}, {0, 0, 1024}, {0, 1024, 5000}, {64, 64, 2048}, {64, 64, 64}})
    EXPECT_EQ(status_of(first, begin, end), INTFLASH_OK) << begin << " ... " << end;
  for (const auto& [first, begin, end] : {std::array{0, 0, 64},
                                          {0, 128, 1024},
                                          {0, 2048, 1024},
                                          {0, 1024, 0},
                                          {0, -1024, 1024},
                                          {0, 1024, 6144},
                                          {64, 0, 1024}}) {
    EXPECT_EQ(status_of(first, begin, end), INTFLASH_BAD_SHAPE) << begin << " ... " << end;
    EXPECT_NE(std::string(intflash_last_error()).find("requests[0]: key_begin = "),
              std::string::npos);
  }
}

TEST(KeyRanges, OfASharedPrefixBeginWithIt) {
  const Case c = {"decode", cases()[0].shape, 5000};
  Rank rank(c, nullptr, 1);
  const auto status_of = [&](const Request& request, std::int64_t prefix_len) {
    BatchCall batch(c.shape, {request, request});
    batch.share({{0, 2, prefix_len}});
    return batch.make_plan(rank.server().context(), rank.server().cache());
  };
  EXPECT_EQ(status_of(rank.request(0, 2048), 2048), INTFLASH_OK);
  EXPECT_EQ(status_of(rank.request(0, 2048), 2049), INTFLASH_BAD_SHAPE);
  EXPECT_EQ(status_of(rank.request(1024, 2048), 2048), INTFLASH_UNSUPPORTED);
}

TEST(KeyRanges, OfSequencesNeedNoLaterTokens) {
  const Case c = {"decode", cases()[0].shape, 2048};
  Rank rank(c, nullptr, 1);
  Server& server = rank.server();
  const std::int32_t sequence = server.create_sequence();
  const Tokens tokens = random_tokens(server.shape(), 1100, 7);
  ASSERT_EQ(server.append(sequence, tokens, 0, 1100), INTFLASH_OK);
  const auto status_of = [&](std::int64_t key_end) {
    Request request = rank.request();
    request.pages.clear();
    request.key_end = key_end;
    BatchCall batch(server.shape(), {request});
    batch.args.pages = {};
    batch.args.sequences = &sequence;
    EXPECT_EQ(batch.make_plan(server.context(), server.cache()), INTFLASH_OK);
    return batch.run(server.cache());
  };
  EXPECT_EQ(status_of(1024), INTFLASH_OK) << intflash_last_error();
  EXPECT_EQ(status_of(2048), INTFLASH_BAD_SHAPE);
}

// Results over some of the keys, without states: as if there were no others.
TEST(KeyRanges, WithoutStatesGiveTheResultsOfTheirKeysAlone) {
  const Case c = {"decode", cases()[0].shape, 5000, 9, INTFLASH_MASK_NONE};
  Rank rank(c, nullptr, 2);
  Request alone = rank.request();
  alone.kv_len = 3072;
  EXPECT_EQ(rank.server().attend({rank.request(0, 3072)}), rank.server().attend({alone}));
}

}  // namespace
}  // namespace intflash::internal::serving
