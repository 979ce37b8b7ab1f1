// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Attention over heads of more channels than any tile has, which few models have: two query rows to
// a block of threads, each of which has a key of a score block, then channels of values, as they
// lie in the pages. It is not fast.
#include "cuda/attend_item.h"
#include "cuda/enqueue.h"

namespace intflash::internal {
namespace {

constexpr int kDim = kMaxHeadDim;
constexpr auto kRows = static_cast<std::int32_t>(cuda_tile_rows(kDim));
constexpr std::int32_t kWideThreads = kThreads<kDim>;
static_assert(kWideThreads == kScoreBlock && kRows == 2);
// A thread's channels: c = thread + i * kWideThreads. Its numbers of two rows are those of a
// thread of tiles of so many channels.
constexpr std::int32_t kChannels = kDim / kWideThreads;
constexpr int kStateDim = 4 * kChannels;
using States = RowStates<kStateDim>;

// Where all of it lies in shared memory.
struct WidePlace {
  static constexpr std::size_t kTileRows = 0;
  static constexpr std::size_t kOutcomes = kTileRows + kRows * sizeof(TileRow);
  static constexpr std::size_t kDots = kOutcomes + kRows * sizeof(RowOutcome);
  static constexpr std::size_t kWeights = kDots + kRows * kScoreBlock * 4;
  static constexpr std::size_t kCodes = kWeights + kRows * kScoreBlock;
  static constexpr std::size_t kDigits = kCodes + kRows * kDim;
  static constexpr std::size_t kOut = kDigits + kRows * kDim;
  static constexpr std::size_t kTaking = kOut + kRows * kDim * 4;  // rows' second digits
  static constexpr std::size_t kBytes = kTaking + kRows * 4;
};

INTFLASH_DEVICE StateSlots<kStateDim> wide_slots(char* first, std::int64_t index,
                                                 const TileThread& at) {
  return {first + index * tile_state_bytes(kDim), at.thread, kWideThreads};
}
INTFLASH_DEVICE TileThread wide_thread(const CudaCall& call, const CudaRequest& request,
                                       std::int32_t tile, std::int32_t part) {
  TileThread at = tile_thread<kDim>(call, request, tile, part);
  at.first_row = at.first_tile_row;
  return at;
}

// Rows' codes, or their digits, in shared memory; zeros behind the last row.
INTFLASH_DEVICE void load_codes(const CudaCall& call, const TileThread& at, const std::int8_t* rows,
                                std::size_t to) {
  const Shared<std::uint32_t> codes(to);
  for (std::int32_t r = 0; r < kRows; ++r) {
    const std::uint32_t* const row = at.words_of_row(call, rows, r);
    for (std::int32_t i = at.thread; i < kDim / 4; i += kWideThreads)
      codes.store(r * (kDim / 4) + i, row == nullptr ? 0 : row[i]);
  }
}

// Products of a key's codes, or digits, with those of a row.
INTFLASH_DEVICE std::int32_t product_of(const std::int8_t* key, std::int32_t head_dim,
                                        std::size_t codes_place, std::int32_t r) {
  const Shared<std::uint32_t> codes(codes_place);
  std::int32_t sum = 0;
  for (std::int32_t i = 0; i < head_dim / 4; ++i)
    sum = add_four_s8(sum, codes.load(r * (kDim / 4) + i),
                      reinterpret_cast<const std::uint32_t*>(key)[16 * i]);
  return sum;
}

// Passes over the blocks of a range in order.
class WideItem {
 public:
  INTFLASH_DEVICE WideItem(const CudaCall& call, const TileThread& at)
      : call_(call),
        at_(at),
        masks_{call, at},
        pages_{call, call.pages, call.pages.first + at.kv_head * call.pages.head_bytes,
               call.blocks + at.request->first_entry},
        rows_(WidePlace::kTileRows) {}

  // Leaves the state of each span to those that wait.
  INTFLASH_DEVICE void attend(BlockRange range, WaitingStates<kStateDim>& waiting,
                              States& state) const {
    state.clear();
    for (std::int32_t block = range.begin; block < range.end; ++block) {
      if (call_.has_digits()) find_taking(block);
      multiply_key(block);
      sync_block();
      if (at_.warp < kRows) weigh(block);
      sync_block();
      add_values(block, state);
      if (block % kBlocksPerSpan != kBlocksPerSpan - 1 && block + 1 != range.end) continue;
      waiting.push(block / kBlocksPerSpan, state);
      state.clear();
    }
  }

 private:
  INTFLASH_DEVICE std::int32_t first_key(std::int32_t block) const {
    return block * kScoreBlock + kLaneKeys * at_.lane.index;
  }

