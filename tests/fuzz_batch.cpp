// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// libFuzzer over batches: bytes become requests, page tables, prefixes and masks, valid or not. A
// refused batch has a message and touches no output; an answered one gives no NaN, and the same
// bits on one thread without its prefixes.
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "fuzz_bytes.h"
#include "intflash/cache.h"

namespace {

using namespace intflash::internal;

constexpr std::int64_t kKvHeads = 2;
constexpr std::int64_t kHeads = 4;
constexpr std::int64_t kDim = 16;
constexpr std::int64_t kPageSize = 64;
constexpr std::int32_t kPages = 24;
constexpr std::int64_t kMaxRequests = 5;
constexpr std::int64_t kMaxQueries = 6;  // of a request
constexpr std::int64_t kMaxKeys = 1300;
constexpr float kPoison = 12345.0f;

[[noreturn]] void stop(const char* what) {
  std::fprintf(stderr, "%s: %s\n", what, intflash_last_error());
  std::abort();
}
void require(bool good, const char* what) {
  if (!good) stop(what);
}

// Numbers in [-1, 1], the same in every run.
std::vector<float> numbers(std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  std::uint32_t state = 1;
  for (float& x : values) {
    state = state * 1664525 + 1013904223;
    x = static_cast<float>(state >> 8) * 0x1p-23f - 1;
  }
  return values;
}

intflash_tensor tensor(float* data, std::int64_t heads) {
  intflash_tensor rows{};
  rows.data = data;
  rows.stride_head = kDim;
  rows.stride_token = heads * kDim;
  return rows;
}

// A cache whose pages all hold tokens.
struct Server {
  explicit Server(std::int32_t num_threads) {
    intflash_context_options options{};
    options.struct_size = sizeof options;
    options.num_threads = num_threads;
    // Serial workers: the fuzzer itself runs in one thread.
    options.parallel_for = [](void*, std::int32_t count, void (*body)(void*, std::int32_t),
                              void* body_context) {
      for (std::int32_t i = count; i-- > 0;) body(body_context, i);
    };
    require(intflash_context_create(&options, &context) == INTFLASH_OK, "context");
    intflash_cache_options cache_options{};
    cache_options.struct_size = sizeof cache_options;
    cache_options.num_kv_heads = kKvHeads;
    cache_options.head_dim = kDim;
    cache_options.num_pages = kPages;
    require(intflash_cache_create(context, &cache_options, &cache) == INTFLASH_OK, "cache");
    std::vector<float> tokens = numbers(kPages * kPageSize * kKvHeads * kDim);
    std::array<std::int32_t, kPages> page_ids;
    for (std::int32_t i = 0; i < kPages; ++i) page_ids[static_cast<std::size_t>(i)] = i;
    const std::int64_t token_indptr[] = {0, kPages * kPageSize};
    const std::int64_t page_indptr[] = {0, kPages};
    const std::int64_t kv_len = 0;
    intflash_append_args args{};
    args.struct_size = sizeof args;
    args.num_requests = 1;
    args.token_indptr = token_indptr;
    args.kv_lens = &kv_len;
    args.pages = {page_indptr, page_ids.data()};
    args.key_dtype = args.value_dtype = INTFLASH_F32;
    args.key = args.value = tensor(tokens.data(), kKvHeads);
    require(intflash_cache_append(cache, &args) == INTFLASH_OK, "append");
  }

