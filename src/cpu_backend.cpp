// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Mode int8 on the CPU's ports: scan the query, then per work item quantize its rows and gather
// blocks -> keep words -> attend_tile -> merge -> write.
#include <algorithm>
#include <bit>
#include <climits>
#include <cmath>
#include <cstdio>

#include "backend.h"
#include "call.h"
#include "mask.h"
#include "merge.h"
#include "pack_kv.h"
#include "reference.h"
#include "scan.h"

namespace intflash {
namespace {

constexpr double kLog2E = 1.44269504088896340736;
// Beyond these the f32 factors of scores would leave their range.
constexpr double kMaxScore = 0x1p126;
constexpr double kMaxQuery = 0x1p100;

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

// Rows beyond the last become copies of the first.
void pad_rows(QueryTile& query) {
  for (std::int32_t r = query.rows; r < kMaxTileRows; ++r) {
    query.multiplier[r] = query.multiplier[0];
    query.exponent[r] = query.exponent[0];
    query.mantissa[r] = query.mantissa[0];
    query.factor[r] = query.factor[0];
    query.score_bits[r] = query.score_bits[0];
    query.score_term[r] = query.score_term[0];
  }
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

  const CallTensor source = query_tensor(call);
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
  pad_rows(query);
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
                             static_cast<Dtype>(p.out_dtype), const_cast<void*>(out.data));
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
intflash_status check_score_range(const Call& call, const CallTensor& query) {
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
  if (largest < kMaxScore && factor < kMaxScore && largest_query < kMaxQuery) return INTFLASH_OK;
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
  const CallTensor query = query_tensor(call);
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

const Backend kCpuBackend = {"cpu", create_plan, pack_kv, attend};

}  // namespace intflash
