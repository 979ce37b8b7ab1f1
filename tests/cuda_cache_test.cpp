// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Caches on the emulated CUDA device behind the C interface: sequences that go from one device to
// another, what is refused, and that what fails changes nothing.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "cuda_serving.h"
#include "emulated_cuda.h"

namespace intflash::internal {
namespace {

// The machine as it was, and nothing of its memory taken, after a test that changed it.
class CudaCache : public testing::Test {
 protected:
  ~CudaCache() override {
    const std::size_t allocations = emulated_machine().allocations;
    emulated_machine() = {};
    EXPECT_EQ(allocations, 0u);
  }
};

void expect_error(intflash_status found, intflash_status expected,
                  const std::vector<std::string>& words) {
  EXPECT_STREQ(intflash_status_name(found), intflash_status_name(expected));
  const std::string message = intflash_last_error();
  for (const std::string& word : words)
    EXPECT_NE(message.find(word), std::string::npos) << '"' << message << "\" lacks " << word;
}

// ---- From one device to another ----

CacheCase long_case() {
  CacheCase c;
  c.head_dim = 80;
  c.page_size = 128;
  c.num_layers = 2;
  c.codec = INTFLASH_CODEC_INT8_WIDE;
  c.rotate = c.centered = c.has_rope = true;
  c.rope_dim = 80;
  c.key_dtype = c.query_dtype = c.out_dtype = INTFLASH_F16;
  c.value_dtype = INTFLASH_BF16;
  return c;
}

// A prompt on one device, and the tokens after it, with a query each, on another.
std::vector<CacheSide::Result> prefill_and_decode(Place first, Place then) {
  std::vector<CacheSide::Result> results;
  CacheSide prefill(long_case(), first), decode(long_case(), then);
  const std::int32_t prompt = prefill.create_sequence();
  prefill.append({prompt}, {1100}, 1);
  intflash_batch_args args{};
  args.layer = 1;
  args.sequences = &prompt;
  results.push_back(prefill.attend({request_of(70, 1100)}, args, 5));
  const std::int32_t loaded = decode.load(prefill.save(prompt));
  args.sequences = &loaded;
  for (std::int64_t kv_len = 1101; kv_len < 1104; ++kv_len) {
    decode.append({loaded}, {1}, static_cast<std::uint32_t>(kv_len));
    results.push_back(decode.attend({request_of(1, kv_len)}, args, 6));
  }
  return results;
}

TEST_F(CudaCache, SequencesGoFromDeviceToDeviceAndOnToTheSameBits) {
  const std::vector<CacheSide::Result> expected = prefill_and_decode(Place::kHost, Place::kHost);
  EXPECT_TRUE(prefill_and_decode(Place::kDevice, Place::kHost) == expected);
  EXPECT_TRUE(prefill_and_decode(Place::kHost, Place::kDevice) == expected);
}

TEST_F(CudaCache, ForksOfASequenceShareItsPages) {
  const auto use = [](Place place) {
    CacheSide side({}, place);
    const std::int32_t first = side.create_sequence();
    side.append({first}, {100}, 1);
    std::int32_t fork = -1;
    EXPECT_EQ(intflash_sequence_fork(side.cache(), first, &fork), INTFLASH_OK);
    side.append({first, fork}, {7, 30}, 2);
    EXPECT_EQ(intflash_sequence_truncate(side.cache(), fork, 90), INTFLASH_OK);
    side.append({fork}, {1}, 3);
    const std::int32_t sequences[] = {first, fork};
    intflash_batch_args args{};
    args.sequences = sequences;
    const CacheSide::Result result = side.attend({request_of(2, 107), request_of(3, 91)}, args, 4);
    return std::make_pair(result, side.save(fork));
  };
  EXPECT_TRUE(use(Place::kDevice) == use(Place::kHost));
}

// What a block held is gone, though nothing is stored in those places.
TEST_F(CudaCache, ATokenInTheFirstPlaceOfABlockBeginsItAnew) {
  const auto use = [](Place place) {
    CacheSide side({}, place);
    std::vector<std::int64_t> slots;
    for (std::int64_t i = 0; i < 64; ++i) slots.push_back(63 - i);
    const std::vector<std::int64_t> whole{0, 64}, one{0, 1};
    intflash_append_args tokens = side.append_args(whole, 0, 1);
    tokens.slots = slots.data();
    EXPECT_EQ(intflash_cache_append(side.cache(), &tokens), INTFLASH_OK) << intflash_last_error();
    tokens = side.append_args(one, 0, 2);
    tokens.slots = slots.data() + 63;
    EXPECT_EQ(intflash_cache_append(side.cache(), &tokens), INTFLASH_OK) << intflash_last_error();
    const std::int64_t page_indptr[] = {0, 1};
    const std::int32_t page = 0;
    intflash_batch_args args{};
    args.pages = {page_indptr, &page};
    return side.attend({request_of(1, 64)}, args, 3);
  };
  EXPECT_TRUE(use(Place::kDevice) == use(Place::kHost));
}

// ---- What is not served ----

intflash_cache_options small_options() {
  intflash_cache_options options{};
  options.struct_size = sizeof options;
  options.num_kv_heads = 2;
  options.head_dim = 64;
  options.num_pages = 8;
  return options;
}

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
  expect_refused([](auto& options) { options.head_dim = 72; }, "head_dim");
  expect_refused([](auto& options) { options.head_dim_v = 128; }, "head_dim");
  expect_refused([](auto& options) { options.codec = INTFLASH_CODEC_K8V4; }, "codec");
  expect_refused([](auto& options) { options.num_kv_heads = 65536; }, "kv heads");
}

TEST_F(CudaCache, MayLieInArenasOfTheDevicesMemory) {
  const DeviceContext context;
  DeviceMemory memory;
  const std::size_t bytes = 8 * 2 * 64 * (64 + 64 + 12);
  intflash_cache_options options = small_options();
  static char host[bytes] __attribute__((aligned(64)));
  options.arena = host;
  options.arena_bytes = bytes;
  intflash_cache* cache = nullptr;
  expect_error(intflash_cache_create(context.get(), &options, &cache), INTFLASH_INVALID_ARGUMENT,
               {"arena", "host's memory"});
  options.arena = memory.take(bytes + 256);
  options.arena_bytes = bytes - 1;
  expect_error(intflash_cache_create(context.get(), &options, &cache), INTFLASH_INVALID_ARGUMENT,
               {"arena", "143360"});
  void* const arena =
      reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(options.arena) + 63) / 64 * 64);
  options.arena = nullptr;
  options.layer_arenas = &arena;
  options.arena_bytes = bytes;
  ASSERT_EQ(intflash_cache_create(context.get(), &options, &cache), INTFLASH_OK)
      << intflash_last_error();
  intflash_cache_destroy(cache);
}

