// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "cuda_serving.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include <gtest/gtest.h>

#include "emulated_cuda.h"
#include "inputs/tensor.h"

namespace intflash::internal {
namespace {

constexpr std::int64_t kGap = 8;  // elements behind each row
constexpr std::int64_t kRopePositions = 3000;

std::vector<float> random_floats(std::int64_t count, std::uint32_t seed, float magnitude) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(-magnitude, magnitude);
  std::vector<float> floats(static_cast<std::size_t>(count));
  for (float& x : floats) x = uniform(random);
  return floats;
}

std::size_t element_bytes(intflash_dtype dtype) { return dtype == INTFLASH_F32 ? 4 : 2; }

float* copy_of(const std::vector<float>& floats, Memory& memory) {
  auto* const copy = reinterpret_cast<float*>(memory.take(floats.size() * sizeof(float)));
  std::copy(floats.begin(), floats.end(), copy);
  return copy;
}

}  // namespace

CacheSide::CacheSide(const CacheCase& c, Place place)
    : case_(c),
      memory_(place == Place::kHost ? std::make_unique<Memory>()
                                    : std::unique_ptr<Memory>(new DeviceMemory)) {
  intflash_context_options options{};
  options.struct_size = sizeof options;
  options.num_threads = 1;
  options.isa = "scalar";
  options.device = place == Place::kHost ? "cpu" : "cuda:0";
  options.stream = c.stream;
  EXPECT_EQ(intflash_context_create(&options, &context_), INTFLASH_OK) << intflash_last_error();
  const std::int64_t heads = c.num_layers * c.num_kv_heads;
  const std::vector<float> key_center =
      random_floats(heads * c.head_dim, 5, 0.5f * c.key_magnitude);
  const std::vector<float> value_center =
      random_floats(heads * c.head_dim_v, 6, 0.5f * c.value_magnitude);
  intflash_cache_options cache{};
  cache.struct_size = sizeof cache;
  cache.num_kv_heads = c.num_kv_heads;
  cache.head_dim = c.head_dim;
  cache.head_dim_v = c.head_dim_v;
  cache.page_size = c.page_size;
  cache.num_pages = c.num_pages;
  cache.num_layers = c.num_layers;
  cache.codec = c.codec;
  cache.rotation = c.rotate ? INTFLASH_ROTATION_AUTO : INTFLASH_ROTATION_NONE;
  cache.key_center = c.centered ? key_center.data() : nullptr;
  cache.value_center = c.centered ? value_center.data() : nullptr;
  EXPECT_EQ(intflash_cache_create(context_, &cache, &cache_), INTFLASH_OK) << intflash_last_error();
  if (!c.has_rope) return;
  const std::int64_t pairs = c.rope_dim / 2;
  std::vector<float> cos, sin;
  for (std::int64_t p = 0; p < kRopePositions; ++p) {
    for (std::int64_t i = 0; i < pairs; ++i) {
      const double angle = static_cast<double>(p) *
                           std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(pairs));
      cos.push_back(static_cast<float>(std::cos(angle)));
      sin.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  rope_ = {copy_of(cos, *memory_), copy_of(sin, *memory_), kRopePositions, c.rope_dim, c.pairing};
}

CacheSide::~CacheSide() {
  intflash_cache_destroy(cache_);
  intflash_context_destroy(context_);
}

intflash_tensor CacheSide::tensor(std::int64_t heads, std::int64_t rows, std::int64_t dim,
                                  intflash_dtype dtype, float magnitude, std::uint32_t seed) {
  intflash_tensor made{};
  made.stride_token = dim + kGap;
  made.stride_head = rows * made.stride_token;
  made.stride_batch = heads * made.stride_head;
  const std::size_t bytes = static_cast<std::size_t>(made.stride_batch) * element_bytes(dtype);
  made.data = memory_->take(bytes);
  std::memset(made.data, CaseTensors::kPoison, bytes);
  const std::vector<float> elements = random_floats(heads * rows * dim, seed, magnitude);
  const float* next = elements.data();
  for (std::int64_t h = 0; h < heads; ++h) {
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t c = 0; c < dim; ++c) store_element(made, dtype, 0, h, row, c, *next++);
    }
  }
  return made;
}

intflash_append_args CacheSide::append_args(const std::vector<std::int64_t>& indptr,
                                            std::int64_t layer, std::uint32_t seed) {
  intflash_append_args args{};
  args.struct_size = sizeof args;
  args.num_requests = static_cast<std::int64_t>(indptr.size()) - 1;
  args.token_indptr = indptr.data();
  args.key_dtype = case_.key_dtype;
  args.value_dtype = case_.value_dtype;
  args.key = tensor(case_.num_kv_heads, indptr.back(), case_.head_dim, case_.key_dtype,
                    case_.key_magnitude, seed);
  args.value = tensor(case_.num_kv_heads, indptr.back(), case_.head_dim_v, case_.value_dtype,
                      case_.value_magnitude, seed + 1000);
  args.rope = rope_;
  args.layer = layer;
  return args;
}

std::int32_t CacheSide::create_sequence() const {
  std::int32_t sequence = -1;
  EXPECT_EQ(intflash_sequence_create(cache_, &sequence), INTFLASH_OK) << intflash_last_error();
  return sequence;
}

void CacheSide::append(const std::vector<std::int32_t>& sequences,
                       const std::vector<std::int64_t>& count, std::uint32_t seed) {
  std::vector<std::int64_t> indptr{0};
  for (const std::int64_t tokens : count) indptr.push_back(indptr.back() + tokens);
  for (std::int64_t layer = 0; layer < case_.num_layers; ++layer) {
    const intflash_append_args args =
        append_args(indptr, layer, seed + static_cast<std::uint32_t>(layer));
    EXPECT_EQ(intflash_sequences_append(cache_, sequences.data(), &args), INTFLASH_OK)
        << intflash_last_error();
  }
}

