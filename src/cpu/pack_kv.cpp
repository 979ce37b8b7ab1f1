// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/pack_kv.h"

#include <algorithm>
#include <cstring>

#include "core/mask.h"
#include "cpu/query_limits.h"
#include "inputs/token_rows.h"
#include "pages/codec.h"
#include "tile/limits.h"
#include "tile/score_block.h"

namespace intflash::internal {
namespace {

// 64 tokens of a head and where they go to. Those from `count` on are absent: zero codes, and zero
// scales.
struct PackedTokens {
  std::int64_t b, h, first;
  std::int32_t count;
  WritableBlock block;
};

// Rows of tokens without those that are absent become rows with zeros.
void clear_absent(std::int32_t count, std::int64_t stride, std::int8_t* codes) {
  std::memset(codes + count * stride, 0, static_cast<std::size_t>((kBlockTokens - count) * stride));
}

void pack_key_tokens(DenseRun& run, const Worker& worker, std::int64_t head,
                     const PackedTokens& tokens, bool has_digits) {
  const Problem& p = run.problem();
  const KernelTable& kernels = run.kernels();
  const WritableBlock& block = tokens.block;
  const std::int64_t stride = round_up(p.head_dim, 64);
  const auto dim = static_cast<std::int32_t>(p.head_dim);
  note_magnitude(
      run.key, run.key_tensor(), head, tokens.first,
      quantize_tokens(kernels, run.args.key, p.key_dtype, tokens.b, tokens.h, tokens.first,
                      tokens.count, dim, {run.key_center(head), p.rotation.keys, false}, stride,
                      worker.codes, has_digits ? worker.digits : nullptr, block.key_scale));
  clear_absent(tokens.count, stride, worker.codes);
  kernels.rows->pack_keys(worker.codes, stride, dim, block.key_codes, block.key_sum);
  if (!has_digits) return;
  clear_absent(tokens.count, stride, worker.digits);
  kernels.rows->pack_keys(worker.digits, stride, dim, block.key_digits, block.digit_sum);
}

void pack_value_tokens(DenseRun& run, const Worker& worker, std::int64_t head,
                       const PackedTokens& tokens) {
  const Problem& p = run.problem();
  const KernelTable& kernels = run.kernels();
  const std::int64_t stride = round_up(p.value_row_bytes(), 64);
  const auto dim = static_cast<std::int32_t>(p.head_dim_v);
  const QuantizeForm form = {run.value_center(head), p.rotation.values, true};
  const std::uint32_t magnitude =
      p.has_f16_values()
          ? halve_tokens(kernels, run.args.value, p.value_dtype, tokens.b, tokens.h, tokens.first,
                         tokens.count, dim, form, stride, worker.codes, tokens.block.value_scale)
          : quantize_tokens(kernels, run.args.value, p.value_dtype, tokens.b, tokens.h,
                            tokens.first, tokens.count, dim, form, stride, worker.codes, nullptr,
                            tokens.block.value_scale);
  note_magnitude(run.value, run.value_tensor(), head, tokens.first, magnitude);
  clear_absent(tokens.count, stride, worker.codes);
  const Codec& codec = p.has_f16_values() ? kK8v16Codec : kInt8Codec;
  codec.store_values(kernels, run.dense_plan().page, tokens.block,
                     {worker.codes, nullptr, stride, 0, kBlockTokens});
}

// Of a workspace that this plan has packed; what else may stand there is unlikely to be it.
std::uint64_t packed_mark(const intflash_plan& plan) { return 0x706163b5a19e5d4bu ^ plan.serial; }

bool is_finite(const DenseRun& run) {
  return run.key.first_bad.load(std::memory_order_relaxed) == INT64_MAX &&
         run.value.first_bad.load(std::memory_order_relaxed) == INT64_MAX;
}

// What a centre is computed for: the rows of one head.
struct CenteredRows {
  ScannedTensor tensor;
  std::int64_t head;
  std::int64_t sums_at;  // their sums among a span's
  bool rotate;
  float* center;
};

// Whether the rows that are seen have clearly finer steps with their centre than without it: a few
// massive ones may pull the mean to where it makes all others larger.
bool is_finer(const DenseRun& run, const Worker& worker, const CenteredRows& rows) {
  const ScannedTensor& t = rows.tensor;
  const std::int64_t b = rows.head / t.heads;
  const std::int64_t h = rows.head % t.heads;
  double sum = 0;
  double count = 0;
  for (std::int64_t first = 0; first < t.tokens; first += kBlockTokens) {
    run.seen_keys().for_each_run(b, h, first, [&](std::int64_t token, std::int64_t n) {
      float scale[2][kBlockTokens];
      for (const bool centred : {false, true})
        quantize_tokens(run.kernels(), t.tensor, t.dtype, b, h, token, static_cast<std::int32_t>(n),
                        t.dim, {centred ? rows.center : nullptr, rows.rotate, false},
                        round_up(t.dim, 64), worker.codes, nullptr, scale[centred]);
      for (std::int64_t i = 0; i < n; ++i) {
        if (scale[0][i] == 0) continue;
        const double ratio = static_cast<double>(scale[1][i]) / static_cast<double>(scale[0][i]);
        sum += ratio * ratio;
        count += 1;
      }
    });
  }
  return sum < 0.9 * count;
}

void compute_center(const DenseRun& run, const Worker& worker, const CenteredRows& rows) {
  const std::int64_t dim = rows.tensor.dim;
  const auto total = [&](std::int64_t c) {
    double sum = 0;
    for (std::int64_t span = 0; span < run.spans(); ++span)
      sum += run.partial_sums(rows.head, span)[rows.sums_at + c];
    return sum;
  };
  const double count = total(dim);
  if (count == 0 || !is_finite(run)) return;  // what is not finite has no mean
  for (std::int64_t c = 0; c < dim; ++c) rows.center[c] = static_cast<float>(total(c) / count);
  if (!is_finer(run, worker, rows)) std::fill_n(rows.center, dim, 0.0f);
}

}  // namespace

void sum_chunk(DenseRun& run, std::int64_t chunk) {
  double* const sums = run.partial_sums(chunk / run.spans(), chunk % run.spans());
  const SeenKeys seen = run.seen_keys();
  if (run.sums_keys()) sum_chunk(seen, run.key_tensor(), chunk, run.key, sums);
  if (run.sums_values())
    sum_chunk(seen, run.value_tensor(), chunk, run.value, sums + run.problem().head_dim + 1);
}

void compute_center(const DenseRun& run, const Worker& worker, std::int64_t head) {
  float* const center = run.computed_center(head);
  std::fill_n(center, run.dims(), 0.0f);
  const Problem& p = run.problem();
  if (run.sums_keys())
    compute_center(run, worker, {run.key_tensor(), head, 0, p.rotation.keys, center});
  if (run.sums_values())
    compute_center(
        run, worker,
        {run.value_tensor(), head, p.head_dim + 1, p.rotation.values, center + p.head_dim});
}

void pack_score_block(DenseRun& run, const Worker& worker, std::int64_t head, KeyRange keys,
                      float query_limit, char* pages, ScoreBlock& score_block) {
  const PageLayout& page = run.dense_plan().page;
  const std::int64_t num_heads = run.problem().num_kv_heads;
  const bool has_digits = run.problem().has_digits();
  const std::int32_t digits_above = run.problem().digits_above;
  const bool at_once =
      has_digits && (query_limit == kNoQueryLimit || run.problem().all_take_digits());
  std::uint64_t present[2];
  PackedTokens halves[2];
  for (std::int64_t i = 0; i < 2; ++i) {
    PackedTokens& tokens = halves[i];
    tokens.b = head / num_heads;
    tokens.h = head % num_heads;
    tokens.first = keys.begin + i * kBlockTokens;
    tokens.count = static_cast<std::int32_t>(
        std::clamp<std::int64_t>(keys.end - tokens.first, 0, kBlockTokens));
    char* const memory = pages + i * page.bytes();
    tokens.block = writable_block(page, memory, 0);
    score_block.half[i] = page.block(memory, 0);
    present[i] = keep_word({0, keys.end}, tokens.first);
    if (tokens.count == 0) {
      std::memset(memory, 0, static_cast<std::size_t>(page.bytes()));
      continue;
    }
    std::fill_n(tokens.block.key_scale, kBlockTokens, 0.0f);
    std::fill_n(tokens.block.value_scale, kBlockTokens, 0.0f);
    pack_key_tokens(run, worker, head, tokens, at_once);
    pack_value_tokens(run, worker, head, tokens);
  }
  run.kernels().prepare_block(score_block, present);
  if (!has_digits || at_once || !may_take_digits(score_block, query_limit, digits_above)) return;
  for (const PackedTokens& tokens : halves)
    if (tokens.count > 0) pack_key_tokens(run, worker, head, tokens, true);
}

void pack_block(DenseRun& run, const Worker& worker, std::int64_t index) {
  // In the order of the memory that is read.
  const std::int64_t heads = run.problem().batch * run.problem().num_kv_heads;
  const std::int64_t blocks = run.dense_plan().blocks_per_head;
  const bool tokens_first = run.args.key.stride_token > run.args.key.stride_head;
  const std::int64_t head = tokens_first ? index % heads : index / blocks;
  const std::int64_t block = tokens_first ? index / heads : index % blocks;
  pack_score_block(run, worker, head, {block * kScoreBlock, run.problem().kv_len},
                   query_limit(run, head), run.page(head, 2 * block),
                   run.score_blocks(head)[block]);
}

bool is_sound(const Finding& key, const Finding& value) {
  return key.first_bad == INT64_MAX && value.first_bad == INT64_MAX && key.largest < kMaxKey &&
         value.largest < kMaxValue;
}

double largest_packed_key(const DenseRun& run) {
  const Problem& p = run.problem();
  const SeenKeys seen = run.seen_keys();
  float largest = 0;
  for (std::int64_t head = 0; head < p.batch * p.num_kv_heads; ++head) {
    for (std::int64_t first = 0; first < p.kv_len; first += kBlockTokens) {
      const KvBlock block = run.dense_plan().page.block(run.page(head, first / kBlockTokens), 0);
      seen.for_each_run(head / p.num_kv_heads, head % p.num_kv_heads, first,
                        [&](std::int64_t token, std::int64_t count) {
                          const float* scale = block.key_scale + (token - first);
                          largest = std::max(largest, *std::max_element(scale, scale + count));
                        });
    }
  }
  return 127.001 * static_cast<double>(largest);
}

intflash_status check_kv(const DenseRun& run, const Finding& key, const Finding& value) {
  const SeenKeys seen = run.seen_keys();
  intflash_status result = report_bad(run.key_tensor(), key.first_bad, &seen);
  if (result == INTFLASH_OK) result = report_bad(run.value_tensor(), value.first_bad, &seen);
  if (result != INTFLASH_OK) return result;
  if (key.largest >= kMaxKey) {
    return fail(INTFLASH_SCORE_OVERFLOW,
                "key: largest magnitude %g: must be below 2^100, or its sums would leave the range "
                "of f32",
                key.largest);
  }
  if (value.largest < kMaxValue) return INTFLASH_OK;
  return fail(INTFLASH_SCORE_OVERFLOW,
              "value: largest magnitude %g: must be below 2^90, or sums of weighted values would "
              "leave the range of f32",
              value.largest);
}

void mark_packed(DenseRun& run, double largest_key) {
  run.packed_largest_key = largest_key;
  run.packed = packed_mark(*run.plan);
}

bool is_packed(const intflash_plan& plan, const DenseRun& run) {
  return run.packed == packed_mark(plan);
}

}  // namespace intflash::internal
