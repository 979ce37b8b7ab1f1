// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Every backend serves batches over caches: the CPU's ports in mode int8, the reference in the
// modes exact and intfa. Each is held to attention, in double precision, over the tokens that the
// cache gives back.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "pages/codec.h"
#include "serving.h"

namespace intflash::internal::serving {
namespace {

struct Mode {
  const char* name;
  intflash_mode mode;
  double tolerance;  // of the sum of differences, of that of magnitudes
  const Codec* codec = &kInt8Codec;
};
constexpr Mode kModes[] = {{"int8", INTFLASH_MODE_INT8, 0.03},
                           {"exact", INTFLASH_MODE_EXACT, 1e-6},
                           {"intfa", INTFLASH_MODE_INTFA, 0.08},
                           {"int8_qk", INTFLASH_MODE_INT8_QK, 0.02, &kK8v16Codec}};

struct Exported {
  std::vector<float> key, value;  // [heads][tokens][dim]
};

Exported export_of(const Server& server, const Request& request) {
  const Shape& shape = server.shape();
  const std::int64_t count = request.kv_len - request.first_key_position;
  Exported tokens;
  const auto target = [&](std::vector<float>& floats, std::int64_t dim) {
    floats.resize(static_cast<std::size_t>(shape.num_kv_heads * count * dim));
    intflash_tensor tensor{};
    tensor.data = floats.data();
    tensor.stride_head = count * dim;
    tensor.stride_token = dim;
    return tensor;
  };
  const intflash_tensor key = target(tokens.key, shape.head_dim);
  const intflash_tensor value = target(tokens.value, shape.head_dim_v);
  EXPECT_EQ(intflash_cache_export(server.cache(), request.pages.data(), 0, count, &key, &value),
            INTFLASH_OK)
      << intflash_last_error();
  return tokens;
}

bool is_seen(const Request& request, std::int64_t position, std::int64_t key) {
  switch (request.mask) {
    case INTFLASH_MASK_CAUSAL:
      return key <= position;
    case INTFLASH_MASK_WINDOW:
      return key >= position - request.window_left && key <= position + request.window_right;
    case INTFLASH_MASK_PREFIX:
      return key <= position || key < request.prefix_len;
    default:
      return true;
  }
}

// The definition, row by row.
Result attend(const Server& server, const Request& request, float cap) {
  const Shape& shape = server.shape();
  const Exported tokens = export_of(server, request);
  const std::int64_t heads = shape.num_query_heads();
  const std::int64_t count = request.kv_len - request.first_key_position;
  Result result;
  result.out.resize(static_cast<std::size_t>(request.query_len * heads * shape.head_dim_v));
  result.lse.resize(static_cast<std::size_t>(request.query_len * heads));
  const double scale = 1 / std::sqrt(static_cast<double>(shape.head_dim));
  for (std::int64_t row = 0; row < request.query_len * heads; ++row) {
    const std::int64_t head = row % heads;
    const std::int64_t kv_head = head / shape.group_size;
    const std::int64_t position = request.kv_len - request.query_len + row / heads;
    std::vector<double> out(static_cast<std::size_t>(shape.head_dim_v));
    const bool has_sink = !shape.sinks.empty();
    double sum = has_sink ? std::exp(shape.sinks[static_cast<std::size_t>(head)]) : 0;
    for (std::int64_t t = 0; t < count; ++t) {
      const std::int64_t key = request.first_key_position + t;
      if (!is_seen(request, position, key)) continue;
      double score = 0;
      for (std::int64_t c = 0; c < shape.head_dim; ++c)
        score += static_cast<double>(request.query[row * shape.head_dim + c]) *
                 tokens.key[static_cast<std::size_t>((kv_head * count + t) * shape.head_dim + c)];
      score *= scale;
      if (cap > 0) score = cap * std::tanh(score / cap);
      if (!shape.slopes.empty())
        score -= shape.slopes[static_cast<std::size_t>(head)] *
                 static_cast<double>(std::abs(position - key));
      sum += std::exp(score);
      for (std::int64_t c = 0; c < shape.head_dim_v; ++c)
        out[static_cast<std::size_t>(c)] +=
            std::exp(score) *
            tokens.value[static_cast<std::size_t>((kv_head * count + t) * shape.head_dim_v + c)];
    }
    for (std::int64_t c = 0; c < shape.head_dim_v; ++c)
      result.out[static_cast<std::size_t>(row * shape.head_dim_v + c)] =
          static_cast<float>(sum > 0 ? out[static_cast<std::size_t>(c)] / sum : 0);
    result.lse[static_cast<std::size_t>(head * request.query_len + row / heads)] =
        static_cast<float>(std::log(sum));
  }
  return result;
}

void expect_close(const std::vector<float>& found, const std::vector<float>& expected,
                  double tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    difference += std::fabs(static_cast<double>(found[i]) - expected[i]);
    size += std::fabs(static_cast<double>(expected[i]));
  }
  EXPECT_LE(difference, tolerance * size);
}

class Backends : public testing::TestWithParam<Mode> {
 protected:
  static Shape shape_of_mode() {
    Shape shape;
    shape.codec = GetParam().codec;
    return shape;
  }
  // Requests of several kinds over pages in disorder.
  std::vector<Request> requests_of(Server& server) {
    const Shape& shape = server.shape();
    server.mode = GetParam().mode;
    std::vector<Request> requests;
    std::int32_t first_page = 0;
    const auto add = [&](std::int64_t kv_len, std::int64_t query_len, intflash_mask mask) {
      tokens_.push_back(random_tokens(shape, kv_len, 5 + static_cast<std::uint64_t>(first_page)));
      Request request;
      request.pages = page_range(first_page, (kv_len + shape.page_size - 1) / shape.page_size);
      std::reverse(request.pages.begin(), request.pages.end());
      first_page += static_cast<std::int32_t>(request.pages.size());
      server.append(tokens_.back(), 0, kv_len, request.pages);
      request.kv_len = kv_len;
      request.query_len = query_len;
      request.mask = mask;
      request.window_left = 40;
      request.prefix_len = 30;
      requests.push_back(request);
    };
    tokens_.reserve(5);
    add(300, 1, INTFLASH_MASK_CAUSAL);
    add(77, 77, INTFLASH_MASK_CAUSAL);
    add(130, 9, INTFLASH_MASK_WINDOW);
    add(64, 20, INTFLASH_MASK_PREFIX);
    add(1100, 3, INTFLASH_MASK_NONE);
    for (std::size_t r = 0; r < requests.size(); ++r) {
      const std::int64_t row = shape.num_query_heads() * shape.head_dim;
      requests[r].query =
          tokens_[r].query.data() + (requests[r].kv_len - requests[r].query_len) * row;
    }
    return requests;
  }
  void expect_definition(Server& server, float cap = 0) {
    const std::vector<Request> requests = requests_of(server);
    const std::vector<Result> results = server.attend(requests, cap);
    for (std::size_t r = 0; r < requests.size(); ++r) {
      SCOPED_TRACE(r);
      const Result expected = attend(server, requests[r], cap);
      expect_close(results[r].out, expected.out, GetParam().tolerance);
      expect_close(results[r].lse, expected.lse, GetParam().tolerance);
    }
  }