// An append, and a batch, over a cache with a sequence of 100 tokens, which must stay as it is.
struct Attempt {
  explicit Attempt(const CacheCase& c = {}) : side(c, Place::kDevice) {
    sequence = side.create_sequence();
    side.append({sequence}, {100}, 1);
    before = side.save(sequence);
    tokens = side.append_args(indptr, 0, 2);
    args.sequences = &sequence;
  }
  void expect_append_refused(intflash_status expected, const std::vector<std::string>& words) {
    expect_error(intflash_sequences_append(side.cache(), &sequence, &tokens), expected, words);
    EXPECT_TRUE(side.save(sequence) == before);
  }
  void expect_batch_refused(intflash_status expected, const std::vector<std::string>& words) {
    CacheSide::Result untouched, result;
    EXPECT_EQ(side.try_attend({request_of(2, 101)}, args, 3, untouched), INTFLASH_BAD_SHAPE);
    expect_error(side.try_attend({request_of(2, 100)}, args, 3, result), expected, words);
    EXPECT_TRUE(result == untouched);
  }
  // All is as if nothing had been tried.
  void expect_usable() {
    ASSERT_EQ(intflash_sequences_append(side.cache(), &sequence, &tokens), INTFLASH_OK)
        << intflash_last_error();
    side.attend({request_of(2, 102)}, args, 3);
  }
  float* element(const intflash_tensor& tensor, std::int64_t head, std::int64_t token,
                 std::int64_t c) const {
    return static_cast<float*>(tensor.data) + head * tensor.stride_head +
           token * tensor.stride_token + c;
  }