intflash_status CacheSide::try_attend(const std::vector<intflash_request>& requests,
                                      intflash_batch_args args, std::uint32_t seed,
                                      Result& result) {
  intflash_batch_desc desc{};
  desc.struct_size = sizeof desc;
  desc.request_size = sizeof(intflash_request);
  desc.num_requests = static_cast<std::int64_t>(requests.size());
  desc.requests = requests.data();
  desc.num_query_heads = case_.num_kv_heads * case_.group_size;
  desc.query_dtype = case_.query_dtype;
  desc.out_dtype = case_.out_dtype;
  desc.score_digits = case_.score_digits;
  desc.score_cap = case_.score_cap;
  std::int64_t rows = 0;
  for (const intflash_request& request : requests) rows += request.query_len;
  args.struct_size = sizeof args;
  args.query = tensor(desc.num_query_heads, rows, case_.head_dim, case_.query_dtype,
                      case_.query_magnitude, seed);
  args.out = tensor(desc.num_query_heads, rows, case_.head_dim_v, case_.out_dtype, 1, seed + 1);
  args.rope = rope_;
  const auto count = static_cast<std::size_t>(desc.num_query_heads * rows);
  if (case_.lse) args.lse = copy_of(std::vector<float>(count, -77.0f), *memory_);
  if (case_.sinks) {
    std::vector<float> sinks = random_floats(desc.num_query_heads, 11, 4);
    if (sinks.size() > 1) sinks[1] = -INFINITY;
    args.sinks = copy_of(sinks, *memory_);
  }
  const ServingMasks masks = make_masks(case_.masks, requests, desc.num_query_heads, *memory_);
  if (args.additive_masks == nullptr) masks.set(args);
  intflash_plan* plan = nullptr;
  intflash_status status = intflash_plan_batch(context_, cache_, &desc, &plan);
  if (status != INTFLASH_OK) return status;
  const std::size_t bytes = intflash_plan_workspace_bytes(plan);
  Memory memory;
  std::byte* const workspace = memory.take(bytes);
  status = intflash_run_batch(plan, cache_, &args, workspace, bytes);
  if (status == INTFLASH_OK) status = intflash_status_of_run(plan, workspace);
  intflash_plan_destroy(plan);
  const auto* const out = static_cast<const std::byte*>(args.out.data);
  result.out.assign(
      out, out + static_cast<std::size_t>(args.out.stride_batch) * element_bytes(case_.out_dtype));
  if (case_.lse) result.lse.assign(args.lse, args.lse + count);
  return status;
}

CacheSide::Result CacheSide::attend(const std::vector<intflash_request>& requests,
                                    intflash_batch_args args, std::uint32_t seed) {
  Result result;
  EXPECT_EQ(try_attend(requests, args, seed, result), INTFLASH_OK) << intflash_last_error();
  return result;
}

std::vector<char> CacheSide::save(std::int32_t sequence) const {
  std::vector<char> file;
  const auto write = [](void* user, const void* bytes, std::size_t count) {
    auto& to = *static_cast<std::vector<char>*>(user);
    const char* const first = static_cast<const char*>(bytes);
    to.insert(to.end(), first, first + count);
    return count;
  };
  EXPECT_EQ(intflash_sequence_save(cache_, sequence, write, &file), INTFLASH_OK)
      << intflash_last_error();
  return file;
}

std::int32_t CacheSide::load(const std::vector<char>& file) const {
  const char* next = file.data();
  const auto read = [](void* user, void* bytes, std::size_t count) {
    auto& from = *static_cast<const char**>(user);
    std::memcpy(bytes, from, count);
    from += count;
    return count;
  };
  std::int32_t sequence = -1;
  EXPECT_EQ(intflash_sequence_load(cache_, read, &next, &sequence), INTFLASH_OK)
      << intflash_last_error();
  return sequence;
}

std::vector<float> CacheSide::export_sequence(std::int32_t sequence) {
  std::int64_t begin = 0, end = 0;
  EXPECT_EQ(intflash_sequence_get_range(cache_, sequence, &begin, &end), INTFLASH_OK);
  const std::int64_t rows = end - begin;
  const std::int64_t all_rows = case_.num_layers * case_.num_kv_heads * rows;
  const std::int64_t count = all_rows * case_.head_dim;
  // Keys in the memory of the cache, values in the host's.
  std::vector<float> exported(static_cast<std::size_t>(count + all_rows * case_.head_dim_v));
  auto* const keys =
      reinterpret_cast<float*>(memory_->take(static_cast<std::size_t>(count) * sizeof(float)));
  const auto tensor_of = [&](float* data, std::int64_t dim) {
    intflash_tensor tensor{};
    tensor.data = data;
    tensor.stride_token = dim;
    tensor.stride_head = rows * dim;
    tensor.stride_batch = case_.num_kv_heads * tensor.stride_head;
    return tensor;
  };
  const intflash_tensor key = tensor_of(keys, case_.head_dim);
  const intflash_tensor value = tensor_of(exported.data() + count, case_.head_dim_v);
  EXPECT_EQ(intflash_sequence_export(cache_, sequence, begin, end, &key, &value), INTFLASH_OK)
      << intflash_last_error();
  std::copy_n(keys, count, exported.data());
  return exported;
}

intflash_request request_of(std::int64_t query_len, std::int64_t kv_len) {
  intflash_request request{};
  request.query_len = query_len;
  request.kv_len = kv_len;
  request.mask = INTFLASH_MASK_CAUSAL;
  return request;
}

}  // namespace intflash::internal