 private:
  std::vector<Tokens> tokens_;
};

TEST_P(Backends, AttendWhatACacheGivesBack) {
  Shape shape = shape_of_mode();
  shape.num_threads = 3;
  Server server(shape);
  expect_definition(server);
}

TEST_P(Backends, AttendCentredAndRotatedKeysAsTheyWere) {
  Shape shape = shape_of_mode();
  shape.rotate = shape.centered = true;
  shape.head_dim = 64;
  Server server(shape);
  expect_definition(server);
}

TEST_P(Backends, KnowCapsAndAllButIntfaSinksAndSlopes) {
  Shape shape = shape_of_mode();
  if (GetParam().mode != INTFLASH_MODE_INTFA) {
    shape.sinks = {1, 2, -1, 0.5f};
    shape.slopes = {0.1f, 0, 0.02f, 0.5f};
  }
  Server server(shape);
  expect_definition(server, 3);
}

TEST_P(Backends, GiveTheSameBitsByTasksAndInAnyBatch) {
  Shape shape = shape_of_mode();
  shape.num_threads = 3;
  Server server(shape);
  const std::vector<Request> requests = requests_of(server);
  const std::vector<Result> whole = server.attend(requests);
  EXPECT_EQ(server.attend_by_tasks(requests, 7), whole);
  for (std::size_t r = 0; r < requests.size(); ++r)
    EXPECT_EQ(server.attend({requests[r]})[0], whole[r]) << r;
}

TEST_P(Backends, TurnQueriesAsTheyTurnKeys) {
  Shape shape = shape_of_mode();
  Server server(shape);
  std::vector<float> cos(400 * 8), sin(400 * 8);
  for (std::size_t i = 0; i < cos.size(); ++i) {
    const double angle =
        static_cast<double>(i / 8) / std::pow(100.0, static_cast<double>(i % 8) / 8);
    cos[i] = static_cast<float>(std::cos(angle));
    sin[i] = static_cast<float>(std::sin(angle));
  }
  server.rope = {cos.data(), sin.data(), 400, 16, INTFLASH_ROPE_HALVES};
  server.mode = GetParam().mode;
  const Tokens tokens = random_tokens(shape, 200, 3);
  Request request;
  request.pages = page_range(0, 4);
  request.kv_len = 200;
  request.query_len = 5;
  server.append(tokens, 0, 200, request.pages);
  const std::int64_t row = shape.num_query_heads() * shape.head_dim;
  request.query = tokens.query.data() + 195 * row;
  const Result found = server.attend({request})[0];
  // By the definition of rope, on the caller's side.
  std::vector<float> turned(request.query, request.query + 5 * row);
  for (std::size_t i = 0; i < turned.size(); i += 32) {
    const std::size_t at = (195 + i / static_cast<std::size_t>(row)) * 8;
    for (std::size_t pair = 0; pair < 8; ++pair) {
      const double x = turned[i + pair], y = turned[i + pair + 8];
      turned[i + pair] = static_cast<float>(x * cos[at + pair] - y * sin[at + pair]);
      turned[i + pair + 8] = static_cast<float>(x * sin[at + pair] + y * cos[at + pair]);
    }
  }
  request.query = turned.data();
  expect_close(found.out, attend(server, request, 0).out, GetParam().tolerance);
}

TEST_P(Backends, RefuseWhatIsNotFiniteAndLeaveTheOutputsAlone) {
  Server server(shape_of_mode());
  const std::vector<Request> requests = requests_of(server);
  BatchCall call(server.shape(), requests);
  call.desc.mode = GetParam().mode;
  call.query[5] = NAN;
  std::fill(call.out.begin(), call.out.end(), 7.0f);
  ASSERT_EQ(call.make_plan(server.context(), server.cache()), INTFLASH_OK);
  EXPECT_EQ(call.run(server.cache()), INTFLASH_NONFINITE_INPUT);
  EXPECT_TRUE(std::all_of(call.out.begin(), call.out.end(), [](float x) { return x == 7; }));
  call.query[5] = 0;
  call.page_ids[0] = 1000;
  EXPECT_EQ(call.run(server.cache()), INTFLASH_INVALID_ARGUMENT);
  EXPECT_TRUE(std::all_of(call.out.begin(), call.out.end(), [](float x) { return x == 7; }));
}

TEST_P(Backends, EndWhereTheCallerCancels) {
  Server server(shape_of_mode());
  const std::vector<Request> requests = requests_of(server);
  BatchCall call(server.shape(), requests);
  call.desc.mode = GetParam().mode;
  int asked = 0;
  call.args.should_cancel = [](void* user) { return ++*static_cast<int*>(user) > 2 ? 1 : 0; };
  call.args.cancel_user = &asked;
  ASSERT_EQ(call.make_plan(server.context(), server.cache()), INTFLASH_OK);
  EXPECT_EQ(call.run(server.cache()), INTFLASH_CANCELLED);
  EXPECT_EQ(asked, 3);
}

TEST_P(Backends, SayWhatTheyAre) {
  Server server(shape_of_mode());
  BatchCall call(server.shape(), {});
  call.desc.mode = GetParam().mode;
  intflash_plan_info info{};
  info.struct_size = sizeof info;
  ASSERT_EQ(intflash_query_batch_support(server.context(), server.cache(), &call.desc, &info),
            INTFLASH_OK);
  EXPECT_STREQ(info.mode, GetParam().name);
  EXPECT_NE(std::string(info.kernel).find(GetParam().name), std::string::npos) << info.kernel;
}

INSTANTIATE_TEST_SUITE_P(Modes, Backends, testing::ValuesIn(kModes),
                         [](const auto& mode) { return std::string(mode.param.name); });

// One row over 64 tokens in page 0.
struct SmallBatch {
  SmallBatch() : tokens(random_tokens(server.shape(), 64, 1)), call(server.shape(), {request()}) {
    server.append(tokens, 0, 64, page_range(0, 1));
  }
  Request request() const {
    Request row;
    row.kv_len = 64;
    row.pages = page_range(0, 1);
    row.query = tokens.query.data();
    return row;
  }

