// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What a cache on the emulated CUDA device refuses, by name, and leaves as it was.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "cuda_cache_attempt.h"

namespace intflash::internal {
namespace {

TEST_F(CudaCache, OfShapesThatAreNotServedIsRefusedByName) {
  const DeviceContext context;
  const auto expect_refused = [&](const std::function<void(intflash_cache_options&)>& change,
                                  const std::string& word) {
    intflash_cache_options options = small_options();
    change(options);
    intflash_cache* cache = nullptr;
    expect_error(intflash_cache_create(context.get(), &options, &cache), INTFLASH_UNSUPPORTED,
                 {word, "cuda:0"});
  };
  expect_refused([](auto& options) { options.codec = INTFLASH_CODEC_K8V4; }, "codec");
  expect_refused([](auto& options) { options.num_kv_heads = 65536; }, "kv heads");
}

TEST_F(CudaCache, RefusesTokensThatItDoesNotServe) {
  Attempt attempt;
  const intflash_append_args good = attempt.tokens;
  attempt.tokens.key_dtype = INTFLASH_Q8_0;
  attempt.tokens.key.stride_head = attempt.tokens.key.stride_token = 64;
  attempt.expect_append_refused(INTFLASH_UNSUPPORTED, {"key_dtype", "cuda:0"});
  attempt.tokens = good;
  static const float scale[2 * 2] = {1, 1, 1, 1};
  attempt.tokens.value_dtype = INTFLASH_INT8;
  attempt.tokens.value.scale = scale;
  attempt.expect_append_refused(INTFLASH_UNSUPPORTED, {"value_dtype", "cuda:0"});
  attempt.tokens = good;
  static float host[2 * 2 * 72];
  attempt.tokens.key.data = host;
  attempt.expect_append_refused(INTFLASH_INVALID_ARGUMENT, {"key", "host's memory"});
  attempt.tokens = good;
  attempt.tokens.value.data = host;
  attempt.expect_append_refused(INTFLASH_INVALID_ARGUMENT, {"value", "host's memory"});
  attempt.tokens = good;
  attempt.tokens.rope = {host, host, 200, 2, INTFLASH_ROPE_HALVES};
  attempt.expect_append_refused(INTFLASH_INVALID_ARGUMENT, {"rope.cos", "host's memory"});
  attempt.tokens = good;
  attempt.expect_usable();
}

TEST_F(CudaCache, NamesTheLowestElementThatIsOutOfRange) {
  CacheCase c;
  c.has_rope = true;
  Attempt attempt(c);
  float* const value = attempt.element(attempt.tokens.value, 0, 1, 63);
  const float good_value = std::exchange(*value, -INFINITY);
  attempt.expect_append_refused(INTFLASH_NONFINITE_INPUT,
                                {"value[request 0][token 1][head 0][63] = -inf"});
  float* const key = attempt.element(attempt.tokens.key, 0, 1, 7);
  const float good_key = std::exchange(*key, 2e30f);
  attempt.expect_append_refused(INTFLASH_SCORE_OVERFLOW,
                                {"key[request 0][token 1][head 0][7] = 2e+30", "1.26765e+30"});
  auto* const sin = const_cast<float*>(attempt.side.rope().sin) + 101 * 32 + 9;
  const float good_sin = std::exchange(*sin, NAN);
  attempt.expect_append_refused(INTFLASH_NONFINITE_INPUT, {"rope", "position 101, pair 9", "nan"});
  *value = good_value;
  *key = good_key;
  *sin = good_sin;
  attempt.expect_usable();
}

TEST_F(CudaCache, DoesNotLookAtTokensThatGoNowhere) {
  CacheSide side({}, Place::kDevice);
  const std::vector<std::int64_t> indptr{0, 3};
  intflash_append_args args = side.append_args(indptr, 0, 1);
  static_cast<float*>(args.key.data)[args.key.stride_token] = NAN;
  const std::int64_t slots[] = {5, -1, 70};
  args.slots = slots;
  EXPECT_EQ(intflash_cache_append(side.cache(), &args), INTFLASH_OK) << intflash_last_error();
  const std::int64_t other[] = {5, 9, -1};
  args.slots = other;
  expect_error(intflash_cache_append(side.cache(), &args), INTFLASH_NONFINITE_INPUT,
               {"key[request 0][token 1][head 0][0]"});
}

TEST_F(CudaCache, RefusesBatchesThatItDoesNotServe) {
  Attempt attempt;
  const intflash_batch_args good = attempt.args;
  static const float numbers[8] = {};
  attempt.args.sinks = numbers;
  attempt.expect_batch_refused(INTFLASH_INVALID_ARGUMENT, {"sinks", "host's memory"});
  attempt.args.sinks = attempt.element(attempt.tokens.key, 0, 0, 0);
  float* const sink = attempt.element(attempt.tokens.key, 0, 0, 3);
  const float good_sink = std::exchange(*sink, NAN);
  attempt.expect_batch_refused(INTFLASH_NONFINITE_INPUT, {"sinks[3] = nan"});
  *sink = good_sink;
  attempt.args = good;
  attempt.args.sequences = nullptr;
  const std::int64_t page_indptr[] = {0, 2};
  const std::int32_t page_ids[] = {0, 64};
  attempt.args.pages = {page_indptr, page_ids};
  CacheSide::Result result;
  expect_error(attempt.side.try_attend({request_of(1, 100)}, attempt.args, 3, result),
               INTFLASH_INVALID_ARGUMENT, {"page_ids[1] = 64", "0 ... 63"});
  attempt.args = good;
  attempt.expect_usable();
}

// A batch's description is refused by the plan.
TEST_F(CudaCache, RefusesPlansThatItDoesNotServe) {
  const Attempt attempt;
  const intflash_request request = request_of(1, 100);
  const auto expect_refused = [&](const std::function<void(intflash_batch_desc&)>& change,
                                  const std::string& word) {
    intflash_batch_desc desc = desc_of(request);
    change(desc);
    expect_error(
        intflash_query_batch_support(attempt.side.context(), attempt.side.cache(), &desc, nullptr),
        INTFLASH_UNSUPPORTED, {word, "cuda:0"});
  };
  expect_refused([](auto& desc) { desc.mode = INTFLASH_MODE_EXACT; }, "mode");
  expect_refused([](auto& desc) { desc.query_dtype = INTFLASH_INT8; }, "query_dtype");
}

TEST_F(CudaCache, OfAnotherDeviceIsRefused) {
  Attempt attempt;
  intflash_context_options options{};
  options.struct_size = sizeof options;
  options.device = "cuda:1";
  intflash_context* other = nullptr;
  ASSERT_EQ(intflash_context_create(&options, &other), INTFLASH_OK) << intflash_last_error();
  const intflash_request request = request_of(1, 100);
  intflash_batch_desc desc = desc_of(request);
  expect_error(intflash_query_batch_support(other, attempt.side.cache(), &desc, nullptr),
               INTFLASH_INVALID_ARGUMENT, {"cache", "cuda:0", "cuda:1"});
  const CacheSide near({}, Place::kHost);
  expect_error(intflash_query_batch_support(other, near.cache(), &desc, nullptr),
               INTFLASH_UNSUPPORTED, {"storage host", "cuda:1"});
  intflash_context_destroy(other);
  attempt.expect_usable();
}

// ---- Magnitudes ----

// Keys beyond what scores may be count where a query sees them, and not beside it in a page.
TEST_F(CudaCache, ScoresThatLeaveTheRangeAreAnErrorWhereAQuerySeesTheKey) {
  CacheCase c;
  c.query_magnitude = 1e20f;
  for (const Place place : {Place::kDevice, Place::kHost}) {
    CacheSide side(c, place);
    const std::vector<std::int64_t> indptr{0, 40};
    const std::int32_t sequence = side.create_sequence();
    intflash_append_args tokens = side.append_args(indptr, 0, 1);
    static_cast<float*>(tokens.key.data)[3 * tokens.key.stride_token] = 1e29f;
    ASSERT_EQ(intflash_sequences_append(side.cache(), &sequence, &tokens), INTFLASH_OK);
    intflash_batch_args args{};
    args.sequences = &sequence;
    intflash_request request = request_of(1, 40);
    CacheSide::Result result;
    expect_error(side.try_attend({request}, args, 2, result), INTFLASH_SCORE_OVERFLOW,
                 {"magnitudes up to"});
    request.mask = INTFLASH_MASK_WINDOW;
    request.window_left = 20;
    EXPECT_EQ(side.try_attend({request}, args, 2, result), INTFLASH_OK) << intflash_last_error();
  }
}

}  // namespace
}  // namespace intflash::internal