  intflash_context* context = nullptr;
  intflash_cache* cache = nullptr;
};

// A size that no call may take.
std::int64_t odd_size(Bytes& bytes) {
  constexpr std::int64_t kSizes[] = {-1, INT64_MIN, INT64_MAX, std::int64_t{1} << 31};
  return kSizes[bytes.below(4)];
}

struct Batch {
  std::vector<intflash_request> requests;
  std::vector<std::int64_t> page_indptr{0};
  std::vector<std::int32_t> page_ids;
  std::vector<intflash_shared_prefix> prefixes;
  std::vector<intflash_additive_mask> additive_masks;
  std::vector<intflash_bit_mask> bit_masks;
  std::vector<std::vector<float>> elements;
  std::vector<std::vector<std::uint64_t>> words;
  std::vector<float> sinks, slopes, query;
  intflash_batch_desc desc{};
  intflash_batch_args args{};
  std::int64_t num_queries = 0;
};

void add_request(Bytes& bytes, Batch& batch) {
  intflash_request request{};
  request.query_len = bytes.below(kMaxQueries + 1);
  request.kv_len = bytes.below(2) == 0 ? bytes.byte() : bytes.any<std::uint16_t>() % kMaxKeys;
  request.first_key_position = kPageSize * (bytes.below(4) == 0 ? bytes.below(4) : 0);
  request.mask = static_cast<intflash_mask>(bytes.below(4));
  request.window_left = bytes.below(200) - 1;
  request.window_right = bytes.below(70) - 1;
  request.prefix_len = bytes.byte();
  if (bytes.below(4) == 0) request.softmax_scale = std::ldexp(1.0f, bytes.below(20) - 12);
  batch.num_queries += request.query_len;
  const std::int64_t held = std::max<std::int64_t>(request.kv_len - request.first_key_position, 0);
  const std::int64_t pages = (held + kPageSize - 1) / kPageSize;
  const std::int32_t first = bytes.below(3);
  for (std::int32_t i = 0; i < pages; ++i) batch.page_ids.push_back((first + i) % kPages);
  if (pages > 0 && bytes.rarely()) batch.page_ids.back() = bytes.any<std::int32_t>();
  if (pages > 1 && bytes.rarely()) batch.page_ids.pop_back();
  batch.page_indptr.push_back(static_cast<std::int64_t>(batch.page_ids.size()));

  intflash_additive_mask additive{};
  batch.elements.emplace_back();
  if (bytes.below(3) == 0) {
    std::vector<float>& elements = batch.elements.back();
    elements = numbers(kMaxQueries * kMaxKeys);
    const int hidden = 1 + bytes.below(9);
    for (std::size_t i = 0; i < elements.size(); i += static_cast<std::size_t>(hidden))
      elements[i] = -INFINITY;
    if (bytes.rarely()) elements[bytes.byte()] = bytes.any<float>();
    // Of f32 read as f16 any pair of halves is meant: some are NaN, and refused.
    additive = {elements.data(), bytes.rarely() ? INTFLASH_F16 : INTFLASH_F32, 0, 0, kMaxKeys,
                nullptr};
  }
  batch.additive_masks.push_back(additive);
  intflash_bit_mask bits{};
  batch.words.emplace_back();
  if (bytes.below(3) == 0) {
    bits.num_keys = bytes.rarely() ? odd_size(bytes) : bytes.below(200);
    batch.words.back().assign(static_cast<std::size_t>(kMaxQueries * 4),
                              bytes.any<std::uint64_t>());
    bits.words = batch.words.back().data();
  }
  batch.bit_masks.push_back(bits);

  if (bytes.rarely()) request.query_len = odd_size(bytes);
  if (bytes.rarely()) request.kv_len = odd_size(bytes);
  if (bytes.rarely()) request.first_key_position = bytes.byte();
  if (bytes.rarely()) request.mask = bytes.any<intflash_mask>();
  if (bytes.rarely()) request.softmax_scale = bytes.any<float>();
  batch.requests.push_back(request);
}

Batch batch_of(Bytes& bytes) {
  Batch batch;
  const int num_requests = bytes.below(kMaxRequests + 1);
  for (int r = 0; r < num_requests; ++r) add_request(bytes, batch);
  for (int i = bytes.below(4); i > 0; --i) {
    batch.prefixes.push_back({bytes.below(kMaxRequests), bytes.below(kMaxRequests + 1),
                              bytes.rarely() ? odd_size(bytes) : bytes.any<std::uint16_t>() % 700});
  }
  batch.page_ids.push_back(-1);  // data() is never null
  batch.query = numbers((batch.num_queries + 1) * kHeads * kDim);
  if (bytes.rarely()) batch.query[bytes.byte() % (kHeads * kDim)] = bytes.any<float>();
  intflash_batch_desc& desc = batch.desc;
  desc.struct_size = sizeof desc;
  desc.request_size = sizeof(intflash_request);
  desc.shared_prefix_size = sizeof(intflash_shared_prefix);
  desc.num_requests = num_requests;
  desc.requests = batch.requests.data();
  desc.num_query_heads = bytes.rarely() ? bytes.byte() : kHeads;
  desc.query_dtype = desc.out_dtype = INTFLASH_F32;
  if (bytes.below(4) == 0) desc.score_cap = std::ldexp(1.0f, bytes.below(12) - 4);
  if (bytes.rarely()) desc.score_cap = bytes.any<float>();
  desc.shared_prefixes = batch.prefixes.data();
  desc.num_shared_prefixes = static_cast<std::int64_t>(batch.prefixes.size());
  intflash_batch_args& args = batch.args;
  args.struct_size = sizeof args;
  args.additive_mask_size = sizeof(intflash_additive_mask);
  args.bit_mask_size = sizeof(intflash_bit_mask);
  args.query = tensor(batch.query.data(), kHeads);
  args.pages = {batch.page_indptr.data(), batch.page_ids.data()};
  const auto per_head = [&](std::vector<float>& values) -> const float* {
    if (bytes.below(3) != 0) return nullptr;
    values = numbers(kHeads);
    if (bytes.rarely()) values[2] = bytes.any<float>();
    return values.data();
  };
  args.sinks = per_head(batch.sinks);
  args.alibi_slopes = per_head(batch.slopes);
  args.additive_masks = batch.additive_masks.data();
  args.bit_masks = batch.bit_masks.data();
  return batch;
}

struct Answer {
  intflash_status status;
  std::vector<float> out, lse;
};

Answer attend(const Server& server, const Batch& batch) {
  Answer answer{
      INTFLASH_OK,
      std::vector<float>(static_cast<std::size_t>((batch.num_queries + 1) * kHeads * kDim),
                         kPoison),
      std::vector<float>(static_cast<std::size_t>((batch.num_queries + 1) * kHeads), kPoison)};
  intflash_plan* plan = nullptr;
  answer.status = intflash_plan_batch(server.context, server.cache, &batch.desc, &plan);
  if (answer.status != INTFLASH_OK) return answer;
  // More heads than the tensors have are the caller's fault, and no library can see it.
  if (batch.desc.num_query_heads <= kHeads) {
    intflash_batch_args args = batch.args;
    args.out = tensor(answer.out.data(), kHeads);
    args.lse = answer.lse.data();
    const std::size_t bytes = (intflash_plan_workspace_bytes(plan) + 63) / 64 * 64;
    const std::unique_ptr<void, void (*)(void*)> workspace(std::aligned_alloc(64, bytes),
                                                           std::free);
    answer.status = intflash_run_batch(plan, server.cache, &args, workspace.get(), bytes);
  }
  intflash_plan_destroy(plan);
  return answer;
}

bool untouched(const std::vector<float>& values) {
  for (const float x : values) {
    if (x != kPoison) return false;
  }
  return true;
}
bool any_nan(const std::vector<float>& values) {
  for (const float x : values) {
    if (std::isnan(x)) return true;
  }
  return false;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Server one(1), three(3);
  Bytes bytes(data, size);
  Batch batch = batch_of(bytes);
  const Answer answer = attend(three, batch);
  if (answer.status != INTFLASH_OK) {
    require(std::string(intflash_last_error()) != "", "refused without a message");
    require(untouched(answer.out) && untouched(answer.lse), "refused, and wrote");
    return 0;
  }
  require(!any_nan(answer.out) && !any_nan(answer.lse), "NaN");
  batch.desc.num_shared_prefixes = 0;
  const Answer flat = attend(one, batch);
  require(flat.status == INTFLASH_OK, "refused without its prefixes");
  require(flat.out == answer.out && flat.lse == answer.lse, "other bits without prefixes");
  return 0;
}
