// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Masks that are data on the emulated CUDA device: what they must be is what the CPU says it is,
// and what they hide is not looked at.
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "attention_case.h"
#include "cuda_serving.h"
#include "emulated_cuda.h"
#include "test_ports.h"

namespace intflash::internal {
namespace {

AttentionCase masked_case() {
  AttentionCase c;
  c.batch = c.num_kv_heads = c.group_size = 2;
  c.query_len = 3;
  c.kv_len = 70;
  c.bias = CaseBias::kAdditive;
  return c;
}

float* floats(const void* data) { return static_cast<float*>(const_cast<void*>(data)); }

CaseResult run_on_cpu(CaseTensors& tensors) {
  Memory memory;
  return run_tensors(tensors, scalar_port(), {}, memory);
}

// Both devices find the same wrong, and write nothing.
void expect_error_of_both(CaseTensors& tensors, intflash_status status, const std::string& words) {
  const CaseResult expected = run_on_cpu(tensors);
  EXPECT_EQ(expected.status, status);
  EXPECT_NE(expected.error.find(words), std::string::npos) << expected.error;
  const CaseResult found = run_on_device(tensors);
  EXPECT_EQ(found.status, status);
  EXPECT_EQ(found.error, expected.error);
  EXPECT_TRUE(found.out == expected.out);
}

TEST(CudaMasks, ThatAreNoNumbersAreTheErrorsOfTheCpu) {
  DeviceMemory memory;
  CaseTensors tensors = make_tensors(masked_case(), memory);
  intflash_attend_args& args = tensors.args;
  float slopes[] = {1, 1, 1, 1};
  auto* const on_device = reinterpret_cast<float*>(memory.take(sizeof slopes));
  std::copy_n(slopes, 4, on_device);
  args.alibi_slopes = on_device;
  const intflash_additive_mask& mask = args.additive_mask;
  const auto element = [&](std::int64_t b, std::int64_t h, std::int64_t query, std::int64_t key) {
    return floats(mask.data) + b * mask.stride_batch + h * mask.stride_head +
           query * mask.stride_query + key;
  };
  // The later ones are found where the earlier ones are mended.
  std::vector<std::function<void()>> mend;
  const auto spoil = [&](float* x, float bad) {
    const float good = std::exchange(*x, bad);
    mend.push_back([x, good] { *x = good; });
  };
  spoil(element(1, 2, 0, 69), std::numeric_limits<float>::infinity());
  spoil(element(0, 3, 2, 5), NAN);
  spoil(element(0, 1, 2, 64), NAN);
  expect_error_of_both(tensors, INTFLASH_NONFINITE_INPUT,
                       "additive_mask[batch 0][head 1][query 2][key 64] = nan");
  spoil(floats(args.query.data), NAN);
  EXPECT_EQ(run_on_device(tensors).status, INTFLASH_NONFINITE_INPUT);
  EXPECT_NE(std::string(intflash_last_error()).find("query[batch 0]"), std::string::npos);
  spoil(floats(mask.head_scale) + 3, -2e20f);
  expect_error_of_both(tensors, INTFLASH_NONFINITE_INPUT, "additive_mask.head_scale[3] = -2e+20");
  spoil(on_device + 2, NAN);
  expect_error_of_both(tensors, INTFLASH_NONFINITE_INPUT, "alibi_slopes[2] = nan");
  for (auto next = mend.rbegin(); next != mend.rend() - 1; ++next) (*next)();
  expect_error_of_both(tensors, INTFLASH_NONFINITE_INPUT,
                       "additive_mask[batch 1][head 2][query 0][key 69] = inf");
  mend[0]();
  EXPECT_EQ(run_on_device(tensors).status, INTFLASH_OK) << intflash_last_error();
}

TEST(CudaMasks, MustLieInTheDevicesMemory) {
  DeviceMemory memory;
  CaseTensors tensors = make_tensors(masked_case(), memory);
  intflash_attend_args& args = tensors.args;
  const intflash_attend_args good = args;
  alignas(64) static float host[2 * 4 * 3 * 80];
  const auto expect_refused = [&](const std::string& name) {
    const CaseResult result = run_on_device(tensors);
    EXPECT_EQ(result.status, INTFLASH_INVALID_ARGUMENT) << name;
    EXPECT_NE(result.error.find(name + " = "), std::string::npos) << result.error;
    EXPECT_NE(result.error.find("host's memory"), std::string::npos) << result.error;
    args = good;
  };
  args.additive_mask.data = host;
  expect_refused("additive_mask.data");
  args.additive_mask.head_scale = host;
  expect_refused("additive_mask.head_scale");
  args.alibi_slopes = host;
  expect_refused("alibi_slopes");
  args.bit_mask = {reinterpret_cast<std::uint64_t*>(host), 64};
  expect_refused("bit_mask.words");
  // Nothing is read of no keys.
  args.bit_mask.num_keys = 0;
  args.bit_mask.words = reinterpret_cast<std::uint64_t*>(host);
  EXPECT_EQ(run_on_device(tensors).status, INTFLASH_OK) << intflash_last_error();
}

// What keys and values hold that no query sees does not matter, and may be NaN.
TEST(CudaMasks, HideWhatKeysHold) {
  DeviceMemory memory;
  AttentionCase c = masked_case();
  c.rotate = true;
  CaseTensors tensors = make_tensors(c, memory);
  const intflash_attend_args& args = tensors.args;
  const intflash_additive_mask& mask = args.additive_mask;
  constexpr std::int64_t kKey = 65, kHead = 1;
  const auto row = [&](const intflash_tensor& tensor) {
    return floats(tensor.data) + kHead * tensor.stride_head + kKey * tensor.stride_token;
  };
  const auto element = [&](std::int64_t head, std::int64_t query) {
    return floats(mask.data) + head * mask.stride_head + query * mask.stride_query + kKey;
  };
  for (std::int64_t head = 2 * kHead; head < 2 * kHead + 2; ++head)
    for (std::int64_t query = 0; query < c.query_len; ++query) *element(head, query) = -INFINITY;
  const CaseResult expected = run_on_device(tensors);
  ASSERT_EQ(expected.status, INTFLASH_OK) << expected.error;
  row(args.key)[3] = 1e35f;
  row(args.value)[5] = NAN;
  EXPECT_EQ(difference(c, run_on_device(tensors), expected), "");
  EXPECT_EQ(difference(c, run_on_cpu(tensors), expected), "");
  *element(3, 1) = 0;
  const CaseResult found = run_on_device(tensors);
  EXPECT_EQ(found.status, INTFLASH_NONFINITE_INPUT);
  EXPECT_NE(found.error.find("value[batch 0][head 1][token 65]"), std::string::npos) << found.error;
}

// ---- Batches ----

// What is wrong with a request's mask, and with keys that a batch's scores would leave the range
// by, is the same on both sides.
TEST(CudaMasks, OfABatchAreLookedAtAsOnTheCpu) {
  const auto try_all = [](Place place) {
    CacheCase c;
    c.query_magnitude = 1e20f;
    c.masks = {true, INTFLASH_F32, true, false, false};
    CacheSide side(c, place);
    const std::vector<std::int64_t> indptr{0, 40, 80};
    const std::int32_t sequences[] = {side.create_sequence(), side.create_sequence()};
    intflash_append_args tokens = side.append_args(indptr, 0, 1);
    floats(tokens.key.data)[43 * tokens.key.stride_token] = 1e29f;
    EXPECT_EQ(intflash_sequences_append(side.cache(), sequences, &tokens), INTFLASH_OK);
    const std::vector<intflash_request> requests{request_of(1, 40), request_of(2, 40)};
    std::unique_ptr<Memory> memory(place == Place::kDevice ? new DeviceMemory : new Memory);
    const ServingMasks masks = make_masks(c.masks, requests, 4, *memory);
    intflash_batch_args args{};
    args.sequences = sequences;
    masks.set(args);
    std::vector<std::string> said;
    CacheSide::Result result;
    const auto attend = [&] {
      const intflash_status status = side.try_attend(requests, args, 2, result);
      said.push_back(status == INTFLASH_OK ? "fine" : intflash_last_error());
    };
    const intflash_additive_mask& mask = masks.additive[1];
    const auto set = [&](float x) {
      for (std::int64_t row = 0; row < 4 * 2; ++row) floats(mask.data)[row * 43 + 3] = x;
    };
    set(-INFINITY);
    attend();
    set(0);
    attend();
    set(NAN);
    attend();
    floats(mask.head_scale)[2] = INFINITY;
    attend();
    return said;
  };
  const std::vector<std::string> expected = try_all(Place::kHost);
  EXPECT_EQ(expected[0], "fine");
  EXPECT_NE(expected[1].find("magnitudes up to"), std::string::npos) << expected[1];
  EXPECT_NE(expected[2].find("additive_masks[1][batch 0][head 0][query 0][key 3] = nan"),
            std::string::npos)
      << expected[2];
  EXPECT_NE(expected[3].find("additive_masks[1].head_scale[2] = inf"), std::string::npos);
  EXPECT_EQ(try_all(Place::kDevice), expected);
}

}  // namespace
}  // namespace intflash::internal
