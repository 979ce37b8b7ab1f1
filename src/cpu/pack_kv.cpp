// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/pack_kv.h"

#include <algorithm>
#include <cstring>

#include "core/limits.h"
#include "core/mask.h"
#include "inputs/token_rows.h"

namespace intflash::internal {
namespace {

// Absent tokens of the last page have zero codes and zero scales.
void pack_page(DenseRun& run, const Worker& worker, std::int64_t head, std::int64_t first,
               std::int64_t kv_end, char* page) {
  const Problem& p = run.problem();
  const std::int64_t b = head / p.num_kv_heads;
  const std::int64_t h = head % p.num_kv_heads;
  const std::int32_t tokens =
      static_cast<std::int32_t>(std::clamp<std::int64_t>(kv_end - first, 0, kBlockTokens));
  if (tokens == 0) {
    std::memset(page, 0, static_cast<std::size_t>(run.dense_plan().page.bytes()));
    return;
  }
  const WritableBlock block = writable_block(run.dense_plan().page, page, 0);
  std::fill_n(block.key_scale, kBlockTokens, 0.0f);
  std::fill_n(block.value_scale, kBlockTokens, 0.0f);

  const KernelTable& kernels = run.kernels();
  const std::int64_t key_stride = round_up(p.head_dim, 64);
  const std::int64_t value_stride = round_up(p.head_dim_v, 64);
  const std::int64_t absent = kBlockTokens - tokens;
  note_magnitude(
      run.key, run.key_tensor(), head, first,
      quantize_tokens(kernels, run.args.key, p.key_dtype, b, h, first, tokens, p.head_dim,
                      run.key_center(head), p.rotate, key_stride, worker.codes, block.key_scale));
  std::memset(worker.codes + tokens * key_stride, 0, static_cast<std::size_t>(absent * key_stride));
  kernels.pack_keys(worker.codes, key_stride, static_cast<std::int32_t>(p.head_dim),
                    block.key_codes, block.key_sum);

  note_magnitude(run.value, run.value_tensor(), head, first,
                 quantize_tokens(kernels, run.args.value, p.value_dtype, b, h, first, tokens,
                                 p.head_dim_v, run.value_center(head), false, value_stride,
                                 worker.codes, block.value_scale));
  std::memset(worker.codes + tokens * value_stride, 0,
              static_cast<std::size_t>(absent * value_stride));
  kernels.pack_values(worker.codes, value_stride, static_cast<std::int32_t>(p.head_dim_v),
                      block.value_codes);
}

// Of a workspace that this plan has packed; what else may stand there is unlikely to be it.
std::uint64_t packed_mark(const intflash_plan& plan) { return 0x706163b5a19e5d4bu ^ plan.serial; }

intflash_status report_bad_kv(const DenseRun& run) {
  const intflash_status result = report_bad(run.key_tensor(), run.key);
  return result == INTFLASH_OK ? report_bad(run.value_tensor(), run.value) : result;
}

bool is_finite(const DenseRun& run) {
  return run.key.first_bad.load(std::memory_order_relaxed) == INT64_MAX &&
         run.value.first_bad.load(std::memory_order_relaxed) == INT64_MAX;
}

}  // namespace

void sum_chunk(DenseRun& run, std::int64_t chunk) {
  double* const sums = run.partial_sums(chunk / run.spans(), chunk % run.spans());
  if (run.sums_keys()) scan_chunk(run.kernels(), run.key_tensor(), chunk, run.key, sums);
  if (run.sums_values())
    scan_chunk(run.kernels(), run.value_tensor(), chunk, run.value, sums + run.problem().head_dim);
}

void compute_center(const DenseRun& run, std::int64_t head) {
  float* center = run.computed_center(head);
  for (std::int64_t c = 0; c < run.dims(); ++c) {
    double sum = 0;
    for (std::int64_t span = 0; span < run.spans(); ++span) sum += run.partial_sums(head, span)[c];
    center[c] = static_cast<float>(sum / static_cast<double>(run.problem().kv_len));
  }
}

void pack_score_block(DenseRun& run, const Worker& worker, std::int64_t head,
                      std::int64_t first_key, std::int64_t kv_end, char* pages,
                      ScoreBlock& score_block) {
  const PageLayout& page = run.dense_plan().page;
  std::uint64_t present[2];
  for (std::int64_t i = 0; i < 2; ++i) {
    const std::int64_t first = first_key + i * kBlockTokens;
    char* const memory = pages + i * page.bytes();
    pack_page(run, worker, head, first, kv_end, memory);
    score_block.half[i] = page.block(memory, 0);
    present[i] = keep_word({0, kv_end}, first);
  }
  run.kernels().prepare_block(score_block, present);
}

void pack_block(DenseRun& run, const Worker& worker, std::int64_t index) {
  // Means of what is not finite are no use; all of it has been looked at.
  if ((run.sums_keys() || run.sums_values()) && !is_finite(run)) return;
  // In the order of the memory that is read.
  const std::int64_t heads = run.problem().batch * run.problem().num_kv_heads;
  const std::int64_t blocks = run.dense_plan().blocks_per_head;
  const bool tokens_first = run.args.key.stride_token > run.args.key.stride_head;
  const std::int64_t head = tokens_first ? index % heads : index / blocks;
  const std::int64_t block = tokens_first ? index / heads : index % blocks;
  pack_score_block(run, worker, head, block * kScoreBlock, run.problem().kv_len,
                   run.page(head, 2 * block), run.score_blocks(head)[block]);
}

bool is_kv_sound(const DenseRun& run) {
  return is_finite(run) && largest_of(run.key_tensor(), run.key) < kMaxKey &&
         largest_of(run.value_tensor(), run.value) < kMaxValue;
}

intflash_status check_packed(const DenseRun& run) {
  const intflash_status result = report_bad_kv(run);
  if (result != INTFLASH_OK) return result;
  const double largest_key = largest_of(run.key_tensor(), run.key);
  if (largest_key >= kMaxKey) {
    return fail(INTFLASH_SCORE_OVERFLOW,
                "key: largest magnitude %g: must be below 2^100, or its sums would leave the range "
                "of f32",
                largest_key);
  }
  const double largest_value = largest_of(run.value_tensor(), run.value);
  if (largest_value < kMaxValue) return INTFLASH_OK;
  return fail(INTFLASH_SCORE_OVERFLOW,
              "value: largest magnitude %g: must be below 2^90, or sums of weighted values would "
              "leave the range of f32",
              largest_value);
}

void mark_packed(DenseRun& run) {
  run.packed_largest_key = largest_of(run.key_tensor(), run.key);
  run.packed = packed_mark(*run.plan);
}

bool is_packed(const intflash_plan& plan, const DenseRun& run) {
  return run.packed == packed_mark(plan);
}

}  // namespace intflash::internal
