// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A cache on the emulated CUDA device, and what is tried on it that must fail and change nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "cuda_serving.h"
#include "emulated_cuda.h"

namespace intflash::internal {

// The machine as it was, and nothing of its memory taken, after a test that changed it.
class CudaCache : public testing::Test {
 protected:
  ~CudaCache() override {
    const emulation::EmulatedMachine machine = std::exchange(emulated_machine(), {});
    EXPECT_EQ(machine.allocations, 0u);
    EXPECT_EQ(machine.pools, 0u);
  }
};

inline void expect_error(intflash_status found, intflash_status expected,
                         const std::vector<std::string>& words) {
  EXPECT_STREQ(intflash_status_name(found), intflash_status_name(expected));
  const std::string message = intflash_last_error();
  for (const std::string& word : words)
    EXPECT_NE(message.find(word), std::string::npos) << '"' << message << "\" lacks " << word;
}

// Of CacheCase{}'s heads.
inline intflash_batch_desc desc_of(const intflash_request& request) {
  intflash_batch_desc desc{};
  desc.struct_size = sizeof desc;
  desc.request_size = sizeof request;
  desc.num_requests = 1;
  desc.requests = &request;
  desc.num_query_heads = 4;
  desc.query_dtype = desc.out_dtype = INTFLASH_F32;
  return desc;
}

inline intflash_cache_options small_options() {
  intflash_cache_options options{};
  options.struct_size = sizeof options;
  options.num_kv_heads = 2;
  options.head_dim = 64;
  options.num_pages = 8;
  return options;
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

}  // namespace intflash::internal
