// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda_plan.h"

#include <algorithm>
#include <bit>
#include <cstdio>

#include "cache/page_table.h"
#include "core/arena.h"
#include "states/span_tree.h"

namespace intflash::internal {
std::int64_t cuda_tiles(const CudaPlan& plan, const Request& request) {
  return plan.problem.num_kv_heads *
         ceil_div(request.mask.query_len * plan.problem.group_size,
                  cuda_tile_rows(cuda_tile_dim(plan.problem.head_dim, plan.problem.head_dim_v)));
}

KeyRange cuda_parts(KeyRange keys, std::int64_t spans_per_part) {
  const std::int64_t tokens = spans_per_part * kSpanTokens;
  return {keys.begin / tokens, std::max(ceil_div(keys.end, tokens), keys.begin / tokens + 1)};
}

// What queries see begins and ends later from one to the next.
KeyRange keys_that_are_seen(const Request& request) {
  const MaskRule& mask = request.mask;
  const std::int64_t first = first_position(request) + mask.shift;
  std::int64_t end = request.keys.end;
  if (mask.window_right >= 0)
    end = std::min(end, std::max(first + mask.query_len + mask.window_right, mask.prefix_len));
  const std::int64_t begin = mask.window_left < 0
                                 ? request.keys.begin
                                 : std::max(request.keys.begin, first - mask.window_left);
  return begin < end && mask.query_len > 0 ? KeyRange{begin, end} : KeyRange{};
}

CudaTensor cuda_tensor(const intflash_tensor& tensor, intflash_dtype dtype) {
  return {tensor.data, static_cast<Dtype>(dtype), tensor.stride_batch, tensor.stride_head,
          tensor.stride_token};
}

CudaPages cuda_pages(const PageLayout& layout, std::int64_t num_kv_heads) {
  CudaPages pages{};
  pages.head_bytes = layout.bytes();
  pages.page_bytes = num_kv_heads * layout.bytes();
  pages.key_block_bytes = layout.key_block_bytes;
  pages.value_block_bytes = layout.value_block_bytes;
  pages.values = layout.key_bytes();
  pages.scales = layout.key_bytes() + layout.value_bytes();
  pages.page_size = static_cast<std::int32_t>(layout.page_size);
  pages.has_digits = layout.has_digits;
  return pages;
}

namespace {

// Of a grid's second dimension.
constexpr std::int64_t kMaxHeads = 65535;
// Kernels count tiles and their parts in 32 bits.
constexpr std::int64_t kMaxTiles = std::int64_t{1} << 29;
// Each may be a page of its own, whose blocks kernels count in 32 bits.
constexpr std::int64_t kMaxBlocks = std::int64_t{1} << 29;

intflash_status check_sizes(const CudaPlan& plan) {
  const intflash_context& context = *plan.context;
  const Problem& p = plan.problem;
  if (p.num_kv_heads > kMaxHeads) return refuse(context, "more than 65535 kv heads");
  std::int64_t tiles = 0;
  for (std::int64_t r = 0; r < plan.schedule.num_requests; ++r)
    tiles += cuda_tiles(plan, plan.schedule.requests[r]);
  if (plan.schedule.num_queries * p.group_size > kMaxCudaRows || tiles > kMaxTiles)
    return refuse(context, "so many query rows, more than 2^30 of a kv head or 2^29 tiles");
  if (plan.staging.num_blocks > kMaxBlocks)
    return refuse(context, "so many keys, more than 2^29 blocks of 64");
  return INTFLASH_OK;
}

void lay_out(std::size_t run_bytes, CudaPlan& plan) {
  CudaStaging& staging = plan.staging;
  for (std::int64_t r = 0; r < plan.schedule.num_requests; ++r) {
    const Request& request = plan.schedule.requests[r];
    const KeyRange blocks = blocks_of(keys_that_are_seen(request));
    staging.num_blocks += blocks.end - blocks.begin;
    plan.largest_softmax_scale =
        std::max(plan.largest_softmax_scale, static_cast<double>(request.softmax_scale));
  }
  // A batch's tokens are stored already.
  staging.num_runs = plan.is_batch ? 0 : staging.num_blocks;
  Arena parts;
  parts.take(sizeof(CudaFindings));
  staging.requests =
      parts.take(plan.schedule.num_requests * static_cast<std::int64_t>(sizeof(CudaRequest)));
  staging.blocks = parts.take(staging.num_blocks * 4);
  staging.runs = parts.take(staging.num_runs * static_cast<std::int64_t>(sizeof(CudaTokenRun)));
  staging.bytes = parts.used();
  Arena arena;
  arena.take(static_cast<std::int64_t>(run_bytes));
  if (plan.is_batch) plan.page_set_offset = arena.take(PageSet::bytes(plan.cache.num_pages));
  plan.staging_offset = arena.take(staging.bytes);
  const Problem& p = plan.problem;
  const std::int64_t centered =
      std::max(p.center_key ? p.head_dim : 0, p.center_value ? p.head_dim_v : 0);
  plan.center_offset = arena.take(p.batch * p.num_kv_heads * centered * 4);
  plan.workspace_bytes = static_cast<std::size_t>(arena.used());
}

std::int64_t count_items(const CudaPlan& plan, std::int64_t spans_per_part) {
  std::int64_t items = 0;
  for (std::int64_t r = 0; r < plan.schedule.num_requests; ++r) {
    const Request& request = plan.schedule.requests[r];
    const KeyRange parts = cuda_parts(keys_that_are_seen(request), spans_per_part);
    items += cuda_tiles(plan, request) * (parts.end - parts.begin);
  }
  return items;
}

// Where items are fewer than blocks of threads their keys are cut, to as few parts as give each
// block one.
void cut_keys(CudaPlan& plan) {
  CudaCut& cut = plan.cut;
  std::int64_t spans = 1;
  for (std::int64_t r = 0; r < plan.schedule.num_requests; ++r)
    spans =
        std::max(spans, ceil_div(keys_that_are_seen(plan.schedule.requests[r]).end, kSpanTokens));
  const Problem& p = plan.problem;
  const std::int64_t workers = cuda_blocks(cuda_tile_dim(p.head_dim, p.head_dim_v)) *
                               cuda_device(*plan.context).num_multiprocessors;
  cut.spans_per_part = static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(spans)));
  while (cut.spans_per_part > 1 && count_items(plan, cut.spans_per_part) < workers)
    cut.spans_per_part /= 2;
  cut.num_items = count_items(plan, cut.spans_per_part);
  cut.num_workers = std::min(workers, cut.num_items);
  cut.waiting_states = std::max(most_waiting_states(1, cut.spans_per_part),
                                most_waiting_states(1, ceil_div(spans, cut.spans_per_part)));
}

}  // namespace

intflash_status finish_cuda_plan(const RunCalls& calls, const char* kernel, std::size_t run_bytes,
                                 CudaPlan& plan) {
  lay_out(run_bytes, plan);
  const intflash_status status = check_sizes(plan);
  if (status != INTFLASH_OK) {
    destroy_plan(plan);
    return status;
  }
  cut_keys(plan);
  plan.calls = &calls;
  plan.port = plan.context->device->name;
  std::snprintf(plan.kernel, sizeof plan.kernel, "%s/int8%s/%s/rows%dx%d", kernel,
                plan.problem.score_cap > 0 ? "+cap" : "", plan.port,
                static_cast<int>(
                    cuda_tile_rows(cuda_tile_dim(plan.problem.head_dim, plan.problem.head_dim_v))),
                kScoreBlock);
  return status;
}

}  // namespace intflash::internal