  // Which rows take second digits.
  INTFLASH_DEVICE void find_taking(std::int32_t block) const {
    if (at_.warp < kRows) {
      const TileRow row = rows_.load(at_.warp);
      LaneProducts seen{};
      seen.kept = kept_keys(row, first_key(block));
      masks_.acts_of(at_.warp, first_key(block), seen.kept);
      const bool takes = warp_any(seen.kept != 0) &&
                         takes_digits(row.query, seen, pages_.scales(block, at_.lane.index));
      if (at_.lane.index == 0) Shared<std::int32_t>(WidePlace::kTaking).store(at_.warp, takes);
    }
    sync_block();
  }

  // The thread's key with all rows.
  INTFLASH_DEVICE void multiply_key(std::int32_t block) const {
    const Shared<std::int32_t> dots(WidePlace::kDots);
    const std::int32_t token = at_.thread % kBlockTokens;
    const std::int32_t dim = pages_.head_dim();
    const std::int8_t* key = pages_.keys(2 * block + at_.thread / kBlockTokens);
    if (key != nullptr) key += token / 16 * 16 * dim + token % 16 * 4;
    for (std::int32_t r = 0; r < kRows; ++r) {
      std::int32_t dot = key == nullptr ? 0 : product_of(key, dim, WidePlace::kCodes, r);
      if (call_.has_digits() && key != nullptr &&
          Shared<std::int32_t>(WidePlace::kTaking).load(r) != 0) {
        const std::int32_t mixed = product_of(key, dim, WidePlace::kDigits, r) +
                                   product_of(key + kBlockTokens * dim, dim, WidePlace::kCodes, r);
        dot = add_digits(dot, mixed, rows_.load(r).query.digit_bits());
      }
      dots.store(r * kScoreBlock + at_.thread, dot);
    }
  }

  // P and the outcome of the warp's row.
  INTFLASH_DEVICE void weigh(std::int32_t block) const {
    const std::int32_t r = at_.warp;
    const TileRow row = rows_.load(r);
    LaneProducts products{};
    products.kept = kept_keys(row, first_key(block));
    const ScoreActs acts = masks_.acts_of(r, first_key(block), products.kept);
    RowOutcome outcome{};
    std::uint32_t quantized = 0;
    outcome.is_active = warp_any(products.kept != 0) ? 1 : 0;
    if (outcome.is_active != 0) {
      const FourSums sums =
          Shared<FourSums>(WidePlace::kDots).load(r * (kScoreBlock / 4) + at_.lane.index);
      for (std::int32_t i = 0; i < kLaneKeys; ++i) products.dot[i] = sums.output[i];
      outcome.weight =
          weigh_row(row.query, products, pages_.scales(block, at_.lane.index), acts, quantized);
    }
    Shared<std::uint32_t>(WidePlace::kWeights)
        .store(r * (kScoreBlock / 4) + at_.lane.index, quantized);
    if (at_.lane.index == 0) Shared<RowOutcome>(WidePlace::kOutcomes).store(r, outcome);
  }

  // Sums of the rows' weights times a channel of a block of 64 tokens.
  INTFLASH_DEVICE void add_channel(std::int32_t block, std::int32_t c,
                                   std::int32_t (&sum)[kRows]) const {
    const std::int8_t* const values = pages_.values(block);
    if (values == nullptr) return;
    const auto* const words =
        reinterpret_cast<const std::uint32_t*>(values) + c / 16 * 256 + c % 16;
    const Shared<std::uint32_t> weights(WidePlace::kWeights);
    for (std::int32_t i = 0; i < kBlockTokens / 4; ++i) {
      const std::uint32_t value = words[16 * i];
      INTFLASH_UNROLL
      for (std::int32_t r = 0; r < kRows; ++r)
        sum[r] = add_four_u8(
            sum[r], weights.load(r * (kScoreBlock / 4) + block % 2 * (kBlockTokens / 4) + i),
            value);
    }
  }
  INTFLASH_DEVICE void add_values(std::int32_t block, States& state) const {
    // All threads have both rows' numbers.
    float gain[kRows], factor[kRows];
    INTFLASH_UNROLL
    for (std::int32_t r = 0; r < kRows; ++r) {
      const RowOutcome outcome = Shared<RowOutcome>(WidePlace::kOutcomes).load(r);
      factor[r] = 1.0f;
      gain[r] = outcome.is_active != 0 ? state.enter(r, outcome.weight, factor[r]) : 0.0f;
    }
    if (factor[0] != 1.0f || factor[1] != 1.0f) state.scale(SumRows(factor, at_.lane.quad));
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < kChannels; ++i) {
      const std::int32_t c = at_.thread + i * kWideThreads;
      if (c >= pages_.head_dim_v()) continue;
      std::int32_t sum[kRows] = {};
      add_channel(2 * block, c, sum);
      add_channel(2 * block + 1, c, sum);
      INTFLASH_UNROLL
      for (std::int32_t r = 0; r < kRows; ++r) {
        float& accumulator = state.accumulator[i / 4][r][i % 4];
        accumulator = fused(static_cast<float>(sum[r]), gain[r], accumulator);
      }
    }
  }

