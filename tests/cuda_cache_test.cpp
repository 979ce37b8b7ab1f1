// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Caches on the emulated CUDA device behind the C interface: sequences that go from one device to
// another, arenas, and that what fails changes nothing.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "cuda_cache_attempt.h"

namespace intflash::internal {
namespace {

// ---- From one device to another ----

CacheCase long_case() {
  CacheCase c;
  c.head_dim = c.head_dim_v = 80;
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

// ---- Arenas ----

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

// Of each call in turn that an append makes of the driver, the copy of a page that a fork shares
// among them.
TEST_F(CudaCache, AnAppendThatTheDriverRefusesIsAsIfItHadNotBeen) {
  const std::vector<std::int64_t> indptr{0, 7, 37};
  const auto use = [&](Place place) {
    CacheSide side({}, place);
    std::int32_t sequences[] = {side.create_sequence(), -1};
    side.append({sequences[0]}, {100}, 1);
    EXPECT_EQ(intflash_sequence_fork(side.cache(), sequences[0], &sequences[1]), INTFLASH_OK);
    const std::vector<char> before = side.save(sequences[0]);
    const intflash_append_args tokens = side.append_args(indptr, 0, 2);
    std::size_t calls = 0;
    intflash_status status = INTFLASH_DEVICE_FAILED;
    for (; status != INTFLASH_OK && calls < 20; ++calls) {
      emulated_machine().calls_left = calls;
      status = intflash_sequences_append(side.cache(), sequences, &tokens);
      emulated_machine().calls_left = ~std::size_t{0};
      if (status == INTFLASH_OK) break;
      expect_error(status, INTFLASH_DEVICE_FAILED, {"cuda:0"});
      for (const std::int32_t sequence : sequences)
        EXPECT_TRUE(side.save(sequence) == before) << calls;
    }
    EXPECT_EQ(status, INTFLASH_OK);
    EXPECT_EQ(calls > 5, place == Place::kDevice) << calls;
    return std::make_pair(side.save(sequences[0]), side.save(sequences[1]));
  };
  EXPECT_TRUE(use(Place::kDevice) == use(Place::kHost));
}

TEST_F(CudaCache, AnAppendToALaterLayerThatTheDriverRefusesMayBeTriedAgain) {
  const std::vector<std::int64_t> indptr{0, 7};
  const auto use = [&](Place place) {
    CacheCase c;
    c.num_layers = 2;
    CacheSide side(c, place);
    const std::int32_t sequence = side.create_sequence();
    for (const std::int64_t layer : {0, 1}) {
      const intflash_append_args tokens = side.append_args(indptr, layer, 1);
      intflash_status status = INTFLASH_DEVICE_FAILED;
      for (std::size_t calls = 0; status == INTFLASH_DEVICE_FAILED && calls < 20; ++calls) {
        emulated_machine().calls_left = calls;
        status = intflash_sequences_append(side.cache(), &sequence, &tokens);
      }
      emulated_machine().calls_left = ~std::size_t{0};
      EXPECT_EQ(status, INTFLASH_OK) << intflash_last_error();
    }
    return side.save(sequence);
  };
  EXPECT_TRUE(use(Place::kDevice) == use(Place::kHost));
}

TEST_F(CudaCache, StaysUsableWhereTheDriverRefusesACall) {
  Attempt attempt;
  CacheSide& side = attempt.side;
  CacheSide::Result result;
  const auto refuse_next = [] { emulated_machine().calls_left = 0; };
  for (const std::size_t calls : {0, 1}) {
    emulated_machine().calls_left = calls;
    expect_error(side.try_attend({request_of(2, 100)}, attempt.args, 3, result),
                 INTFLASH_DEVICE_FAILED, {"cuda:0", "a run"});
  }
  const auto write = [](void*, const void*, std::size_t count) { return count; };
  refuse_next();
  expect_error(intflash_sequence_save(side.cache(), attempt.sequence, write, nullptr),
               INTFLASH_DEVICE_FAILED, {"cuda:0", "reading a page"});
  struct File {
    const std::vector<char>& bytes;
    std::size_t offset;
  } file = {attempt.before, 0};
  const auto read = [](void* user, void* bytes, std::size_t count) {
    File& from = *static_cast<File*>(user);
    std::copy_n(from.bytes.begin() + static_cast<std::ptrdiff_t>(from.offset), count,
                static_cast<char*>(bytes));
    from.offset += count;
    return count;
  };
  std::int32_t loaded = -1;
  refuse_next();
  expect_error(intflash_sequence_load(side.cache(), read, &file, &loaded), INTFLASH_DEVICE_FAILED,
               {"cuda:0", "writing a page"});
  EXPECT_EQ(side.save(side.load(attempt.before)), attempt.before);
  EXPECT_EQ(side.save(attempt.sequence), attempt.before);
  attempt.expect_usable();
}

TEST_F(CudaCache, GivesItsMemoryBackToTheSystemWhenItIsDestroyed) {
  const DeviceContext context;
  const intflash_cache_options options = small_options();
  for (int i = 0; i < 2; ++i) {
    const std::size_t growths = emulated_machine().pool_growths;
    intflash_cache* cache = nullptr;
    ASSERT_EQ(intflash_cache_create(context.get(), &options, &cache), INTFLASH_OK)
        << intflash_last_error();
    intflash_cache_destroy(cache);
    EXPECT_GT(emulated_machine().pool_growths, growths);
  }
}

// Tokens are stored by whatever waits next: what fails then may have left pages half written.
TEST_F(CudaCache, ADeviceThatIsLostIsAStatusOfEachCallFromThenOn) {
  Attempt attempt;
  CacheSide::Result result;
  const auto append = [&] {
    return intflash_sequences_append(attempt.side.cache(), &attempt.sequence, &attempt.tokens);
  };
  emulated_machine().launches_left = 1;
  EXPECT_EQ(append(), INTFLASH_OK) << intflash_last_error();
  expect_error(attempt.side.try_attend({request_of(2, 102)}, attempt.args, 3, result),
               INTFLASH_DEVICE_FAILED, {"cuda:0", "a run", "is lost"});
  emulated_machine().launches_left = ~std::size_t{0};
  expect_error(append(), INTFLASH_DEVICE_FAILED, {"its cache", "is lost"});
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

TEST_F(CudaCache, ADeviceThatIsLostWhileTokensAreLookedAtIsAStatus) {
  Attempt attempt;
  emulated_machine().launches_left = 0;
  expect_error(intflash_sequences_append(attempt.side.cache(), &attempt.sequence, &attempt.tokens),
               INTFLASH_DEVICE_FAILED, {"cuda:0", "looking at tokens", "is lost"});
}

}  // namespace
}  // namespace intflash::internal
