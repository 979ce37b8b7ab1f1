// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// New tokens into the pages of a cache. Whole blocks of 64 tokens are packed by the port; the
// tokens of a block that is begun or ends within the call are stored one by one, to the same bytes.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "checks.h"
#include "kv_cache.h"
#include "reference.h"
#include "team.h"
#include "token_rows.h"

namespace intflash {
namespace {

using i64 = long long;  // for printf

constexpr std::uint32_t kInfinityBits = 0x7f800000;
// Beyond these the f32 arithmetic of scores and outputs would leave its range.
constexpr float kMaxKey = 0x1p100f;
constexpr float kMaxValue = 0x1p90f;
// Tokens times heads below which starting a team costs more than it brings.
constexpr std::int64_t kTokensPerWorker = 256;

struct Append {
  intflash_cache& cache;
  const intflash_append_args& args;
  const std::int32_t* sequences;  // nullptr: page tables are the caller's

  const KernelTable& kernels() const { return *cache.context->port->kernels; }
  std::int64_t first_token(std::int64_t request) const { return args.token_indptr[request]; }
  std::int64_t count(std::int64_t request) const {
    return args.token_indptr[request + 1] - args.token_indptr[request];
  }
  std::int64_t num_tokens() const { return args.token_indptr[args.num_requests]; }
  PageRun pages(std::int64_t request) const {
    if (sequences != nullptr) {
      const Sequence& sequence = cache.sequences[sequences[request]];
      return {sequence.pages.data(), sequence.pages.size(), sequence.first_key_position};
    }
    return page_run(args.pages, request,
                    args.first_key_positions == nullptr ? 0 : args.first_key_positions[request]);
  }
};

// ---- Checks ----

intflash_status check_append_args(const intflash_cache* cache, const intflash_append_args* args,
                                  bool own_pages) {
  if (cache == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "cache = NULL: create one first");
  if (args == nullptr || args->struct_size != sizeof *args) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "args: must point to a struct with struct_size = sizeof(intflash_append_args) = "
                "%zu",
                sizeof *args);
  }
  if (args->token_indptr == nullptr || (!own_pages && args->kv_lens == nullptr))
    return fail(INTFLASH_INVALID_ARGUMENT, "token_indptr and kv_lens: must not be NULL");
  intflash_status status = check_extent("num_requests", args->num_requests, 0);
  if (status != INTFLASH_OK) return status;
  if (args->token_indptr[0] != 0) {
    return fail(INTFLASH_BAD_SHAPE, "token_indptr[0] = %lld: must be 0",
                static_cast<i64>(args->token_indptr[0]));
  }
  for (std::int64_t r = 0; r < args->num_requests; ++r) {
    if (args->token_indptr[r + 1] >= args->token_indptr[r] &&
        args->token_indptr[r + 1] <= kMaxExtent)
      continue;
    return fail(INTFLASH_BAD_SHAPE, "token_indptr[%lld] = %lld: must be %lld ... %lld",
                static_cast<i64>(r + 1), static_cast<i64>(args->token_indptr[r + 1]),
                static_cast<i64>(args->token_indptr[r]), static_cast<i64>(kMaxExtent));
  }
  for (const auto& [name, dtype] :
       {std::pair{"key_dtype", args->key_dtype}, std::pair{"value_dtype", args->value_dtype}}) {
    if (dtype >= INTFLASH_F32 && dtype <= INTFLASH_BF16) continue;
    return fail(INTFLASH_INVALID_ARGUMENT, "%s = %d: must be F32, F16 or BF16", name,
                static_cast<int>(dtype));
  }
  const std::int64_t tokens = args->token_indptr[args->num_requests];
  status = check_tensor(
      {"key", &args->key, args->key_dtype, 1, cache->num_kv_heads, tokens, cache->layout.head_dim});
  if (status != INTFLASH_OK) return status;
  return check_tensor({"value", &args->value, args->value_dtype, 1, cache->num_kv_heads, tokens,
                       cache->layout.head_dim_v});
}

// The error for the lowest bad element of one head's new tokens.
intflash_status report_bad_token(const char* name, const intflash_tensor& tensor,
                                 intflash_dtype dtype, std::int64_t request, std::int64_t head,
                                 std::int64_t first, std::int64_t count, std::int64_t dim,
                                 double limit) {
  for (std::int64_t token = 0; token < count; ++token) {
    for (std::int64_t c = 0; c < dim; ++c) {
      const double x = tensor_element(tensor, dtype, 0, head, first + token, c);
      if (std::fabs(x) < limit) continue;
      return fail(std::isfinite(x) ? INTFLASH_SCORE_OVERFLOW : INTFLASH_NONFINITE_INPUT,
                  "%s[request %lld][token %lld][head %lld][%lld] = %g: must be finite and below %g",
                  name, static_cast<i64>(request), static_cast<i64>(token), static_cast<i64>(head),
                  static_cast<i64>(c), x, limit);
    }
  }
  return INTFLASH_OK;
}