  const std::vector<std::int64_t> indptr{0, 2};
  CacheSide side;
  std::int32_t sequence = -1;
  std::vector<char> before;
  intflash_append_args tokens{};
  intflash_batch_args args{};
};

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
  attempt.args.alibi_slopes = numbers;
  attempt.expect_batch_refused(INTFLASH_UNSUPPORTED, {"alibi_slopes"});
  attempt.args = good;
  const intflash_additive_mask additive{};
  attempt.args.additive_masks = &additive;
  attempt.args.additive_mask_size = sizeof additive;
  attempt.expect_batch_refused(INTFLASH_UNSUPPORTED, {"additive_masks"});
  attempt.args = good;
  const intflash_bit_mask bits{};
  attempt.args.bit_masks = &bits;
  attempt.args.bit_mask_size = sizeof bits;
  attempt.expect_batch_refused(INTFLASH_UNSUPPORTED, {"bit_masks"});
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
    intflash_batch_desc desc{};
    desc.struct_size = sizeof desc;
    desc.request_size = sizeof request;
    desc.num_requests = 1;
    desc.requests = &request;
    desc.num_query_heads = 4;
    desc.query_dtype = desc.out_dtype = INTFLASH_F32;
    change(desc);
    expect_error(
        intflash_query_batch_support(attempt.side.context(), attempt.side.cache(), &desc, nullptr),
        INTFLASH_UNSUPPORTED, {word, "cuda:0"});
  };
  expect_refused([](auto& desc) { desc.mode = INTFLASH_MODE_EXACT; }, "mode");
  expect_refused([](auto& desc) { desc.score_cap = 30; }, "score_cap");
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
  intflash_batch_desc desc{};
  desc.struct_size = sizeof desc;
  desc.request_size = sizeof request;
  desc.num_requests = 1;
  desc.requests = &request;
  desc.num_query_heads = 4;
  desc.query_dtype = desc.out_dtype = INTFLASH_F32;
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

// ---- What fails ----

TEST_F(CudaCache, OutOfMemoryIsAStatusAndAllStaysUsable) {
  const DeviceContext context;
  intflash_cache_options options = small_options();
  intflash_cache* cache = nullptr;
  emulated_machine().bytes_left = 140000;
  expect_error(intflash_cache_create(context.get(), &options, &cache), INTFLASH_OUT_OF_MEMORY,
               {"cuda:0", "143360"});
  emulated_machine().bytes_left = ~std::size_t{0};
  CacheSide side({}, Place::kDevice);
  const std::int32_t sequence = side.create_sequence();
  side.append({sequence}, {1}, 1);
  const std::vector<std::int64_t> indptr{0, 2000};
  const intflash_append_args tokens = side.append_args(indptr, 0, 2);
  emulated_machine().bytes_left = 100;
  expect_error(intflash_sequences_append(side.cache(), &sequence, &tokens), INTFLASH_OUT_OF_MEMORY,
               {"out of memory"});
  emulated_machine().bytes_left = ~std::size_t{0};
  EXPECT_EQ(intflash_sequences_append(side.cache(), &sequence, &tokens), INTFLASH_OK)
      << intflash_last_error();
}

// Checks come before pages are written; what fails there later leaves no cache that is read.
TEST_F(CudaCache, ADeviceThatIsLostIsAStatusOfEachCallFromThenOn) {
  Attempt attempt;
  CacheSide::Result result;
  emulated_machine().launches_left = 0;
  const auto append = [&] {
    return intflash_sequences_append(attempt.side.cache(), &attempt.sequence, &attempt.tokens);
  };
  expect_error(append(), INTFLASH_DEVICE_FAILED, {"cuda:0", "looking at tokens", "is lost"});
  expect_error(attempt.side.try_attend({request_of(2, 100)}, attempt.args, 3, result),
               INTFLASH_DEVICE_FAILED, {"cuda:0", "quantizing", "is lost"});
  emulated_machine().launches_left = ~std::size_t{0};
  EXPECT_TRUE(attempt.side.save(attempt.sequence) == attempt.before);
  emulated_machine().launches_left = 2;
  expect_error(append(), INTFLASH_DEVICE_FAILED, {"cuda:0", "its cache", "is lost"});
  emulated_machine().launches_left = ~std::size_t{0};
  expect_error(append(), INTFLASH_DEVICE_FAILED, {"its cache"});
  expect_error(attempt.side.try_attend({request_of(2, 102)}, attempt.args, 3, result),
               INTFLASH_DEVICE_FAILED, {"its cache"});
  const auto write = [](void*, const void*, std::size_t count) { return count; };
  expect_error(intflash_sequence_save(attempt.side.cache(), attempt.sequence, write, nullptr),
               INTFLASH_DEVICE_FAILED, {"its cache"});
  intflash_tensor key{};
  key.data = attempt.tokens.key.data;
  key.stride_head = key.stride_token = 64;
  expect_error(
      intflash_sequence_export(attempt.side.cache(), attempt.sequence, 0, 1, &key, nullptr),
      INTFLASH_DEVICE_FAILED, {"its cache"});
}

}  // namespace
}  // namespace intflash::internal
