// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Mode int8 on the CPU's ports. Packing: scan, centre, quantize into pages. Attending: scan the
// query, then per work item gather blocks -> keep words -> attend_tile -> merge -> write.
#include <algorithm>
#include <bit>
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "backend.h"
#include "float_state.h"
#include "mask.h"
#include "merge.h"
#include "reference.h"
#include "worker.h"

namespace intflash {
namespace {

constexpr double kLog2E = 1.44269504088896340736;
constexpr std::int64_t kScanRows = 64;  // rows a scan sums in f32 before they join a double
constexpr std::uint32_t kInfinityBits = 0x7f800000;
// Beyond these the f32 factors of scores, and the accumulators of out, would leave their range.
constexpr double kMaxScore = 0x1p126;
constexpr double kMaxValue = 0x1p90;
constexpr double kMaxMagnitude = 0x1p100;  // of queries and keys: means and rotations sum them

Dtype tile_dtype(intflash_dtype dtype) { return static_cast<Dtype>(dtype); }

// One run of a plan over a workspace: everything that its tasks need.
struct Call {
  const intflash_plan& plan;
  const intflash_attend_args& args;
  char* workspace;

  const Problem& problem() const { return plan.problem; }
  const Plan& layout() const { return plan.layout; }
  const KernelTable& kernels() const { return *plan.context->port->kernels; }
  CallStatus& status() const {
    return *reinterpret_cast<CallStatus*>(workspace + layout().status_offset);
  }

  std::int64_t head_index(std::int64_t b, std::int64_t kv_head) const {
    return b * problem().num_kv_heads + kv_head;
  }
  std::int64_t dims() const { return problem().head_dim + problem().head_dim_v; }
  std::int64_t spans() const { return (problem().kv_len + kSpanTokens - 1) / kSpanTokens; }