intflash_status check_tokens(const Append& append) {
  const intflash_append_args& args = append.args;
  const PageLayout& layout = append.cache.layout;
  for (std::int64_t r = 0; r < args.num_requests; ++r) {
    const std::int64_t first = append.first_token(r);
    const std::int64_t count = append.count(r);
    for (std::int64_t h = 0; count > 0 && h < append.cache.num_kv_heads; ++h) {
      const auto magnitude = [&](const intflash_tensor& tensor, intflash_dtype dtype,
                                 std::int64_t dim) {
        return std::bit_cast<float>(
            append.kernels().max_magnitude(rows_of(tensor, dtype, 0, h, first), count, dim));
      };
      // A NaN compares as false.
      if (!(magnitude(args.key, args.key_dtype, layout.head_dim) < kMaxKey)) {
        return report_bad_token("key", args.key, args.key_dtype, r, h, first, count,
                                layout.head_dim, kMaxKey);
      }
      if (!(magnitude(args.value, args.value_dtype, layout.head_dim_v) < kMaxValue)) {
        return report_bad_token("value", args.value, args.value_dtype, r, h, first, count,
                                layout.head_dim_v, kMaxValue);
      }
    }
  }
  return INTFLASH_OK;
}

// ---- Writing ----

// The codes of one token at its place in a block of 64.
void store_key(const PageLayout& layout, const WritableBlock& block, std::int64_t at,
               const std::int8_t* codes) {
  std::int8_t* tile = block.key_codes + at / 16 * 16 * layout.head_dim + at % 16 * 4;
  std::int32_t sum = 0;
  for (std::int64_t c = 0; c < layout.head_dim; ++c) sum += codes[c];
  for (std::int64_t quad = 0; quad < layout.head_dim / 4; ++quad)
    std::memcpy(tile + quad * 64, codes + quad * 4, 4);
  block.key_sum[at] = sum;
}
void store_value(const PageLayout& layout, const WritableBlock& block, std::int64_t at,
                 const std::int8_t* codes) {
  std::int8_t* first = block.value_codes + at / 4 * 64 + at % 4;
  for (std::int64_t c = 0; c < layout.head_dim_v; ++c) first[c / 16 * 1024 + c % 16 * 4] = codes[c];
}

// Tokens [begin, end) of a block of 64, which are rows first ... of key and value.
void append_to_block(const Append& append, const Worker& worker, std::int64_t kv_head,
                     const WritableBlock& block, std::int64_t begin, std::int64_t end,
                     std::int64_t first) {
  const intflash_cache& cache = append.cache;
  const PageLayout& layout = cache.layout;
  const KernelTable& kernels = append.kernels();
  const std::int32_t count = static_cast<std::int32_t>(end - begin);
  const std::int64_t key_stride = round_up(layout.head_dim, 64);
  const std::int64_t value_stride = round_up(layout.head_dim_v, 64);
  if (begin == 0) {
    std::memset(block.key_codes, 0, static_cast<std::size_t>(kBlockTokens * layout.head_dim));
    std::memset(block.value_codes, 0,
                static_cast<std::size_t>(kBlockTokens * round_up(layout.head_dim_v, 16)));
    std::fill_n(block.key_scale, kBlockTokens, 0.0f);
    std::fill_n(block.value_scale, kBlockTokens, 0.0f);
    std::fill_n(block.key_sum, kBlockTokens, 0);
  }
  const std::uint32_t magnitude =
      quantize_tokens(kernels, append.args.key, append.args.key_dtype, 0, kv_head, first, count,
                      layout.head_dim, cache.key_center_of(kv_head), cache.rotate, key_stride,
                      worker.codes, block.key_scale + begin);
  std::uint32_t seen = cache.largest_key.load(std::memory_order_relaxed);
  while (magnitude > seen && !append.cache.largest_key.compare_exchange_weak(
                                 seen, magnitude, std::memory_order_relaxed)) {
  }
  if (count == kBlockTokens) {
    kernels.pack_keys(worker.codes, key_stride, static_cast<std::int32_t>(layout.head_dim),
                      block.key_codes, block.key_sum);
  } else {
    for (std::int64_t i = 0; i < count; ++i)
      store_key(layout, block, begin + i, worker.codes + i * key_stride);
  }
  quantize_tokens(kernels, append.args.value, append.args.value_dtype, 0, kv_head, first, count,
                  layout.head_dim_v, cache.value_center_of(kv_head), false, value_stride,
                  worker.codes, block.value_scale + begin);
  if (count == kBlockTokens) {
    kernels.pack_values(worker.codes, value_stride, static_cast<std::int32_t>(layout.head_dim_v),
                        block.value_codes);
  } else {
    for (std::int64_t i = 0; i < count; ++i)
      store_value(layout, block, begin + i, worker.codes + i * value_stride);
  }
}

