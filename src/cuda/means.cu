// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Means of keys or values that a dense call is to compute, in the order of docs/numerics.md,
// section 1: sums of spans, means, what each row gains by them, and whether they are kept.
#include "cuda/enqueue.h"
#include "cuda/quantize.h"
#include "cuda/seen_keys.h"

namespace intflash::internal {
namespace {

constexpr std::int32_t kWarps = 4;
constexpr std::int32_t kThreads = kWarps * kWarpThreads;

// A tensor, and one head of it.
struct MeanHead {
  const CudaTensor& tensor;
  std::int64_t batch, kv_head;
  std::int64_t dim, tokens;
  std::int64_t index;  // of all heads

  INTFLASH_DEVICE TensorRow row(std::int64_t token) const {
    return row_of(tensor, batch, kv_head, token);
  }
  INTFLASH_DEVICE std::int64_t spans() const { return ceil_div(tokens, kSpanTokens); }
  INTFLASH_DEVICE float* center(const CudaMeans& means) const { return means.center + index * dim; }
  // Of a span: sums of channels, then the number of rows.
  INTFLASH_DEVICE double* sums(const CudaMeans& means, std::int64_t span) const {
    return means.sums + (index * spans() + span) * (dim + 1);
  }
};
INTFLASH_DEVICE MeanHead mean_head(const CudaTokens& tokens, const CudaMeans& means,
                                   std::int64_t batch, std::int64_t kv_head) {
  return {means.of_values ? tokens.value : tokens.key,
          batch,
          kv_head,
          means.of_values ? tokens.head_dim_v : tokens.head_dim,
          tokens.num_rows,
          batch * tokens.num_kv_heads + kv_head};
}

// ---- Sums ----

// A span of a head; grid: [batch][spans], kv heads.
INTFLASH_KERNEL(kThreads)
sum_spans(CudaCall call, CudaTokens tokens, CudaMeans means) {
  const BlockPlace3 place = block_place();
  const std::int32_t thread = thread_place();
  const std::int32_t warp = thread / kWarpThreads, lane = thread % kWarpThreads;
  const std::int64_t spans = ceil_div(tokens.num_rows, kSpanTokens);
  const MeanHead head = mean_head(tokens, means, place.x / spans, place.y);
  const CudaRequest& request = call.requests[head.batch];
  const Shared<std::int32_t> seen(0);  // [64]
  const std::int64_t begin = place.x % spans * kSpanTokens;
  double* const sums = head.sums(means, place.x % spans);
  for (std::int64_t c = thread; c <= head.dim; c += kThreads) sums[c] = 0;
  std::int32_t largest = 0;
  for (std::int64_t first = begin; first < min_of(begin + kSpanTokens, head.tokens);
       first += kBlockTokens) {
    for (std::int32_t i = warp; i < kBlockTokens; i += kWarps) {
      const bool is_there = is_seen(call, request, head.kv_head, first + i, lane);
      if (lane == 0) seen.store(i, is_there ? 1 : 0);
    }
    sync_block();
    // Each thread has channels of its own, and one of them the number of rows.
    for (std::int64_t c = thread; c <= head.dim; c += kThreads) {
      float sum = 0;
      for (std::int32_t i = 0; i < kBlockTokens; ++i) {
        if (seen.load(i) == 0) continue;
        const float x = c < head.dim ? head.row(first + i).load(c) : 1.0f;
        sum += x;
        if (c < head.dim) largest = max_of(largest, magnitude_bits(x));
      }
      sums[c] += static_cast<double>(sum);
    }
    sync_block();
  }
  // As they came, beside what is left of them once they are centred. What is not finite is noted
  // where it is quantized.
  largest = warp_max(largest);
  CudaFinding& finding = means.of_values ? tokens.findings->value : tokens.findings->key;
  if (lane == 0 && largest < 0x7f800000)
    raise_to(&finding.magnitude, static_cast<std::uint32_t>(largest));
}

// ---- Means ----

// Of a head; grid: batch, kv heads.
INTFLASH_KERNEL(kThreads)
make_means(CudaTokens tokens, CudaMeans means) {
  const BlockPlace3 place = block_place();
  const MeanHead head = mean_head(tokens, means, place.x, place.y);
  const auto total = [&](std::int64_t c) {
    double sum = 0;
    for (std::int64_t span = 0; span < head.spans(); ++span) sum += head.sums(means, span)[c];
    return sum;
  };
  const double count = total(head.dim);
  for (std::int64_t c = thread_place(); c < head.dim; c += kThreads) {
    const float mean = count == 0 ? 0.0f : static_cast<float>(total(c) / count);
    // Sums leave f32 where some row is an error.
    head.center(means)[c] = magnitude_bits(mean) < 0x7f800000 ? mean : 0.0f;
  }
}

// ---- Whether steps become finer ----

// What the square of a row's scale is multiplied by; -1: the row has none, or nobody sees it.
INTFLASH_DEVICE double gain_of(const CudaMeans& means, const MeanHead& head, std::int64_t token,
                               Shared<float> buffer, std::int32_t lane) {
  const auto dim = static_cast<std::int32_t>(head.dim);
  float scale[2];
  for (std::int32_t i = 0; i < 2; ++i) {
    const RowChange change = {CudaRope{}, 0, i == 0 ? nullptr : head.center(means), means.rotates,
                              false};
    const std::uint32_t raw = load_row(head.row(token), dim, change, buffer, lane);
    scale[i] = prepare_row(raw, dim, change, buffer, lane).scale;
    sync_warp();
  }
  if (scale[0] == 0.0f) return -1;
  const double ratio = static_cast<double>(scale[1]) / static_cast<double>(scale[0]);
  return ratio * ratio;
}

// 64 rows of a head; grid: [batch][blocks], kv heads.
INTFLASH_KERNEL(kThreads)
compare_steps(CudaCall call, CudaTokens tokens, CudaMeans means) {
  const BlockPlace3 place = block_place();
  const std::int32_t warp = thread_place() / kWarpThreads, lane = thread_place() % kWarpThreads;
  const std::int64_t blocks = ceil_div(tokens.num_rows, kBlockTokens);
  const MeanHead head = mean_head(tokens, means, place.x / blocks, place.y);
  const CudaRequest& request = call.requests[head.batch];
  const Shared<float> buffer(static_cast<std::size_t>(warp * head.dim) * sizeof(float));
  const std::int64_t first = place.x % blocks * kBlockTokens;
  for (std::int64_t token = first + warp; token < min_of(first + kBlockTokens, head.tokens);
       token += kWarps) {
    const double gain = is_seen(call, request, head.kv_head, token, lane)
                            ? gain_of(means, head, token, buffer, lane)
                            : -1;
    if (lane == 0) means.gains[head.index * head.tokens + token] = gain;
  }
}

// A few massive rows pull a mean to where it makes all others coarser: it is 0 then. One thread
// adds, in the order of the rows, what all have fetched. Grid: batch, kv heads.
INTFLASH_KERNEL(kThreads)
keep_means(CudaTokens tokens, CudaMeans means) {
  const BlockPlace3 place = block_place();
  const std::int32_t thread = thread_place();
  const MeanHead head = mean_head(tokens, means, place.x, place.y);
  const Shared<double> gains(0);  // [kThreads]
  const Shared<std::int32_t> is_kept(kThreads * sizeof(double));
  double sum = 0, count = 0;
  for (std::int64_t first = 0; first < head.tokens; first += kThreads) {
    if (first + thread < head.tokens)
      gains.store(thread, means.gains[head.index * head.tokens + first + thread]);
    sync_block();
    for (std::int32_t i = 0; thread == 0 && i < min_of<std::int64_t>(kThreads, head.tokens - first);
         ++i) {
      const double gain = gains.load(i);
      if (gain < 0) continue;
      sum += gain;
      count += 1;
    }
    sync_block();
  }
  if (thread == 0) is_kept.store(0, sum < 0.9 * count ? 1 : 0);
  sync_block();
  if (is_kept.load(0) != 0) return;
  for (std::int64_t c = thread; c < head.dim; c += kThreads) head.center(means)[c] = 0.0f;
}

}  // namespace

cudaError_t enqueue_means(const CudaCall& call, const CudaTokens& tokens, const CudaMeans& means) {
  if (call.num_requests == 0 || tokens.num_rows == 0) return cudaSuccess;
  const std::int64_t spans = ceil_div(tokens.num_rows, kSpanTokens);
  const std::int64_t blocks = ceil_div(tokens.num_rows, kBlockTokens);
  const std::int64_t dim = means.of_values ? tokens.head_dim_v : tokens.head_dim;
  const auto grid = [&](std::int64_t x, std::size_t shared_bytes) {
    return Grid{call.num_requests * x, tokens.num_kv_heads, 1, kThreads, shared_bytes};
  };
  cudaError_t error = launch(sum_spans, grid(spans, kBlockTokens * sizeof(std::int32_t)),
                             tokens.stream, call, tokens, means);
  if (error == cudaSuccess) error = launch(make_means, grid(1, 0), tokens.stream, tokens, means);
  if (error == cudaSuccess)
    error = launch(compare_steps, grid(blocks, static_cast<std::size_t>(kWarps * dim) * 4),
                   tokens.stream, call, tokens, means);
  if (error != cudaSuccess) return error;
  return launch(keep_means, grid(1, kThreads * sizeof(double) + sizeof(std::int32_t)),
                tokens.stream, tokens, means);
}

}  // namespace intflash::internal