  // Computed means of a head: [head_dim] of key, then [head_dim_v] of value.
  float* computed_center(std::int64_t head) const {
    return reinterpret_cast<float*>(workspace + layout().center_offset) + head * dims();
  }
  double* partial_sums(std::int64_t head, std::int64_t span) const {
    return reinterpret_cast<double*>(workspace + layout().partial_offset) +
           (head * spans() + span) * dims();
  }
  const float* key_center(std::int64_t head) const {
    if (!problem().center_key) return nullptr;
    return args.key_center != nullptr ? args.key_center + head * problem().head_dim
                                      : computed_center(head);
  }
  const float* value_center(std::int64_t head) const {
    if (!problem().center_value) return nullptr;
    return args.value_center != nullptr ? args.value_center + head * problem().head_dim_v
                                        : computed_center(head) + problem().head_dim;
  }
  ScoreBlock* score_blocks(std::int64_t head) const {
    return reinterpret_cast<ScoreBlock*>(workspace + layout().blocks_offset) +
           head * layout().num_blocks;
  }
  char* page(std::int64_t head, std::int64_t block64) const {
    return workspace + layout().pages_offset +
           (head * layout().num_blocks * 2 + block64) * layout().page_bytes;
  }
  Worker worker(std::int32_t index) const;
};

Worker Call::worker(std::int32_t index) const {
  const Plan& plan_layout = layout();
  char* base = workspace + plan_layout.workers_offset +
               static_cast<std::size_t>(index) * plan_layout.worker_bytes;
  const WorkerLayout at = worker_layout(problem(), plan_layout, 0);
  Worker worker{};
  worker.tiles = base;
  worker.tile_bytes = plan_layout.tile_state_bytes;
  float* part = reinterpret_cast<float*>(base + at.part);
  worker.part = {part, part + kMaxTileRows, part + 2 * kMaxTileRows,
                 plan_layout.accumulator_stride};
  worker.keep = reinterpret_cast<std::uint64_t*>(base + at.keep);
  worker.codes = reinterpret_cast<std::int8_t*>(base + at.codes);
  worker.scratch = base + at.scratch;
  return worker;
}

RowSource rows_of(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                  std::int64_t h, std::int64_t token) {
  const std::int64_t offset =
      b * tensor.stride_batch + h * tensor.stride_head + token * tensor.stride_token;
  return {static_cast<const char*>(tensor.data) + offset * dtype_bytes(dtype), tile_dtype(dtype),
          tensor.stride_token};
}

float scale_of(const intflash_tensor& tensor, std::int64_t b, std::int64_t h, std::int64_t token) {
  const std::int64_t block = tensor.scale_block == 0 ? 0 : token / tensor.scale_block;
  const float scale =
      tensor.scale[b * tensor.scale_stride_batch + h * tensor.scale_stride_head + block];
  return scale < kTinyMagnitude / 127 ? 0.0f : scale;
}

// Calls task(worker, index) for each index below count, from all workers, in the order of a shared
// counter.
template <class TaskFn>
void for_each_task(const Call& call, std::int64_t count, TaskFn task) {
  struct Context {
    const Call& call;
    std::int64_t count;
    TaskFn& task;
  } context{call, count, task};
  call.status().next_task.store(0, std::memory_order_relaxed);
  const auto run_worker = [](void* opaque, std::int32_t index) {
    const Context& shared = *static_cast<Context*>(opaque);
    const FloatState float_state;
    const Worker worker = shared.call.worker(index);
    std::atomic<std::int64_t>& next = shared.call.status().next_task;
    for (std::int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < shared.count;
         i = next.fetch_add(1, std::memory_order_relaxed)) {
      shared.task(worker, i);
    }
  };
  const std::int64_t workers = std::min<std::int64_t>(call.layout().num_workers, count);
  run_parallel(call.plan.context->parallel, static_cast<std::int32_t>(workers), run_worker,
               &context);
}

// ---- Scanning
// ------------------------------------------------------------------------------------

struct ScannedTensor {
  const char* name;
  const intflash_tensor& tensor;
  intflash_dtype dtype;
  std::int64_t batch, heads, tokens, dim;
};

ScannedTensor query_tensor(const Call& call) {
  const Problem& p = call.problem();
  return {"query",           call.args.query, p.query_dtype, p.batch,
          p.num_query_heads, p.query_len,     p.head_dim};
}
ScannedTensor key_tensor(const Call& call) {
  const Problem& p = call.problem();
  return {"key", call.args.key, p.key_dtype, p.batch, p.num_kv_heads, p.kv_len, p.head_dim};
}
ScannedTensor value_tensor(const Call& call) {
  const Problem& p = call.problem();
  return {"value", call.args.value, p.value_dtype, p.batch, p.num_kv_heads, p.kv_len, p.head_dim_v};
}

bool is_bad(std::uint32_t magnitude, intflash_dtype dtype) {
  return magnitude >=
         (dtype == INTFLASH_INT8 ? std::bit_cast<std::uint32_t>(128.0f) : kInfinityBits);
}

void reset_scan(TensorScan& scan) {
  scan.magnitude.store(0, std::memory_order_relaxed);
  scan.first_bad.store(INT64_MAX, std::memory_order_relaxed);
}

void lower_to(std::atomic<std::int64_t>& least, std::int64_t value) {
  std::int64_t seen = least.load(std::memory_order_relaxed);
  while (value < seen && !least.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
  }
}
void raise_to(std::atomic<std::uint32_t>& largest, std::uint32_t value) {
  std::uint32_t seen = largest.load(std::memory_order_relaxed);
  while (value > seen && !largest.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
  }
}

// Scans chunk c of kSpanTokens rows of one head, and adds the rows into sums (double [dim]) where
// that is not null.
void scan_chunk(const Call& call, const ScannedTensor& t, std::int64_t chunk, TensorScan& scan,
                double* sums) {
  const std::int64_t chunks = (t.tokens + kSpanTokens - 1) / kSpanTokens;
  const std::int64_t head = chunk / chunks;
  const std::int64_t first = chunk % chunks * kSpanTokens;
  const std::int64_t end = std::min(first + kSpanTokens, t.tokens);
  std::uint32_t magnitude = 0;
  if (sums != nullptr) std::fill_n(sums, t.dim, 0.0);
  for (std::int64_t token = first; token < end; token += kScanRows) {
    const std::int64_t rows = std::min(kScanRows, end - token);
    const RowSource source = rows_of(t.tensor, t.dtype, head / t.heads, head % t.heads, token);
    if (sums == nullptr) {
      magnitude = std::max(magnitude, call.kernels().max_magnitude(source, rows, t.dim));
      continue;
    }
    alignas(64) float sum[kMaxHeadDim] = {};
    magnitude = std::max(magnitude, call.kernels().sum_rows(source, rows, t.dim, sum));
    for (std::int64_t c = 0; c < t.dim; ++c) sums[c] += static_cast<double>(sum[c]);
  }
  raise_to(scan.magnitude, magnitude);
  if (is_bad(magnitude, t.dtype)) lower_to(scan.first_bad, chunk);
}

std::int64_t num_chunks(const ScannedTensor& t) {
  return t.batch * t.heads * ((t.tokens + kSpanTokens - 1) / kSpanTokens);
}

// The message for the lowest bad element of the lowest bad chunk.
intflash_status report_bad(const ScannedTensor& t, const TensorScan& scan) {
  const std::int64_t chunk = scan.first_bad.load(std::memory_order_relaxed);
  if (chunk == INT64_MAX) return INTFLASH_OK;
  const std::int64_t chunks = (t.tokens + kSpanTokens - 1) / kSpanTokens;
  const std::int64_t b = chunk / chunks / t.heads;
  const std::int64_t h = chunk / chunks % t.heads;
  for (std::int64_t token = chunk % chunks * kSpanTokens; token < t.tokens; ++token) {
    for (std::int64_t c = 0; c < t.dim; ++c) {
      const bool is_code = t.dtype == INTFLASH_INT8;
      if (is_code) {
        const RowSource row = rows_of(t.tensor, t.dtype, b, h, token);
        if (static_cast<const std::int8_t*>(row.data)[c] != -128) continue;
        return fail(
            INTFLASH_INVALID_ARGUMENT,
            "%s[batch %lld][head %lld][token %lld][%lld] = -128: codes must be -127 ... 127",
            t.name, static_cast<long long>(b), static_cast<long long>(h),
            static_cast<long long>(token), static_cast<long long>(c));
      }
      const double value = tensor_element(t.tensor, t.dtype, b, h, token, c);
      if (std::isfinite(value)) continue;
      return fail(INTFLASH_NONFINITE_INPUT,
                  "%s[batch %lld][head %lld][token %lld][%lld] = %g: must be finite", t.name,
                  static_cast<long long>(b), static_cast<long long>(h),
                  static_cast<long long>(token), static_cast<long long>(c), value);
    }
  }
  return INTFLASH_OK;
}

// The largest |x| that a scanned tensor stands for.
double largest_of(const ScannedTensor& t, const TensorScan& scan) {
  const double magnitude =
      static_cast<double>(std::bit_cast<float>(scan.magnitude.load(std::memory_order_relaxed)));
  if (t.dtype != INTFLASH_INT8) return magnitude;
  float scale = 0;
  for (std::int64_t b = 0; b < t.batch; ++b) {
    for (std::int64_t h = 0; h < t.heads; ++h) {
      const std::int64_t step = t.tensor.scale_block == 0 ? t.tokens : t.tensor.scale_block;
      for (std::int64_t token = 0; token < t.tokens; token += step)
        scale = std::max(scale, scale_of(t.tensor, b, h, token));
    }
  }
  return magnitude * static_cast<double>(scale);
}

// ---- Packing
// -------------------------------------------------------------------------------------

KvBlock page_view(const Call& call, char* page) {
  const Plan& plan = call.layout();
  char* tail = page + plan.key_block_bytes + plan.value_block_bytes;
  return {reinterpret_cast<const std::int8_t*>(page),
          reinterpret_cast<const std::int8_t*>(page + plan.key_block_bytes),
          reinterpret_cast<const float*>(tail),
          reinterpret_cast<const float*>(tail + kBlockTokens * 4),
          reinterpret_cast<const std::int32_t*>(tail + 2 * kBlockTokens * 4)};
}

// Rows of a tensor as codes and scales, quantized, or as the caller gave them. Returns the bits of
// the largest magnitude met.
std::uint32_t quantize_tokens(const Call& call, const ScannedTensor& t, std::int64_t b,
                              std::int64_t h, std::int64_t token, std::int32_t rows,
                              const float* center, bool rotate, std::int64_t code_stride,
                              std::int8_t* codes, float* scale) {
  const RowSource source = rows_of(t.tensor, t.dtype, b, h, token);
  if (t.dtype != INTFLASH_INT8) {
    return call.kernels().quantize_rows({source, rows, static_cast<std::int32_t>(t.dim), center,
                                         rotate ? 1 : 0, codes, code_stride, scale});
  }
  for (std::int32_t r = 0; r < rows; ++r) {
    std::memcpy(codes + r * code_stride,
                static_cast<const std::int8_t*>(source.data) + r * source.stride,
                static_cast<std::size_t>(t.dim));
    std::memset(codes + r * code_stride + t.dim, 0, static_cast<std::size_t>(code_stride - t.dim));
    scale[r] = scale_of(t.tensor, b, h, token + r);
  }
  return call.kernels().max_magnitude(source, rows, t.dim);
}

// Keeps what quantizing tokens of one head met.
void note_magnitude(TensorScan& scan, const ScannedTensor& t, std::int64_t head, std::int64_t token,
                    std::uint32_t magnitude) {
  raise_to(scan.magnitude, magnitude);
  const std::int64_t chunks = (t.tokens + kSpanTokens - 1) / kSpanTokens;
  if (is_bad(magnitude, t.dtype)) lower_to(scan.first_bad, head * chunks + token / kSpanTokens);
}

// Absent tokens of the last page have zero codes and zero scales.
void pack_page(const Call& call, const Worker& worker, std::int64_t b, std::int64_t h,
               std::int64_t block64) {
  const Problem& p = call.problem();
  const std::int64_t head = call.head_index(b, h);
  const std::int64_t first = block64 * kBlockTokens;
  const std::int32_t tokens =
      static_cast<std::int32_t>(std::clamp<std::int64_t>(p.kv_len - first, 0, kBlockTokens));
  char* page = call.page(head, block64);
  const KvBlock view = page_view(call, page);
  float* key_scale = const_cast<float*>(view.key_scale);
  float* value_scale = const_cast<float*>(view.value_scale);
  if (tokens == 0) {
    std::memset(page, 0, static_cast<std::size_t>(call.layout().page_bytes));
    return;
  }
  std::fill_n(key_scale, 2 * kBlockTokens, 0.0f);

  const std::int64_t key_stride = round_up(p.head_dim, 64);
  const std::int64_t value_stride = round_up(p.head_dim_v, 64);
  const std::int64_t absent = kBlockTokens - tokens;
  const ScannedTensor key = key_tensor(call);
  note_magnitude(call.status().key, key, head, first,
                 quantize_tokens(call, key, b, h, first, tokens, call.key_center(head), p.rotate,
                                 key_stride, worker.codes, key_scale));
  std::memset(worker.codes + tokens * key_stride, 0, static_cast<std::size_t>(absent * key_stride));
  call.kernels().pack_keys(worker.codes, key_stride, static_cast<std::int32_t>(p.head_dim),
                           const_cast<std::int8_t*>(view.key_codes),
                           const_cast<std::int32_t*>(view.key_sum));

  const ScannedTensor value = value_tensor(call);
  note_magnitude(call.status().value, value, head, first,
                 quantize_tokens(call, value, b, h, first, tokens, call.value_center(head), false,
                                 value_stride, worker.codes, value_scale));
  std::memset(worker.codes + tokens * value_stride, 0,
              static_cast<std::size_t>(absent * value_stride));
  call.kernels().pack_values(worker.codes, value_stride, static_cast<std::int32_t>(p.head_dim_v),
                             const_cast<std::int8_t*>(view.value_codes));
}

void pack_score_block(const Call& call, const Worker& worker, std::int64_t index) {
  const std::int64_t blocks = call.layout().num_blocks;
  const std::int64_t head = index / blocks;
  const std::int64_t b = head / call.problem().num_kv_heads;
  const std::int64_t h = head % call.problem().num_kv_heads;
  const std::int64_t block = index % blocks;
  ScoreBlock& score_block = call.score_blocks(head)[block];
  std::uint64_t present[2];
  for (std::int64_t i = 0; i < 2; ++i) {
    pack_page(call, worker, b, h, 2 * block + i);
    score_block.half[i] = page_view(call, call.page(head, 2 * block + i));
    present[i] = keep_word({0, call.problem().kv_len}, (2 * block + i) * kBlockTokens);
  }
  call.kernels().prepare_block(score_block, present);
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

intflash_status report_bad_kv(const ScannedTensor& key, const ScannedTensor& value,
                              const CallStatus& status) {
  const intflash_status result = report_bad(key, status.key);
  return result == INTFLASH_OK ? report_bad(value, status.value) : result;
}

intflash_status pack(const intflash_plan& plan, const intflash_attend_args& args, void* workspace) {
  const Call call{plan, args, static_cast<char*>(workspace)};
  const Problem& p = call.problem();
  CallStatus& status = call.status();
  reset_scan(status.key);
  reset_scan(status.value);
  status.largest_key = 0;
  if (p.kv_len == 0) return INTFLASH_OK;

  const ScannedTensor key = key_tensor(call);
  const ScannedTensor value = value_tensor(call);
  const std::int64_t heads = p.batch * p.num_kv_heads;
  const bool sum_keys = p.center_key && args.key_center == nullptr;
  const bool sum_values = p.center_value && args.value_center == nullptr;
  // Means need a pass of their own; everything else is found while quantizing.
  if (sum_keys || sum_values) {
    for_each_task(call, num_chunks(key), [&](const Worker&, std::int64_t chunk) {
      double* sums = call.partial_sums(chunk / call.spans(), chunk % call.spans());
      if (sum_keys) scan_chunk(call, key, chunk, status.key, sums);
      if (sum_values) scan_chunk(call, value, chunk, status.value, sums + p.head_dim);
    });
    const intflash_status result = report_bad_kv(key, value, status);
    if (result != INTFLASH_OK) return result;
    for_each_task(call, heads,
                  [&](const Worker&, std::int64_t head) { compute_center(call, head); });
  }
  for_each_task(
      call, heads * call.layout().num_blocks,
      [&](const Worker& worker, std::int64_t index) { pack_score_block(call, worker, index); });
  const intflash_status result = report_bad_kv(key, value, status);
  if (result != INTFLASH_OK) return result;
  status.largest_key = largest_of(key, status.key);
  if (status.largest_key >= kMaxMagnitude) {
    return fail(INTFLASH_SCORE_OVERFLOW,
                "key: largest magnitude %g: must be below 2^100, or its sums would leave the range "
                "of f32",
                status.largest_key);
  }
  const double largest_value = largest_of(value, status.value);
  if (largest_value < kMaxValue) return INTFLASH_OK;
  return fail(INTFLASH_SCORE_OVERFLOW,
              "value: largest magnitude %g: must be below 2^90, or sums of weighted values would "
              "leave the range of f32",
              largest_value);
}

// ---- Attending
// -----------------------------------------------------------------------------------

struct RowPlace {
  std::int64_t query_head;
  std::int64_t query;
};

RowPlace place_of(const Call& call, std::int64_t kv_head, std::int64_t row) {
  const std::int64_t group = call.problem().group_size;
  return {kv_head * group + row % group, row / group};
}

// query . center in double, for what centring took from the row's scores.
double center_dot(const Call& call, std::int64_t b, RowPlace place, const float* center) {
  const Problem& p = call.problem();
  double dot = 0;
  for (std::int64_t c = 0; c < p.head_dim; ++c) {
    dot += tensor_element(call.args.query, p.query_dtype, b, place.query_head, place.query, c) *
           static_cast<double>(center[c]);
  }
  return dot;
}

// query_scale * softmax_scale * log2(e) as the fixed point wants it.
void set_row_factor(QueryTile& query, std::int32_t r, float factor) {
  query.factor[r] = factor;
  if (factor < kTinyMagnitude) {  // scores this small are all the same
    query.multiplier[r] = 0;
    query.mantissa[r] = 0.5f;
    query.exponent[r] = -100;
    return;
  }
  int exponent = 0;
  query.mantissa[r] = std::frexp(factor, &exponent);
  query.exponent[r] = exponent;
  query.multiplier[r] =
      static_cast<std::int32_t>(std::min(std::nearbyint(query.mantissa[r] * 32768.0f), 32767.0f));
}

void build_tile(const Call& call, const WorkItem& item, std::int64_t tile_index, Tile& tile) {
  const Problem& p = call.problem();
  const Plan& plan = call.layout();
  const std::int64_t first = tile_index * plan.tile_rows;
  char* after = reinterpret_cast<char*>(&tile) + round_up(sizeof(Tile), 64);
  tile.total = {tile.reference, tile.row_sum, reinterpret_cast<float*>(after),
                plan.accumulator_stride};
  tile.touched = false;
  QueryTile& query = tile.query;
  query.rows = static_cast<std::int32_t>(std::min(plan.tile_rows, plan.rows_per_head - first));
  query.head_dim = static_cast<std::int32_t>(p.head_dim);
  query.code_stride = static_cast<std::int32_t>(plan.code_stride);
  std::int8_t* codes =
      reinterpret_cast<std::int8_t*>(after) + plan.tile_rows * plan.accumulator_stride * 4;
  query.codes = codes;

  const ScannedTensor source = query_tensor(call);
  const float* center = call.key_center(call.head_index(item.batch, item.kv_head));
  const bool needs_center = center != nullptr && (call.args.lse != nullptr || p.score_cap > 0);
  const float to_log2 = static_cast<float>(static_cast<double>(p.softmax_scale) * kLog2E);
  tile.min_begin = INT64_MAX;
  tile.max_end = 0;
  for (std::int32_t r = 0; r < query.rows; ++r) {
    const RowPlace place = place_of(call, item.kv_head, first + r);
    float scale = 0;
    quantize_tokens(call, source, item.batch, place.query_head, place.query, 1, nullptr, p.rotate,
                    plan.code_stride, codes + r * plan.code_stride, &scale);
    set_row_factor(query, r, scale * to_log2);
    // |query . key| <= 127 * sum of |code| for every key.
    const std::int32_t bound =
        127 * call.kernels().sum_magnitudes(codes + r * plan.code_stride, p.head_dim);
    query.score_bits[r] =
        static_cast<std::int32_t>(std::bit_width(static_cast<std::uint32_t>(bound)));
    tile.center_score[r] = needs_center ? center_dot(call, item.batch, place, center) *
                                              static_cast<double>(p.softmax_scale)
                                        : 0.0;
    query.score_term[r] = static_cast<float>(tile.center_score[r] * kLog2E);
    tile.ranges[r] = visible_keys(p, place.query);
    if (tile.ranges[r].begin == tile.ranges[r].end) continue;
    tile.min_begin = std::min(tile.min_begin, tile.ranges[r].begin);
    tile.max_end = std::max(tile.max_end, tile.ranges[r].end);
  }
}

void clear_state(const AttentionState& state, std::int32_t rows) {
  std::fill_n(state.reference, rows, -INFINITY);
  std::fill_n(state.row_sum, rows, 0.0f);
  std::fill_n(state.accumulators, rows * state.accumulator_stride, 0.0f);
}

void attend_span(const Call& call, const Worker& worker, const WorkItem& item, std::int64_t span,
                 Tile& tile) {
  const Problem& p = call.problem();
  const std::int64_t first_key =
      std::max(span * kSpanTokens, tile.min_begin / kScoreBlock * kScoreBlock);
  const std::int64_t end_key = std::min({(span + 1) * kSpanTokens, tile.max_end, p.kv_len});
  if (first_key >= end_key) return;
  const std::int32_t rows = tile.query.rows;
  const std::uint64_t* keep[kBlocksPerSpan] = {};
  std::int32_t num_blocks = 0;
  for (std::int64_t key = first_key; key < end_key; key += kScoreBlock, ++num_blocks) {
    if (classify_block(tile.ranges, rows, key) == BlockKind::kVisible) continue;
    std::uint64_t* words = worker.keep + num_blocks * kMaxTileRows * 2;
    write_keep_words(tile.ranges, rows, key, words);
    keep[num_blocks] = words;
  }
  const AttentionState& state = tile.touched ? worker.part : tile.total;
  clear_state(state, rows);
  TileTask task{};
  task.query = &tile.query;
  task.head_dim_v = static_cast<std::int32_t>(p.head_dim_v);
  task.num_blocks = num_blocks;
  task.blocks =
      call.score_blocks(call.head_index(item.batch, item.kv_head)) + first_key / kScoreBlock;
  task.keep = keep;
  task.score_cap = static_cast<float>(std::min(static_cast<double>(p.score_cap) * kLog2E, 3e38));
  task.state = state;
  task.scratch = worker.scratch;
  call.kernels().attend_tile(task);
  if (tile.touched)
    call.kernels().merge_states(worker.part, tile.total, rows,
                                static_cast<std::int32_t>(p.head_dim_v));
  tile.touched = true;
}

void finish_tile(const Call& call, const WorkItem& item, std::int64_t tile_index, Tile& tile) {
  const Problem& p = call.problem();
  if (!tile.touched) clear_state(tile.total, tile.query.rows);
  const float* center = call.value_center(call.head_index(item.batch, item.kv_head));
  for (std::int32_t r = 0; r < tile.query.rows; ++r) {
    const RowPlace place = place_of(call, item.kv_head, tile_index * call.layout().tile_rows + r);
    const RowSource out =
        rows_of(call.args.out, p.out_dtype, item.batch, place.query_head, place.query);
    call.kernels().write_row(tile.total.accumulators + r * tile.total.accumulator_stride,
                             tile.total.row_sum[r], static_cast<std::int32_t>(p.head_dim_v), center,
                             tile_dtype(p.out_dtype), const_cast<void*>(out.data));
    if (call.args.lse == nullptr) continue;
    // Below a cap the centre's part of the score has been in it all along.
    const double term = p.score_cap > 0 ? 0.0 : tile.center_score[r];
    call.args.lse[(item.batch * p.num_query_heads + place.query_head) * p.query_len + place.query] =
        log_sum_exp(tile.total.reference[r], tile.total.row_sum[r], term);
  }
}

// A super-block of keys and values stays in L2 while the item's tiles pass over it; where all keys
// are one super-block, a tile is finished before the next begins, and its state stays in L1.
void attend_item(const Call& call, const Worker& worker, std::int64_t index) {
  const Plan& plan = call.layout();
  const WorkItem item = work_item(call.problem(), plan, index);
  const bool one_superblock = call.spans() <= plan.superblock_spans;
  const std::int64_t tiles_at_once = one_superblock ? 1 : item.num_tiles;
  for (std::int64_t first = 0; first < item.num_tiles; first += tiles_at_once) {
    for (std::int64_t i = 0; i < tiles_at_once; ++i)
      build_tile(call, item, item.first_tile + first + i, *worker.tile(i));
    for (std::int64_t super = 0; super < call.spans(); super += plan.superblock_spans) {
      const std::int64_t end = std::min(super + plan.superblock_spans, call.spans());
      for (std::int64_t i = 0; i < tiles_at_once; ++i) {
        for (std::int64_t span = super; span < end; ++span)
          attend_span(call, worker, item, span, *worker.tile(i));
      }
    }
    for (std::int64_t i = 0; i < tiles_at_once; ++i)
      finish_tile(call, item, item.first_tile + first + i, *worker.tile(i));
  }
}

// Bounds |score| * log2(e), in either score form, before and after centring and rotation.
intflash_status check_score_range(const Call& call, const ScannedTensor& query) {
  const Problem& p = call.problem();
  double largest_key = call.status().largest_key;
  if (p.center_key && call.args.key_center != nullptr) {
    const std::int64_t count = p.batch * p.num_kv_heads * p.head_dim;
    double largest_center = 0;
    for (std::int64_t i = 0; i < count; ++i)
      largest_center =
          std::max(largest_center, std::fabs(static_cast<double>(call.args.key_center[i])));
    largest_key += largest_center;
  } else if (p.center_key) {
    largest_key *= 2;
  }
  const double dim = static_cast<double>(p.head_dim);
  const double largest_query = largest_of(query, call.status().query);
  const double factor =
      largest_query * std::max(1.0, static_cast<double>(p.softmax_scale) * kLog2E);
  const double largest = factor * largest_key * dim * (p.rotate ? dim : 1.0);
  if (largest < kMaxScore && factor < kMaxScore && largest_query < kMaxMagnitude)
    return INTFLASH_OK;
  return fail(INTFLASH_SCORE_OVERFLOW,
              "query and key: magnitudes up to %g and %g with head_dim %lld and softmax_scale %g: "
              "scores could "
              "leave the range of f32; their product must stay below 2^126",
              largest_query, largest_key, static_cast<long long>(p.head_dim),
              static_cast<double>(p.softmax_scale));
}

intflash_status attend(const intflash_plan& plan, const intflash_attend_args& args,
                       void* workspace) {
  const Call call{plan, args, static_cast<char*>(workspace)};
  const ScannedTensor query = query_tensor(call);
  CallStatus& status = call.status();
  reset_scan(status.query);
  for_each_task(call, num_chunks(query), [&](const Worker&, std::int64_t chunk) {
    scan_chunk(call, query, chunk, status.query, nullptr);
  });
  intflash_status result = report_bad(query, status.query);
  if (result == INTFLASH_OK && call.problem().kv_len > 0) result = check_score_range(call, query);
  if (result != INTFLASH_OK) return result;
  for_each_task(call, call.layout().num_items, [&](const Worker& worker, std::int64_t index) {
    attend_item(call, worker, index);
  });
  return INTFLASH_OK;
}

void create_plan(intflash_plan& plan) {
  const intflash_context& context = *plan.context;
  plan.layout =
      make_plan(plan.problem, *context.port->kernels, context.num_threads, context.l2_bytes);
  plan.workspace_bytes = plan.layout.total_bytes;
  std::snprintf(plan.kernel, sizeof plan.kernel, "attend/int8%s/%s/rows%dx%d",
                plan.problem.score_cap > 0 ? "+cap" : "", context.port->name,
                context.port->kernels->tile_rows, kScoreBlock);
}

}  // namespace

const Backend kCpuBackend = {"cpu", create_plan, pack, attend};

}  // namespace intflash
