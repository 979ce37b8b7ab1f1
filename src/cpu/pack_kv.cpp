// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/pack_kv.h"

#include <algorithm>
#include <cstring>

#include "core/limits.h"
#include "core/mask.h"
#include "core/token_rows.h"
#include "cpu/call.h"

namespace intflash::internal {
namespace {

// Absent tokens of the last page have zero codes and zero scales.
void pack_page(const Call& call, const Worker& worker, std::int64_t head, std::int64_t first,
               std::int64_t kv_end, char* page) {
  const Problem& p = call.problem();
  const std::int64_t b = head / p.num_kv_heads;
  const std::int64_t h = head % p.num_kv_heads;
  const std::int32_t tokens =
      static_cast<std::int32_t>(std::clamp<std::int64_t>(kv_end - first, 0, kBlockTokens));
  if (tokens == 0) {
    std::memset(page, 0, static_cast<std::size_t>(call.plan.page.bytes()));
    return;
  }
  const WritableBlock block = writable_block(call.plan.page, page, 0);
  std::fill_n(block.key_scale, kBlockTokens, 0.0f);
  std::fill_n(block.value_scale, kBlockTokens, 0.0f);

  const KernelTable& kernels = call.kernels();
  const std::int64_t key_stride = round_up(p.head_dim, 64);
  const std::int64_t value_stride = round_up(p.head_dim_v, 64);
  const std::int64_t absent = kBlockTokens - tokens;
  note_magnitude(
      call.status().key, call.key(), head, first,
      quantize_tokens(kernels, call.args.key, p.key_dtype, b, h, first, tokens, p.head_dim,
                      call.key_center(head), p.rotate, key_stride, worker.codes, block.key_scale));
  std::memset(worker.codes + tokens * key_stride, 0, static_cast<std::size_t>(absent * key_stride));
  kernels.pack_keys(worker.codes, key_stride, static_cast<std::int32_t>(p.head_dim),
                    block.key_codes, block.key_sum);

  note_magnitude(call.status().value, call.value(), head, first,
                 quantize_tokens(kernels, call.args.value, p.value_dtype, b, h, first, tokens,
                                 p.head_dim_v, call.value_center(head), false, value_stride,
                                 worker.codes, block.value_scale));
  std::memset(worker.codes + tokens * value_stride, 0,
              static_cast<std::size_t>(absent * value_stride));
  kernels.pack_values(worker.codes, value_stride, static_cast<std::int32_t>(p.head_dim_v),
                      block.value_codes);
}

void compute_center(const Call& call, std::int64_t head) {
  float* center = call.computed_center(head);
  for (std::int64_t c = 0; c < call.dims(); ++c) {
    double sum = 0;
    for (std::int64_t span = 0; span < call.spans(); ++span)
      sum += call.partial_sums(head, span)[c];
    center[c] = static_cast<float>(sum / static_cast<double>(call.problem().kv_len));
  }
}

// Of a workspace that this plan has packed; what else may stand there is unlikely to be it.
std::uint64_t packed_mark(const DensePlan& plan) { return 0x706163b5a19e5d4bu ^ plan.serial; }

intflash_status report_bad_kv(const Call& call) {
  const intflash_status result = report_bad(call.key(), call.status().key);
  return result == INTFLASH_OK ? report_bad(call.value(), call.status().value) : result;
}

}  // namespace

void begin_packing(const Call& call) {
  CallStatus& status = call.status();
  status.packed = 0;
  reset_scan(status.key);
  reset_scan(status.value);
  status.largest_key = 0;
}

void pack_score_block(const Call& call, const Worker& worker, std::int64_t head,
                      std::int64_t first_key, std::int64_t kv_end, char* pages,
                      ScoreBlock& score_block) {
  const PageLayout& page = call.plan.page;
  std::uint64_t present[2];
  for (std::int64_t i = 0; i < 2; ++i) {
    const std::int64_t first = first_key + i * kBlockTokens;
    char* const memory = pages + i * page.bytes();
    pack_page(call, worker, head, first, kv_end, memory);
    score_block.half[i] = page.block(memory, 0);
    present[i] = keep_word({0, kv_end}, first);
  }
  call.kernels().prepare_block(score_block, present);
}

bool is_sound(const Call& call) {
  const CallStatus& status = call.status();
  return status.key.first_bad.load(std::memory_order_relaxed) == INT64_MAX &&
         status.value.first_bad.load(std::memory_order_relaxed) == INT64_MAX &&
         largest_of(call.key(), status.key) < kMaxKey &&
         largest_of(call.value(), status.value) < kMaxValue;
}

intflash_status end_packing(const Call& call) {
  CallStatus& status = call.status();
  const intflash_status result = report_bad_kv(call);
  if (result != INTFLASH_OK) return result;
  status.largest_key = largest_of(call.key(), status.key);
  if (status.largest_key >= kMaxKey) {
    return fail(INTFLASH_SCORE_OVERFLOW,
                "key: largest magnitude %g: must be below 2^100, or its sums would leave the range "
                "of f32",
                status.largest_key);
  }
  const double largest_value = largest_of(call.value(), status.value);
  if (largest_value < kMaxValue) return INTFLASH_OK;
  return fail(INTFLASH_SCORE_OVERFLOW,
              "value: largest magnitude %g: must be below 2^90, or sums of weighted values would "
              "leave the range of f32",
              largest_value);
}

intflash_status pack_kv(const intflash_plan& plan, const intflash_attend_args& args,
                        void* workspace) {
  const Call call{dense(plan), args, static_cast<char*>(workspace)};
  const Problem& p = call.problem();
  CallStatus& status = call.status();
  begin_packing(call);
  if (p.kv_len == 0) {
    status.packed = packed_mark(call.plan);
    return INTFLASH_OK;
  }

  const Team team = call.team();
  const std::int64_t heads = p.batch * p.num_kv_heads;
  const bool sum_keys = p.center_key && args.key_center == nullptr;
  const bool sum_values = p.center_value && args.value_center == nullptr;
  // Means need a pass of their own; everything else is found while quantizing.
  if (sum_keys || sum_values) {
    const ScannedTensor key = call.key();
    const ScannedTensor value = call.value();
    team.for_each(num_chunks(key), [&](const Worker&, std::int64_t chunk) {
      double* sums = call.partial_sums(chunk / call.spans(), chunk % call.spans());
      if (sum_keys) scan_chunk(call.kernels(), key, chunk, status.key, sums);
      if (sum_values) scan_chunk(call.kernels(), value, chunk, status.value, sums + p.head_dim);
    });
    const intflash_status result = report_bad_kv(call);
    if (result != INTFLASH_OK) return result;
    team.for_each(heads, [&](const Worker&, std::int64_t head) { compute_center(call, head); });
  }
  // In the order of the memory that is read.
  const std::int64_t blocks = call.plan.blocks_per_head;
  const bool tokens_first = args.key.stride_token > args.key.stride_head;
  team.for_each(heads * blocks, [&](const Worker& worker, std::int64_t index) {
    const std::int64_t head = tokens_first ? index % heads : index / blocks;
    const std::int64_t block = tokens_first ? index / heads : index % blocks;
    pack_score_block(call, worker, head, block * kScoreBlock, p.kv_len, call.page(head, 2 * block),
                     call.score_blocks(head)[block]);
  });
  const intflash_status result = end_packing(call);
  if (result == INTFLASH_OK) status.packed = packed_mark(call.plan);
  return result;
}

bool is_packed(const Call& call) { return call.status().packed == packed_mark(call.plan); }

}  // namespace intflash::internal
