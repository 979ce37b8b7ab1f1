// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Caches on a CUDA device, and batches over them, give the bits of the scalar port: its kernels'
// own source, on the emulated device.
#include <cstdint>
#include <iterator>
#include <vector>

#include <gtest/gtest.h>

#include "cuda_serving_uses.h"
#include "emulated_cuda.h"
#include "pairwise.h"
#include "seed.h"

namespace intflash::internal {
namespace {

void expect_equal(const Outcome& found, const Outcome& expected) {
  ASSERT_EQ(found.attended.size(), expected.attended.size());
  for (std::size_t i = 0; i < expected.attended.size(); ++i) {
    EXPECT_TRUE(found.attended[i].out == expected.attended[i].out) << "out of batch " << i;
    EXPECT_TRUE(found.attended[i].lse == expected.attended[i].lse) << "lse of batch " << i;
  }
  EXPECT_TRUE(found.saved == expected.saved) << "files";
  EXPECT_TRUE(found.exported == expected.exported) << "rows in f32";
}

// ---- A pairwise cover of what the device serves ----

// By case: requests of a batch.
const std::vector<Lengths> kBatches[] = {
    {{70, 3}, {1, 1}, {200, 17}, {64, 0}},
    {{129, 65}, {300, 1}},
    {{1100, 1}, {5, 5}, {128, 2}},
    {{2100, 2}},
};

constexpr RuleMask kMasks[] = {{INTFLASH_MASK_NONE, 0, 0, 0},
                               {INTFLASH_MASK_CAUSAL, 0, 0, 0},
                               {INTFLASH_MASK_WINDOW, 90, 0, 0},
                               {INTFLASH_MASK_WINDOW, 0, -1, 0},
                               {INTFLASH_MASK_PREFIX, 0, 0, 66}};
struct HeadDims {
  std::int64_t key, value;
};
constexpr HeadDims kHeadDims[] = {{64, 64}, {80, 80}, {96, 96},   {128, 128}, {256, 256},
                                  {56, 72}, {128, 8}, {192, 128}, {320, 328}};
constexpr std::int64_t kPageSizes[] = {64, 128, 256};
constexpr intflash_dtype kDtypes[] = {INTFLASH_F32, INTFLASH_F16, INTFLASH_BF16};
constexpr intflash_dtype kMaskDtypes[] = {INTFLASH_F32, INTFLASH_F32, INTFLASH_F16, INTFLASH_BF16,
                                          INTFLASH_BOOL};
constexpr float kMagnitudes[] = {1, 8, 1e-3f};

enum Factor {
  kBatch,
  kTables,
  kMask,
  kHeadDim,
  kPageSize,
  kHeads,
  kCodec,
  kDigits,
  kRotate,
  kCentered,
  kRope,
  kQueryDtype,
  kKeyDtype,
  kValueDtype,
  kOutDtype,
  kMagnitude,
  kLse,
  kSinks,
  kCap,
  kAdditive,
  kMaskHeads,
  kSlopes,
  kTree,
  kLayers,
  kSomeKeys,
  kDropped,
  kMultiprocessors,
  kNumFactors
};

ServingCase case_of(const std::vector<int>& row) {
  const auto level = [&](Factor f) { return static_cast<std::size_t>(row[f]); };
  ServingCase s{};
  CacheCase& c = s.cache;
  s.lengths = kBatches[level(kBatch)];
  s.tables = static_cast<Tables>(level(kTables));
  s.mask = kMasks[level(kMask)];
  c.head_dim = kHeadDims[level(kHeadDim)].key;
  c.head_dim_v = kHeadDims[level(kHeadDim)].value;
  c.page_size = kPageSizes[level(kPageSize)];
  c.num_kv_heads = level(kHeads) == 0 ? 1 : 2;
  c.group_size = level(kHeads) == 2 ? 4 : 1;
  c.codec = level(kCodec) == 0 ? INTFLASH_CODEC_INT8 : INTFLASH_CODEC_INT8_WIDE;
  c.score_digits = level(kDigits) == 2 && level(kCodec) == 0 ? 1 : row[kDigits];
  c.rotate = level(kRotate) == 1;
  c.centered = level(kCentered) == 1;
  c.has_rope = level(kRope) > 0;
  c.pairing = level(kRope) == 1 ? INTFLASH_ROPE_ADJACENT : INTFLASH_ROPE_HALVES;
  c.rope_dim = level(kRope) == 1 ? c.head_dim : 48;
  c.query_dtype = kDtypes[level(kQueryDtype)];
  c.key_dtype = kDtypes[level(kKeyDtype)];
  c.value_dtype = kDtypes[level(kValueDtype)];
  c.out_dtype = kDtypes[level(kOutDtype)];
  c.query_magnitude = c.key_magnitude = kMagnitudes[level(kMagnitude)];
  c.lse = level(kLse) == 1;
  c.sinks = level(kSinks) == 1;
  c.score_cap = level(kCap) == 1 ? 1.5f : 0;
  c.masks.additive = level(kAdditive) > 0;
  c.masks.dtype = kMaskDtypes[level(kAdditive)];
  c.masks.by_head = level(kMaskHeads) == 1;
  c.masks.slopes = level(kSlopes) == 1;
  c.masks.tree = level(kTree) == 1;
  c.num_layers = level(kLayers) == 1 ? 2 : 1;
  s.some_keys = level(kSomeKeys) == 1;
  s.dropped = level(kDropped) == 1;
  s.multiprocessors = level(kMultiprocessors) == 0 ? 1 : 16;
  return s;
}

std::vector<ServingCase> pairwise_cases() {
  std::vector<int> levels(kNumFactors, 2);
  levels[kBatch] = std::size(kBatches);
  levels[kMask] = std::size(kMasks);
  levels[kHeadDim] = std::size(kHeadDims);
  levels[kTables] = levels[kPageSize] = levels[kHeads] = levels[kDigits] = levels[kRope] = 3;
  levels[kQueryDtype] = levels[kKeyDtype] = levels[kValueDtype] = levels[kOutDtype] = 3;
  levels[kMagnitude] = std::size(kMagnitudes);
  levels[kAdditive] = std::size(kMaskDtypes);
  std::vector<ServingCase> cases;
  const auto any = [](int, int, int, int) { return true; };
  for (const std::vector<int>& row : pairwise_cover(levels, any)) cases.push_back(case_of(row));
  return cases;
}

class CudaServing : public testing::TestWithParam<int> {};

TEST_P(CudaServing, GivesTheBitsOfTheScalarPort) {
  static const std::vector<ServingCase> cases = pairwise_cases();
  ServingCase s = cases[static_cast<std::size_t>(GetParam())];
  s.cache.seed = static_cast<std::uint32_t>(seed_from_test_name());
  cut_for_multiprocessors(s.multiprocessors);
  const auto use = s.tables == Tables::kSequences ? use_sequences : use_pages;
  expect_equal(use(s, Place::kDevice), use(s, Place::kHost));
  cut_for_multiprocessors(1);
}

INSTANTIATE_TEST_SUITE_P(Pairwise, CudaServing,
                         testing::Range(0, static_cast<int>(pairwise_cases().size())));

// ---- What pairs do not reach ----

// Spans 1, 2 and 3, a part each: the latter two are one node of the tree; and spans 1 and 2 in a
// part that ends behind them. The query sees more keys than are attended.
class CudaParts : public testing::TestWithParam<std::int64_t> {};

TEST_P(CudaParts, AreMergedByTheTreeWhicheverIsTheFirst) {
  CacheCase c;
  c.head_dim = c.head_dim_v = GetParam();
  c.num_kv_heads = c.group_size = 1;
  c.num_pages = 70;
  const auto use = [&](Place place, std::int64_t key_end) {
    CacheSide side(c, place);
    const std::int32_t sequence = side.create_sequence();
    side.append({sequence}, {4200}, 1);
    intflash_request request = request_of(1, 4200);
    request.key_begin = 1024;
    request.key_end = key_end;
    intflash_batch_args args{};
    args.sequences = &sequence;
    return side.attend({request}, args, 2);
  };
  EXPECT_TRUE(use(Place::kDevice, 3072) == use(Place::kHost, 3072));
  cut_for_multiprocessors(16);
  EXPECT_TRUE(use(Place::kDevice, 4096) == use(Place::kHost, 4096));
  cut_for_multiprocessors(1);
}

INSTANTIATE_TEST_SUITE_P(HeadDims, CudaParts, testing::Values(64, 256));

// Values of half a tile of 16 channels more; of heads that are laid out at once, and row by row.
TEST(CudaPages, HaveZerosBehindTheLastChannels) {
  for (const std::int64_t head_dim_v : {40, 200, 264}) {
    CacheCase c;
    c.head_dim_v = head_dim_v;
    const auto use = [&](Place place) {
      CacheSide side(c, place);
      const std::int32_t sequence = side.create_sequence();
      side.append({sequence}, {130}, 1);
      return side.save(sequence);
    };
    EXPECT_TRUE(use(Place::kDevice) == use(Place::kHost)) << head_dim_v;
  }
}

}  // namespace
}  // namespace intflash::internal