// All new tokens of one request and kv head.
void append_head(const Append& append, const Worker& worker, std::int64_t request,
                 std::int64_t kv_head, std::int64_t kv_len) {
  const PageRun run = append.pages(request);
  const std::int64_t end = kv_len + append.count(request);
  for (std::int64_t position = kv_len; position < end;) {
    const std::int64_t block_begin = position / kBlockTokens * kBlockTokens;
    const std::int64_t block_end = std::min(block_begin + kBlockTokens, end);
    const std::int64_t offset = block_begin - run.first_key_position;
    const std::int64_t page_size = append.cache.layout.page_size;
    char* page = append.cache.page(run.page_ids[offset / page_size], kv_head);
    const WritableBlock block =
        writable_block(append.cache.layout, page, offset % page_size / kBlockTokens);
    append_to_block(append, worker, kv_head, block, position - block_begin, block_end - block_begin,
                    append.first_token(request) + position - kv_len);
    position = block_end;
  }
}

// kv_len(request): the length before.
template <class KvLen>
void write_tokens(const Append& append, KvLen kv_len) {
  const intflash_context& context = *append.cache.context;
  const std::int64_t heads = append.cache.num_kv_heads;
  const std::int64_t larger_dim =
      std::max(append.cache.layout.head_dim, append.cache.layout.head_dim_v);
  struct Shared {
    const Append& append;
    KvLen& kv_len;
    std::int64_t heads;
    std::int64_t code_stride;
    std::atomic<std::int64_t> next{0};
  } shared{append, kv_len, heads, round_up(larger_dim, 64)};
  const auto run_worker = [](void* opaque, std::int32_t) {
    Shared& loop = *static_cast<Shared*>(opaque);
    const FloatState float_state;
    alignas(64) std::int8_t codes[kBlockTokens * kMaxHeadDim];
    Worker worker{};
    worker.codes = codes;
    const std::int64_t tasks = loop.append.args.num_requests * loop.heads;
    for (std::int64_t i = loop.next++; i < tasks; i = loop.next++) {
      const std::int64_t request = i / loop.heads;
      append_head(loop.append, worker, request, i % loop.heads, loop.kv_len(request));
    }
  };
  const std::int64_t wanted = append.num_tokens() * heads / kTokensPerWorker;
  const std::int64_t workers = std::clamp<std::int64_t>(wanted, 1, context.num_threads);
  run_parallel(context.parallel, static_cast<std::int32_t>(workers), run_worker, &shared);
}

}  // namespace
}  // namespace intflash

using namespace intflash;

extern "C" {

intflash_status intflash_cache_append(intflash_cache* cache, const intflash_append_args* args) {
  intflash_status status = check_append_args(cache, args, false);
  if (status != INTFLASH_OK) return status;
  const Append append{*cache, *args, nullptr};
  status = check_append_pages(*cache, *args);
  if (status == INTFLASH_OK) status = check_tokens(append);
  if (status != INTFLASH_OK) return status;
  write_tokens(append, [&](std::int64_t request) { return args->kv_lens[request]; });
  return INTFLASH_OK;
}

intflash_status intflash_sequences_append(intflash_cache* cache, const int32_t* sequences,
                                          const intflash_append_args* args) {
  intflash_status status = check_append_args(cache, args, true);
  if (status != INTFLASH_OK) return status;
  if (sequences == nullptr && args->num_requests > 0)
    return fail(INTFLASH_INVALID_ARGUMENT, "sequences = NULL: must name a sequence per request");
  for (std::int64_t r = 0; r < args->num_requests; ++r) {
    status = check_sequence(*cache, sequences[r]);
    if (status != INTFLASH_OK) return status;
    for (std::int64_t before = 0; before < r; ++before) {
      if (sequences[before] != sequences[r]) continue;
      return fail(INTFLASH_INVALID_ARGUMENT, "sequences[%lld] = %d: is sequences[%lld] already",
                  static_cast<i64>(r), sequences[r], static_cast<i64>(before));
    }
  }
  const Append append{*cache, *args, sequences};
  status = check_tokens(append);
  if (status == INTFLASH_OK)
    status = extend_sequences(*cache, sequences, args->num_requests, args->token_indptr);
  if (status != INTFLASH_OK) return status;
  write_tokens(append, [&](std::int64_t request) {
    return cache->sequences[sequences[request]].kv_len - append.count(request);
  });
  return INTFLASH_OK;
}

}  // extern "C"