  const CudaCall& call_;
  const TileThread& at_;
  DataMasks masks_;
  HeadPages<kDim, true> pages_;
  Shared<TileRow> rows_;
};

INTFLASH_DEVICE void write_wide_rows(const CudaCall& call, const TileThread& at,
                                     const States& state) {
  const auto dim = static_cast<std::int32_t>(call.head_dim_v);
  const float* const center = call.centers.value_of(at.request->tensor_batch, at.kv_head, dim);
  const Shared<float> out(WidePlace::kOut);
  SunkRow sunk[kRows];
  OutScale scale[kRows];
  INTFLASH_UNROLL
  for (std::int32_t r = 0; r < kRows; ++r) {
    sunk[r] = add_sink(call, at, at.first_row + r, state.reference[r], state.row_sum[r]);
    scale[r] = out_scale(call, sunk[r], center);
    INTFLASH_UNROLL
    for (std::int32_t i = 0; i < kChannels; ++i) {
      const std::int32_t c = at.thread + i * kWideThreads;
      if (c < dim)
        out.store(r * dim + c, scale[r].apply(state.accumulator[i / 4][r][i % 4], center, c));
    }
  }
  sync_block();
  INTFLASH_UNROLL
  for (std::int32_t r = 0; r < kRows; ++r) {
    if (at.warp != r || at.first_row + r > at.last_row) continue;
    const Shared<float> row(WidePlace::kOut + static_cast<std::size_t>(r * dim) * 4);
    if (call.rotates_values) transform_rows(row, 1, dim, at.lane.index);
    write_row(call, at, at.first_row + r, row, dim, center, sunk[r], scale[r].factor > 0.0f);
  }
  sync_block();  // before the next tile's
}

INTFLASH_DEVICE void attend_wide_item(const CudaCall& call, std::int32_t item,
                                      std::int32_t worker) {
  const CudaRequest& request = call.requests[request_of(call, &CudaRequest::first_item, item)];
  const auto own = static_cast<std::int32_t>(item - request.first_item);
  const auto parts = static_cast<std::int32_t>(request.num_parts);
  const TileThread at = wide_thread(call, request, own / parts, own % parts);
  if (at.thread < kRows)
    Shared<TileRow>(WidePlace::kTileRows)
        .store(at.thread, make_row(call, request, at.kv_head, at.first_row + at.thread,
                                   static_cast<std::int32_t>(call.head_dim)));
  load_codes(call, at, call.query_codes, WidePlace::kCodes);
  if (call.has_digits()) load_codes(call, at, call.query_digits, WidePlace::kDigits);
  sync_block();
  WaitingStates<kStateDim> waiting(wide_slots(call.states, worker * call.waiting_states, at));
  States state;
  const BlockRange range = seen_blocks(call, at);
  if (range.begin < range.end) WideItem(call, at).attend(range, waiting, state);
  waiting.finish(state);
  if (parts > 1) {
    wide_slots(call.part_states, part_state(at, at.part), at).store(0, 0, state);
  } else {
    write_wide_rows(call, at, state);
  }
}

INTFLASH_KERNEL(kWideThreads)
attend_wide_tiles(CudaCall call) {
  if (call.findings->refused != 0) return;
  const std::int32_t worker = block_place().x;
  const auto items = static_cast<std::int32_t>(call.num_items);
  const auto workers = static_cast<std::int32_t>(call.num_workers);
  for (std::int32_t item = items - 1 - worker; item >= 0; item -= workers)
    attend_wide_item(call, item, worker);
}

INTFLASH_KERNEL(kWideThreads)
merge_wide_parts(CudaCall call) {
  if (call.findings->refused != 0) return;
  const std::int32_t worker = block_place().x;
  const auto merges = static_cast<std::int32_t>(call.num_merges);
  for (std::int32_t merge = worker; merge < merges;
       merge += static_cast<std::int32_t>(call.num_workers)) {
    const CudaRequest& request = call.requests[request_of(call, &CudaRequest::first_merge, merge)];
    const TileThread at =
        wide_thread(call, request, static_cast<std::int32_t>(merge - request.first_merge), 0);
    WaitingStates<kStateDim> waiting(wide_slots(call.states, worker * call.waiting_states, at));
    States state;
    for (std::int32_t part = 0; part < request.num_parts; ++part) {
      wide_slots(call.part_states, part_state(at, part), at).load(0, state);
      waiting.push(static_cast<std::int32_t>(request.first_part) + part, state);
    }
    waiting.finish(state);
    write_wide_rows(call, at, state);
  }
}

}  // namespace

cudaError_t enqueue_wide(const CudaCall& call) {
  Grid grid = {min_of(call.num_items, call.num_workers), 1, 1, kWideThreads, WidePlace::kBytes};
  const cudaError_t error = launch(attend_wide_tiles, grid, call.stream, call);
  if (error != cudaSuccess || call.num_merges == 0) return error;
  grid.x = min_of(call.num_merges, call.num_workers);
  return launch(merge_wide_parts, grid, call.stream, call);
}

}  // namespace intflash::internal