  Server server{Shape{}};
  Tokens tokens;
  BatchCall call;
};

TEST(BatchMode, IsCheckedAndLeavesNoStatesButInInt8) {
  Server server(Shape{});
  BatchCall call(server.shape(), {});
  call.desc.mode = static_cast<intflash_mode>(4);
  EXPECT_EQ(call.make_plan(server.context(), server.cache()), INTFLASH_INVALID_ARGUMENT);
  call.desc.mode = INTFLASH_MODE_EXACT;
  ASSERT_EQ(call.make_plan(server.context(), server.cache()), INTFLASH_OK);
  const intflash_state none{};
  call.args.states = &none;
  call.args.state_size = sizeof none;
  EXPECT_EQ(call.run(server.cache()), INTFLASH_UNSUPPORTED);
}

TEST(BatchMode, IsTheOneThatTheCodecIsFor) {
  for (const Codec* codec : {&kInt8Codec, &kInt8WideCodec, &kK8v4Codec, &kK8v16Codec}) {
    Shape shape;
    shape.codec = codec;
    Server server(shape);
    BatchCall call(shape, {});
    const bool is_f16 = codec == &kK8v16Codec;
    call.desc.mode = is_f16 ? INTFLASH_MODE_INT8 : INTFLASH_MODE_INT8_QK;
    EXPECT_EQ(call.make_plan(server.context(), server.cache()), INTFLASH_UNSUPPORTED);
    EXPECT_NE(std::string(intflash_last_error()).find(is_f16 ? "must be INT8_QK" : "must be INT8,"),
              std::string::npos)
        << intflash_last_error();
    call.desc.mode = INTFLASH_MODE_EXACT;
    EXPECT_EQ(call.make_plan(server.context(), server.cache()), INTFLASH_OK);
  }
}

TEST(BatchMode, IntfaRefusesWhatTheAlgorithmDoesNotKnow) {
  SmallBatch small;
  small.call.desc.mode = INTFLASH_MODE_INTFA;
  BatchCall& call = small.call;
  ASSERT_EQ(call.make_plan(small.server.context(), small.server.cache()), INTFLASH_OK);
  const auto run = [&] { return call.run(small.server.cache()); };
  EXPECT_EQ(run(), INTFLASH_OK) << intflash_last_error();
  const std::vector<float> numbers(64);
  call.args.sinks = numbers.data();
  EXPECT_EQ(run(), INTFLASH_UNSUPPORTED);
  call.args.sinks = nullptr;
  call.args.alibi_slopes = numbers.data();
  EXPECT_EQ(run(), INTFLASH_UNSUPPORTED);
  call.args.alibi_slopes = nullptr;
  call.additive_masks[0].data = numbers.data();
  call.additive_masks[0].dtype = INTFLASH_F32;
  EXPECT_EQ(run(), INTFLASH_UNSUPPORTED);
}

TEST(BatchMode, OtherThanInt8HasNoStates) {
  for (const intflash_mode mode : {INTFLASH_MODE_INT8, INTFLASH_MODE_EXACT}) {
    SmallBatch small;
    small.call.desc.mode = mode;
    ASSERT_EQ(small.call.make_plan(small.server.context(), small.server.cache()), INTFLASH_OK);
    EXPECT_EQ(intflash_plan_num_states(small.call.plan, 0), mode == INTFLASH_MODE_INT8 ? 1 : 0);
  }
}

TEST(Workspaces, ThatABatchHasTakenHoldNoPackedKeys) {
  SmallBatch small;
  const Server& server = small.server;
  const Shape& shape = server.shape();
  const Tokens& tokens = small.tokens;
  BatchCall& call = small.call;
  ASSERT_EQ(call.make_plan(server.context(), server.cache()), INTFLASH_OK);

  intflash_attend_desc desc{};
  desc.struct_size = sizeof desc;
  desc.batch = 1;
  desc.num_query_heads = shape.num_query_heads();
  desc.num_kv_heads = shape.num_kv_heads;
  desc.query_len = desc.kv_len = 64;
  desc.head_dim = shape.head_dim;
  desc.query_dtype = desc.key_dtype = desc.value_dtype = desc.out_dtype = INTFLASH_F32;
  std::vector<float> out(tokens.query.size());
  intflash_attend_args args{};
  args.struct_size = sizeof args;
  args.query = tensor_of(tokens.query.data(), shape.num_query_heads(), shape.head_dim);
  args.key = tensor_of(tokens.key.data(), shape.num_kv_heads, shape.head_dim);
  args.value = tensor_of(tokens.value.data(), shape.num_kv_heads, shape.head_dim);
  args.out = tensor_of(out.data(), shape.num_query_heads(), shape.head_dim);
  intflash_plan* plan = nullptr;
  ASSERT_EQ(intflash_plan_attend(server.context(), &desc, &plan), INTFLASH_OK);
  const std::size_t bytes = std::max(intflash_plan_workspace_bytes(plan), call.workspace_bytes);
  const AlignedMemory workspace = aligned_memory(bytes);
  const auto run_packed = [&] { return intflash_run_packed(plan, &args, workspace.get(), bytes); };
  ASSERT_EQ(intflash_pack(plan, &args, workspace.get(), bytes), INTFLASH_OK);
  EXPECT_EQ(run_packed(), INTFLASH_OK) << intflash_last_error();
  EXPECT_EQ(run_packed(), INTFLASH_OK) << intflash_last_error();
  call.page_ids[0] = 1000;
  EXPECT_EQ(intflash_begin_batch(call.plan, server.cache(), &call.args, workspace.get(), bytes),
            INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(run_packed(), INTFLASH_INVALID_ARGUMENT);
  intflash_plan_destroy(plan);
}

}  // namespace
}  // namespace intflash::internal::serving
