// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// New tokens for a cache on a CUDA device: where each run of them goes, and what is wrong with
// those that are refused.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <new>

#include "gpu/cuda_plan.h"
#include "gpu/cuda_storage.h"
#include "inputs/rope.h"
#include "inputs/tensor.h"
#include "tile/limits.h"

namespace intflash::internal {
namespace {

// Findings come before the runs.
constexpr std::int64_t kRunsOffset = 256;
static_assert(sizeof(CudaFindings) <= kRunsOffset);

// ---- Runs ----

// Calls visit(run) for tokens that lie one after the other in a block. knows_pages: the pages that
// they go to are there; else slots are within their block alone.
template <class Visit>
void for_each_run(const Append& append, std::int64_t request, bool knows_pages, Visit visit) {
  const std::int64_t page_size = append.cache.layout.page_size;
  const std::int64_t kv_len = append.position(request);  // before
  const PageRun pages = append.pages(request);
  const std::int64_t end = kv_len + append.count(request);
  for (std::int64_t position = kv_len; position < end;) {
    const std::int64_t block_end = (position / kBlockTokens + 1) * kBlockTokens;
    const std::int64_t offset = position - pages.first_key_position;
    const std::int64_t page = knows_pages ? pages.page_ids[offset / page_size] : 0;
    CudaTokenRun run{};
    run.slot = page * page_size + offset % page_size;
    run.position = position;
    run.first = append.first_token(request) + position - kv_len;
    run.count = static_cast<std::int32_t>(std::min(block_end, end) - position);
    run.request = static_cast<std::int32_t>(request);
    run.clears = run.slot % kBlockTokens == 0 && run.count < kBlockTokens;
    visit(run);
    position += run.count;
  }
}

template <class Visit>
void for_each_run_of_slots(const Append& append, Visit visit) {
  const std::int64_t* const slots = append.args.slots;
  // Rows that are turned together stand one after another.
  const std::int64_t* const positions =
      append.args.rope.cos == nullptr ? nullptr : append.args.positions;
  for (std::int64_t r = 0; r < append.args.num_requests; ++r) {
    const std::int64_t end = append.first_token(r) + append.count(r);
    for (std::int64_t token = append.first_token(r); token < end;) {
      const std::int64_t slot = slots[token];
      std::int32_t count = 1;
      while (slot >= 0 && token + count < end && slots[token + count] == slot + count &&
             (slot + count) % kBlockTokens != 0 &&
             (positions == nullptr || positions[token + count] == positions[token] + count))
        ++count;
      CudaTokenRun run{};
      run.slot = slot;
      run.position = positions == nullptr ? 0 : positions[token];
      run.first = token;
      run.count = count;
      run.request = static_cast<std::int32_t>(r);
      run.clears = slot % kBlockTokens == 0 && count < kBlockTokens;
      if (slot >= 0) visit(run);
      token += count;
    }
  }
}

template <class Visit>
void for_each_run(const Append& append, bool knows_pages, Visit visit) {
  if (append.args.slots != nullptr) {
    for_each_run_of_slots(append, visit);
    return;
  }
  for (std::int64_t r = 0; r < append.args.num_requests; ++r)
    for_each_run(append, r, knows_pages, visit);
}

// ---- Staging ----

std::int64_t staging_bytes(std::int64_t num_runs) {
  return kRunsOffset + num_runs * static_cast<std::int64_t>(sizeof(CudaTokenRun));
}

// Room for so many runs, in the host's memory and in the device's.
intflash_status reserve_runs(const intflash_cache& cache, std::int64_t num_runs) {
  CudaStored& stored = cuda_stored(cache);
  if (num_runs <= stored.max_runs) return INTFLASH_OK;
  const intflash_context& context = *cache.context;
  const std::int64_t max_runs = std::max(num_runs, 2 * stored.max_runs);
  const std::int64_t bytes = staging_bytes(max_runs);
  char* host = nullptr;
  if (!allocate(context, 2 * bytes, host))
    return fail(INTFLASH_OUT_OF_MEMORY, "no memory of %lld bytes", static_cast<i64>(2 * bytes));
  void* on_device = nullptr;
  const intflash_status status = allocate_on(context, bytes, on_device);
  if (status != INTFLASH_OK) {
    release(context, host);
    return status;
  }
  // A copy from it may not have come yet.
  const intflash_status waited = stored.check(
      "looking at tokens", stored.device->table->wait(stored.device->index, stored.stream));
  if (waited != INTFLASH_OK) {
    stored.device->table->release(stored.device->index, stored.stream, on_device);
    release(context, host);
    return waited;
  }
  release(context, stored.host_staging);
  if (stored.device_staging != nullptr)
    stored.device->table->release(stored.device->index, stored.stream, stored.device_staging);
  stored.host_staging = host;
  stored.device_staging = on_device;
  stored.max_runs = max_runs;
  return INTFLASH_OK;
}

// Hands the runs over; returns what kernels are told of them.
CudaTokens stage_tokens(const Append& append, bool knows_pages, CudaError& error) {
  const intflash_cache& cache = append.cache;
  const CudaStored& stored = cuda_stored(cache);
  CudaTokens tokens{};
  // The copy from the other half may not have come yet.
  char* const staging = stored.host_staging + (knows_pages ? staging_bytes(stored.max_runs) : 0);
  new (staging) CudaFindings{};
  auto* const runs = reinterpret_cast<CudaTokenRun*>(staging + kRunsOffset);
  for_each_run(append, knows_pages,
               [&](const CudaTokenRun& run) { runs[tokens.num_runs++] = run; });
  tokens.stream = stored.stream;
  tokens.pages = stored.pages_of(append.args.layer);
  tokens.num_kv_heads = cache.num_kv_heads;
  tokens.head_dim = cache.layout.head_dim;
  tokens.head_dim_v = cache.layout.head_dim_v;
  tokens.key = cuda_tensor(append.args.key, append.args.key_dtype);
  tokens.value = cuda_tensor(append.args.value, append.args.value_dtype);
  tokens.num_rows = append.num_tokens();
  tokens.rope = cuda_rope(append.args.rope);
  tokens.centers = stored.centers_of(cache, append.args.layer);
  tokens.rotates_keys = cache.rotation.keys;
  tokens.rotates_values = cache.rotation.values;
  tokens.largest_key = stored.largest_key + append.args.layer * cache.num_pages;
  auto* const on_device = static_cast<char*>(stored.device_staging);
  tokens.findings = reinterpret_cast<CudaFindings*>(on_device);
  tokens.runs = reinterpret_cast<const CudaTokenRun*>(on_device + kRunsOffset);
  error = stored.device->table->copy(stored.device->index, stored.stream, staging,
                                     static_cast<std::size_t>(staging_bytes(tokens.num_runs)),
                                     stored.device_staging);
  return tokens;
}

// ---- What is refused ----

intflash_status check_places(const CudaDevice& device, const intflash_append_args& args) {
  intflash_status status = check_place(device, "key", args.key.data);
  if (status == INTFLASH_OK) status = check_place(device, "value", args.value.data);
  return status == INTFLASH_OK ? check_rope_places(device, args.rope) : status;
}

// The error for the lowest bad element of a token, as the host has it.
intflash_status report_bad_row(const Append& append, bool is_key, std::int64_t request,
                               std::int64_t head, std::int64_t row) {
  const CudaStored& stored = cuda_stored(append.cache);
  const intflash_tensor& tensor = is_key ? append.args.key : append.args.value;
  const intflash_dtype dtype = is_key ? append.args.key_dtype : append.args.value_dtype;
  const std::int64_t dim = is_key ? append.cache.layout.head_dim : append.cache.layout.head_dim_v;
  const double limit = is_key ? kMaxKey : kMaxValue;
  const std::int64_t bytes = dtype == INTFLASH_F32 ? 4 : 2;
  alignas(4) char elements[kMaxHeadDim * 4];
  const char* const from = static_cast<const char*>(tensor.data) +
                           (head * tensor.stride_head + row * tensor.stride_token) * bytes;
  const CudaTable& table = *stored.device->table;
  CudaError error = table.copy(stored.device->index, stored.stream, from,
                               static_cast<std::size_t>(dim * bytes), elements);
  if (error.is_none()) error = table.wait(stored.device->index, stored.stream);
  if (!error.is_none()) return check_cuda(*stored.device, "looking at tokens", error);
  intflash_tensor copied{};
  copied.data = elements;
  for (std::int64_t c = 0; c < dim; ++c) {
    const double x = tensor_element(copied, dtype, 0, 0, 0, c);
    if (std::fabs(x) < limit) continue;
    return fail(std::isfinite(x) ? INTFLASH_SCORE_OVERFLOW : INTFLASH_NONFINITE_INPUT,
                "%s[request %lld][token %lld][head %lld][%lld] = %g: must be finite and below %g",
                is_key ? "key" : "value", static_cast<i64>(request),
                static_cast<i64>(row - append.first_token(request)), static_cast<i64>(head),
                static_cast<i64>(c), x, limit);
  }
  return INTFLASH_OK;
}

// The position of the token that is a row of the tensors.
std::int64_t position_of(const Append& append, std::int64_t row) {
  if (append.args.slots != nullptr) return append.args.positions[row];
  const std::int64_t* const indptr = append.args.token_indptr;
  const std::int64_t request =
      std::upper_bound(indptr, indptr + append.args.num_requests, row) - indptr - 1;
  return append.position(request) + row - append.first_token(request);
}

intflash_status check_findings(const Append& append, const CudaFindings& found) {
  const CudaStored& stored = cuda_stored(append.cache);
  if (found.first_bad_rope != INT64_MAX) {
    const std::int64_t pairs = append.args.rope.rope_dim / 2;
    return report_bad_rope(*stored.device, stored.stream, append.args.rope,
                           position_of(append, found.first_bad_rope / pairs),
                           found.first_bad_rope % pairs);
  }
  if (found.first_bad_token == INT64_MAX) return INTFLASH_OK;
  const std::int64_t tensor = found.first_bad_token / append.num_tokens();
  const std::int64_t head = tensor / 2;
  return report_bad_row(append, tensor % 2 == 0, head / append.cache.num_kv_heads,
                        head % append.cache.num_kv_heads,
                        found.first_bad_token % append.num_tokens());
}

}  // namespace

intflash_status check_cuda_tokens(const Append& append) {
  constexpr char kWhat[] = "looking at tokens";
  CudaStored& stored = cuda_stored(append.cache);
  const CudaDevice& device = *stored.device;
  intflash_status status = stored.begin("an append");
  if (status != INTFLASH_OK || append.num_tokens() == 0) return status;
  if (!cuda_reads(append.args.key_dtype) || !cuda_reads(append.args.value_dtype))
    return refuse(*append.cache.context, "a key_dtype or value_dtype other than f32, f16 and bf16");
  status = check_places(device, append.args);
  if (status != INTFLASH_OK) return status;
  std::int64_t num_runs = 0;
  for_each_run(append, false, [&](const CudaTokenRun&) { ++num_runs; });
  status = reserve_runs(append.cache, num_runs);
  if (status != INTFLASH_OK || num_runs == 0) return status;
  CudaError error{};
  const CudaTokens tokens = stage_tokens(append, false, error);
  const CudaTable& table = *device.table;
  CudaFindings found;
  if (error.is_none()) error = table.check_tokens(device.index, tokens);
  if (error.is_none())
    error = table.copy(device.index, stored.stream, tokens.findings, sizeof found, &found);
  const CudaError waited = table.wait(device.index, stored.stream);
  status = stored.check(kWhat, waited.is_none() ? error : waited);
  return status == INTFLASH_OK ? check_findings(append, found) : status;
}

intflash_status append_cuda_tokens(const Append& append) {
  if (append.num_tokens() == 0) return INTFLASH_OK;
  CudaStored& stored = cuda_stored(append.cache);
  const CudaTable& table = *stored.device->table;
  CudaError error{};
  const CudaTokens tokens = stage_tokens(append, true, error);
  if (error.is_none() && tokens.num_runs > 0)
    error = table.store_tokens(stored.device->index, tokens);
  return stored.check("storing tokens", error);
}

// ---- Tables of rope ----

intflash_status check_rope_places(const CudaDevice& device, const intflash_rope& rope) {
  if (rope.cos == nullptr) return INTFLASH_OK;
  const intflash_status status = check_place(device, "rope.cos", rope.cos);
  return status == INTFLASH_OK ? check_place(device, "rope.sin", rope.sin) : status;
}

CudaRope cuda_rope(const intflash_rope& rope) {
  static_assert(kCudaMaxRope == kMaxRope);
  if (rope.cos == nullptr) return {};
  return {rope.cos, rope.sin, static_cast<std::int32_t>(rope.rope_dim),
          rope.pairing == INTFLASH_ROPE_HALVES};
}

intflash_status report_bad_rope(const CudaDevice& device, void* stream, const intflash_rope& rope,
                                std::int64_t position, std::int64_t pair) {
  const std::int64_t at = position * (rope.rope_dim / 2) + pair;
  float cos = 0, sin = 0;
  const CudaTable& table = *device.table;
  CudaError error = table.copy(device.index, stream, rope.cos + at, sizeof cos, &cos);
  if (error.is_none()) error = table.copy(device.index, stream, rope.sin + at, sizeof sin, &sin);
  if (error.is_none()) error = table.wait(device.index, stream);
  if (!error.is_none()) return check_cuda(device, "looking at rope", error);
  return fail(INTFLASH_NONFINITE_INPUT,
              "rope: cos = %g, sin = %g at position %lld, pair %lld: must be at most %g in "
              "magnitude",
              static_cast<double>(cos), static_cast<double>(sin), static_cast<i64>(position),
              static_cast<i64>(pair), static_cast<double>(kMaxRope));
}

}  // namespace intflash::internal
